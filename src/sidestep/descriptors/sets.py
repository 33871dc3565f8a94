"""Descriptor sets: bytes in, a set that is known to be whole out."""

from __future__ import annotations

from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import TYPE_CHECKING, Final

from sidestep.errors import MissingDependency

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from google.protobuf.descriptor import Descriptor, ServiceDescriptor
    from google.protobuf.descriptor_pb2 import FileDescriptorProto
    from google.protobuf.descriptor_pool import DescriptorPool

MAX_BYTES: Final = 32 * 1024 * 1024
"""A larger set is refused; all of Google's own published APIs take less."""
WITH_IMPORTS: Final = "a descriptor set with everything it imports (protoc --include_imports --descriptor_set_out=FILE)"
_NOT_OWN: Final = ("google.", "grpc.")
"""Packages whose services are taken only where they are named: they come along as imports."""


class Unusable(Exception):
    """A descriptor set, or what a service says of its routes, cannot be used: why, what was found, what is allowed."""

    def __init__(self, message: str, *, found: str = "", allowed: str = "") -> None:
        super().__init__(message)
        self.message, self.found, self.allowed = message, found, allowed


def missing(error: ModuleNotFoundError) -> MissingDependency:
    """The error of a package that the extra ``transcode`` brings."""
    package = (error.name or "").partition(".")[0]
    return MissingDependency(
        f"transcoding needs a package that is not installed ({package})", hint="pip install 'sidestep[transcode]'"
    )


@dataclass(frozen=True)
class DescriptorSet:
    """A set in which everything is found that anything in it refers to."""

    content: bytes = field(repr=False)
    """As Envoy can read it: each file after all that it imports."""
    files: Mapping[str, FileDescriptorProto]
    pool: DescriptorPool

    @property
    def services(self) -> dict[str, ServiceDescriptor]:
        """Every service, by its full name, in the order of the files."""
        found = {}
        for name, file in self.files.items():
            services = self.pool.FindFileByName(name).services_by_name
            found.update({services[each.name].full_name: services[each.name] for each in file.service})
        return found

    def chosen(self, names: Sequence[str]) -> list[ServiceDescriptor]:
        """The services of these names; without any, every one but those of google.* and grpc.*. Raises `Unusable`."""
        services = self.services
        for name in names:
            if name not in services:
                near = get_close_matches(name, services, 1)
                listing = ", ".join(services) or "none: the set holds no service"
                message = f"no such service in the set{f', did you mean {near[0]}?' if near else ''}"
                raise Unusable(message, found=name, allowed=listing)
        own = [name for name in services if not name.startswith(_NOT_OWN)]
        chosen = [services[name] for name in names or own]
        if not chosen:
            raise Unusable("the set holds no service", allowed="a set with at least one service of your own")
        for service in chosen:
            if not service.methods:
                raise Unusable("the service has no methods", found=service.full_name, allowed="at least one method")
        return chosen


def read(content: bytes) -> DescriptorSet:
    """Reads a ``FileDescriptorSet``. Raises `Unusable` where it is none, or not whole."""
    files = _parsed(content)
    for name, file in files.items():
        for imported in file.dependency:
            if imported not in files:
                raise Unusable(f"{name} imports {imported}, which is not in the set", allowed=WITH_IMPORTS)
    ordered = {name: files[name] for name in _imports_first(files)}
    return DescriptorSet(content if [*ordered] == [*files] else encode(ordered.values()), ordered, _pool(ordered))


def encode(files: Iterable[FileDescriptorProto]) -> bytes:
    """A ``FileDescriptorSet`` of these files."""
    from google.protobuf.descriptor_pb2 import FileDescriptorSet

    return FileDescriptorSet(file=files).SerializeToString(deterministic=True)


def _parsed(content: bytes) -> dict[str, FileDescriptorProto]:
    try:
        import google.api.annotations_pb2  # noqa: F401 (registers google.api.http, to be read with the method's options)
        from google.protobuf.descriptor_pb2 import FileDescriptorSet
        from google.protobuf.message import DecodeError
    except ModuleNotFoundError as error:
        raise missing(error) from None
    if not content:
        raise Unusable("the file is empty", allowed=WITH_IMPORTS)
    if len(content) > MAX_BYTES:
        raise Unusable("the file is too large", found="more", allowed=f"at most {MAX_BYTES:,} bytes")
    try:
        parsed = FileDescriptorSet.FromString(content)
    except DecodeError:
        raise Unusable("not a descriptor set", found=_kind(content), allowed=WITH_IMPORTS) from None
    if not parsed.file or not all(file.name for file in parsed.file):
        raise Unusable("not a descriptor set", found=_kind(content), allowed=WITH_IMPORTS)
    return {file.name: file for file in parsed.file}


def _kind(content: bytes) -> str:
    """What somebody may have given in place of a descriptor set."""
    try:
        text = content[:4096].decode()
    except UnicodeDecodeError:
        return "bytes of another kind"
    return "the text of a .proto file (give it as `protos`)" if "syntax" in text or "message" in text else "text"


def _pool(files: Mapping[str, FileDescriptorProto]) -> DescriptorPool:
    from google.protobuf.descriptor_pool import DescriptorPool as Pool

    pool = Pool()
    try:
        for file in files.values():
            pool.Add(file)
            _check_fields(pool.FindFileByName(file.name).message_types_by_name.values())
    except (TypeError, ValueError) as error:
        raise Unusable(f"the set contradicts itself: {_first_line(error)}", allowed=WITH_IMPORTS) from None
    return pool


def _check_fields(messages: Iterable[Descriptor]) -> None:
    """Refuses what the pool takes though nothing can be made of it. Raises `ValueError`."""
    for message in messages:
        # Names are decoded when they are read, and nobody has read them yet.
        names = [(each.name, each.json_name) for each in message.fields]
        if message.GetOptions().map_entry and [name for name, _ in names] != ["key", "value"]:
            raise ValueError(f"{message.full_name} is no entry of a map")
        _check_fields(message.nested_types)


def _first_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]


def _imports_first(files: Mapping[str, FileDescriptorProto]) -> list[str]:
    """The files in an order in which each comes after all that it imports. Raises `Unusable` for a cycle."""
    order: dict[str, None] = {}
    for start in files:
        open_files: dict[str, list[str]] = {}
        pending = [start]
        while pending:
            name = pending[-1]
            open_files.setdefault(name, [each for each in files[name].dependency if each not in order])
            if name in order or not open_files[name]:
                order[name] = None
                pending.pop()
                continue
            following = open_files[name].pop()
            if following in open_files and following not in order:
                raise Unusable(f"{name} and {following} import each other", allowed=WITH_IMPORTS)
            pending.append(following)
    return list(order)

"""``transcode`` brought together with the files it names: descriptor sets read, ``.proto`` files compiled."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path as FilePath
from typing import TYPE_CHECKING, TypeAlias

from sidestep.descriptors import routes, sets
from sidestep.descriptors.protoc import Complaint, NotCompiled
from sidestep.descriptors.sets import Unusable
from sidestep.errors import Problem
from sidestep.spec.documents import Document, Path, printable, shown
from sidestep.spec.transcode import Transcode, Transcoding

if TYPE_CHECKING:
    from sidestep.spec.resolve import Resolution

Compile: TypeAlias = Callable[[FilePath, Sequence[str], Sequence[str]], bytes]
"""Compiles ``.proto`` files: a directory, files and import paths in it → a descriptor set. Raises `NotCompiled`."""


class Descriptors:
    """Finds what ``transcode`` names. The same words in the same directory are looked up once."""

    def __init__(self, compile_protos: Compile) -> None:
        self._compile = compile_protos
        self._known: dict[tuple[FilePath, str], Transcoding] = {}

    def attach(self, resolution: Resolution, index: int, transcode: Transcode) -> None:
        """Gives the ports of ``spec.egress[index]`` that speak gRPC their REST side, or reports why not."""
        document, egress = resolution.document, ("spec", "egress", index)
        ports = [at for at, where in enumerate(resolution.paths) if where == egress]
        able = [at for at in ports if resolution.ports[at].protocol.is_http2]
        if ports and not able:
            found = ", ".join(dict.fromkeys(resolution.ports[at].protocol for at in ports))
            allowed = "a port of protocol GRPC or HTTP2"
            where = (*egress, "transcode")
            resolution.problems.append(document.problem(where, "no gRPC passes here", found=found, allowed=allowed))
        if any(resolution.ports[at].listen is None for at in able):
            message, allowed = "only a listener of its own is transcoded", "an address as `listen`"
            found = "listen: none"
            resolution.problems.append(document.problem((*egress, "listen"), message, found=found, allowed=allowed))
        try:
            transcoding = self._transcoding(FilePath(document.file).parent, transcode)
        except NotCompiled as refusal:
            resolution.problems += _from_compiler(document, (*egress, "transcode", "protos"), refusal.complaints)
        except _Unfit as unfit:
            resolution.problems.append(unfit.problem(document, (*egress, "transcode", unfit.field)))
        else:
            for at in able:
                resolution.ports[at] = replace(resolution.ports[at], transcoding=transcoding)

    def _transcoding(self, directory: FilePath, transcode: Transcode) -> Transcoding:
        key = (directory, transcode.model_dump_json())
        if key not in self._known:
            self._known[key] = self._found(directory, transcode)
        return self._known[key]

    def _found(self, directory: FilePath, transcode: Transcode) -> Transcoding:
        field = "descriptor" if transcode.descriptor else "protos"
        try:
            found = sets.read(self._content(directory, transcode))
            field = "services" if transcode.services else field
            services = found.chosen(transcode.services)
            routes.of(services)
        except Unusable as error:
            raise _Unfit(field, error) from None
        names = tuple(service.full_name for service in services)
        return Transcoding(transcode, found.content, names, routes.streams(services))

    def _content(self, directory: FilePath, transcode: Transcode) -> bytes:
        if transcode.protos:
            return self._compile(directory, transcode.protos, transcode.import_paths)
        path = directory / (transcode.descriptor or "")
        try:
            with path.open("rb") as stream:
                return stream.read(sets.MAX_BYTES + 1)
        except OSError as error:
            reason = f"{path}: {error.strerror or error}"
            raise Unusable(reason, found=shown(transcode.descriptor), allowed=sets.WITH_IMPORTS) from None


class _Unfit(Exception):
    """What a field of ``transcode`` names cannot be used."""

    def __init__(self, field: str, why: Unusable) -> None:
        self.field, self._why = field, why

    def problem(self, document: Document, path: Path) -> Problem:
        """The same, at its place in the document."""
        why = self._why
        return document.problem(path, why.message, found=printable(why.found), allowed=why.allowed)


def _from_compiler(document: Document, path: Path, complaints: Sequence[Complaint]) -> Iterator[Problem]:
    """The compiler's words, at the places in the ``.proto`` files that they are about."""
    for complaint in complaints:
        file = FilePath(document.file).parent / complaint.file
        message = printable(complaint.message)
        if file.is_file() and complaint.line:
            yield Problem(str(file), complaint.line, complaint.column, "", "", "", message)
        else:
            yield document.problem(
                path, f"{printable(complaint.file)}: {message}", allowed="files that protoc compiles"
            )

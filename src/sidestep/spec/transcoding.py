"""``transcode`` brought together with the files it names: descriptor sets read, ``.proto`` files compiled."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path as FilePath
from typing import TYPE_CHECKING, TypeAlias

from sidestep.descriptors import routes, sets
from sidestep.descriptors.protoc import Complaint, NotCompiled
from sidestep.descriptors.sets import Unusable
from sidestep.errors import Problem, printable
from sidestep.files import read
from sidestep.spec.base import Finding, Unknown
from sidestep.spec.documents import Path, shown
from sidestep.spec.transcode import Transcode, Transcoding

if TYPE_CHECKING:
    from sidestep.spec.resolve import EgressPort, Resolution

Compile: TypeAlias = Callable[[FilePath, Sequence[str], Sequence[str]], bytes]
"""Compiles ``.proto`` files: a directory, files and import paths in it → a descriptor set. Raises `NotCompiled`."""


class Descriptors:
    """Finds what ``transcode`` names. The same words in the same directory are looked up once."""

    def __init__(self, compile_protos: Compile) -> None:
        self._compile = compile_protos
        self._known: dict[tuple[FilePath, str], Transcoding] = {}

    def attach(self, resolution: Resolution, egress: Path, transcode: Transcode, ports: Sequence[int]) -> None:
        """Gives those of an egress' ports that speak gRPC their REST side, or reports why not.

        ``ports`` are their places in the resolution. Raises `Unknown` where the document says too little.
        """
        able = [at for at in ports if resolution.ports[at].protocol.is_http2]
        resolution.say(egress, _no_grpc([resolution.ports[at] for at in ports]))
        if transcode.says("descriptor") == transcode.says("protos"):
            raise Unknown
        directory = FilePath(resolution.document.file).parent
        try:
            transcoding = self._transcoding(directory, transcode)
        except NotCompiled as refusal:
            for complaint in refusal.complaints:
                self._complain(resolution, (*egress, "transcode", "protos"), directory, complaint)
        except _Unfit as unfit:
            resolution.say((*egress, "transcode"), [unfit.finding])
        else:
            for at in able:
                resolution.ports[at] = resolution.ports[at]._replace(transcoding=transcoding)

    def _complain(self, resolution: Resolution, path: Path, directory: FilePath, complaint: Complaint) -> None:
        """Reports the compiler's words, at the place in the ``.proto`` file that they are about."""
        file = directory / complaint.file
        if file.is_file() and complaint.line:
            message = printable(complaint.message)
            resolution.report.take([Problem(str(file), complaint.line, complaint.column, "", "", "", message)])
        else:
            message = f"{complaint.file}: {complaint.message}"
            resolution.say(path, [Finding((), message, allowed="files that protoc compiles")])

    def _transcoding(self, directory: FilePath, transcode: Transcode) -> Transcoding:
        key = (directory, repr(transcode))
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
            return read(path, sets.MAX_BYTES)
        except OSError as error:
            reason = f"{path}: {error.strerror or error}"
            raise Unusable(reason, found=shown(transcode.descriptor), allowed=sets.WITH_IMPORTS) from None


class _Unfit(Exception):
    """What a field of ``transcode`` names cannot be used."""

    def __init__(self, field: str, why: Unusable) -> None:
        self.finding = Finding((field,), why.message, why.found, why.allowed)


def _no_grpc(ports: Sequence[EgressPort]) -> Iterator[Finding]:
    """Why no port of an egress, or not every one, can be transcoded."""
    able = [port for port in ports if port.protocol.is_http2]
    if ports and not able:
        found = ", ".join(dict.fromkeys(port.protocol for port in ports))
        yield Finding(("transcode",), "no gRPC passes here", found, "a port of protocol GRPC or HTTP2")
    if any(port.listen is None for port in able):
        message = "only a listener of its own is transcoded"
        yield Finding(("listen",), message, "listen: none", "an address as `listen`")

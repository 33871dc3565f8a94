"""Files to a `Spec`: every document read, checked and resolved, and every problem of all of them reported at once.

A document that is wrong in places goes on with what is sound in it (`sidestep.spec.partial`), so that one mistake hides
none that has nothing to do with it.
"""

from __future__ import annotations

import os
import sys
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from contextlib import suppress
from datetime import datetime
from errno import EBADF
from pathlib import Path as FilePath
from typing import TYPE_CHECKING, Final, NamedTuple, TypeVar

from pydantic import TypeAdapter

from sidestep.errors import CertificateError, Problem, SpecError
from sidestep.files import read as read_file
from sidestep.spec import clients, htpasswd, inbound
from sidestep.spec.base import Finding, Unknown
from sidestep.spec.clashes import clashes
from sidestep.spec.documents import MAX_BYTES, Document, Path, read, shown
from sidestep.spec.model import AnyWorkload, Mesh, Workload, WorkloadSpec
from sidestep.spec.report import Report
from sidestep.spec.resolve import Machine, Resolution
from sidestep.spec.services import Services
from sidestep.spec.validation import validated

if TYPE_CHECKING:
    from sidestep.spec.transcoding import Compile

STDIN: Final = "-"
T = TypeVar("T")


class Spec(NamedTuple):
    """All documents of some files, without a problem."""

    meshes: tuple[Mesh, ...]
    machines: tuple[Machine, ...]
    warnings: tuple[str, ...]
    """What is allowed and still worth a second look."""


def schema() -> dict[str, object]:
    """The JSON Schema of a document of either kind, for editors."""
    adapter: TypeAdapter[Mesh | Workload] = TypeAdapter(Mesh | Workload)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **adapter.json_schema(by_alias=True)}


def load(files: Iterable[str], now: datetime, compile_protos: Compile | None = None) -> Spec:
    """Reads files (``-`` is standard input) that hold documents of both kinds, in any order; one named twice, once.

    ``now`` decides whether root certificates are in date; ``compile_protos`` is asked where ``transcode`` names .proto
    files, and without it ``transcode`` is left out. Raises `SpecError` with every problem that was found.
    """
    return _Loader(now, compile_protos).load(files)


class _Offer(NamedTuple):
    """A mesh, and what workloads take from it."""

    mesh: Mesh
    name: str | None
    services: Services | None
    trust_domain: str | None
    roots: bytes


class _Loader:
    def __init__(self, now: datetime, compile_protos: Compile | None) -> None:
        self._now = now
        self._compile_protos = compile_protos
        self._report = Report()
        self._named: dict[Hashable, Document] = {}
        self._meshes: list[tuple[Document, Mesh]] = []
        self._workloads: list[tuple[Document, Workload]] = []
        self._again: list[tuple[Document, Workload]] = []
        """Workloads of a name that another has: they may be copies of it, which take no address from it."""
        self._unread = False
        """Whether a document could not be taken: what seems to be missing may stand in it."""

    def load(self, files: Iterable[str]) -> Spec:
        for file in _each_once(files):
            documents, problems = _read_file(file)
            self._report.take(problems)
            self._unread |= bool(problems)
            for document in documents:
                self._take(document)
        machines = self._resolve()
        if problems := self._report.problems():
            raise SpecError(problems)
        return Spec(tuple(mesh for _, mesh in self._meshes), tuple(machines), tuple(_warnings(machines)))

    def _take(self, document: Document) -> None:
        model = validated(document, self._report)
        if model is None:
            self._unread = True
            return
        name = _told(lambda: _name(model))
        other = self._named.setdefault(name, document) if name else document
        if other is not document:
            message = f"the name is already taken at {other.file}:{other.line}"
            self._report.add(document, Finding(("metadata", "name"), message, allowed="a name of its own"))
        if isinstance(model, Workload):
            (self._workloads if other is document else self._again).append((document, model))
        elif other is document:
            self._meshes.append((document, model))

    def _resolve(self) -> list[Machine]:
        offers = [self._offer(document, mesh) for document, mesh in self._meshes]
        machines, together = [], defaultdict(list)
        for document, workload in self._workloads:
            machine, resolution = self._machine(document, workload, offers)
            together[_shared(workload)].append((workload, resolution))
            machines += [machine] if machine else []
        for document, workload in self._again:
            self._machine(document, workload, offers)
        for document, finding in clashes(together.values()):
            self._report.add(document, finding)
        return machines

    def _offer(self, document: Document, mesh: Mesh) -> _Offer:
        return _Offer(
            mesh,
            _told(lambda: mesh.metadata.name),
            _told(lambda: _services(document, mesh)),
            _told(lambda: mesh.spec.trust_domain),
            _told(lambda: self._roots(document, mesh)) or b"",
        )

    def _machine(
        self, document: Document, workload: Workload, offers: Sequence[_Offer]
    ) -> tuple[Machine | None, Resolution]:
        offer = _told(lambda: self._offer_to(document, workload, offers))
        resolution = Resolution(document, self._report, offer.services if offer else None)
        if workload.knows("spec"):
            resolution.take(workload.spec, offer.trust_domain if offer else None)
            with suppress(Unknown):
                self._transcode(workload.spec, resolution)
        users = _told(lambda: self._credentials(document, workload)) or b""
        if offer is None:
            return None, resolution
        egress, ingress = tuple(resolution.ports), tuple(resolution.ingress)
        return Machine(offer.mesh, workload, egress, ingress, offer.roots, users), resolution

    def _offer_to(self, document: Document, workload: Workload, offers: Sequence[_Offer]) -> _Offer | None:
        name = workload.spec.get("mesh")
        unnamed = [offer for offer in offers if offer.name is None]
        fitting = [offer for offer in offers if offer.name == name] or unnamed if name else offers
        if len(fitting) == 1:
            return fitting[0]
        if workload.spec.knows("mesh") and not self._unread and not (name and unnamed):
            message = "there are several meshes, so say which" if fitting else "no document holds its Mesh"
            allowed = ", ".join(sorted(offer.name for offer in offers if offer.name))
            allowed = allowed or "a document of kind Mesh beside the Workload"
            self._report.add(document, Finding(("spec", "mesh"), message, shown(name) if name else "", allowed))
        return None

    def _transcode(self, workload: WorkloadSpec, resolution: Resolution) -> None:
        egress = enumerate(workload.egress or ())
        wanted = [(index, transcode) for index, each in egress if (transcode := each.get("transcode"))]
        if not wanted or not self._compile_protos:
            return
        from sidestep.spec.transcoding import Descriptors  # which imports protobuf: only where it is asked for

        descriptors, ports = Descriptors(self._compile_protos), defaultdict(list)
        for at, where in enumerate(resolution.paths):
            ports[where].append(at)
        for index, transcode in wanted:
            path: Path = ("spec", "egress", index)
            with suppress(Unknown):
                descriptors.attach(resolution, path, transcode, ports[path])

    def _roots(self, document: Document, mesh: Mesh) -> bytes:
        if mesh.spec.roots is None:
            return b""
        from sidestep.pki.pem import encode, read_roots  # which imports cryptography: only where there is a file

        def checked(content: bytes) -> bytes:
            return encode(read_roots(content, self._now, "the file"))  # and nothing else that the file may hold

        allowed = "a PEM file with the root certificates of the mesh, in date"
        return self._content(document, ("spec", "roots"), mesh.spec.roots, checked, allowed)

    def _credentials(self, document: Document, workload: Workload) -> bytes:
        of = workload.spec.clients
        if of is None or of.credentials is None:
            return b""
        return self._content(document, clients.CREDENTIALS, of.credentials, htpasswd.normal, htpasswd.ALLOWED)

    def _content(
        self, document: Document, path: Path, file: str, checked: Callable[[bytes], bytes], allowed: str
    ) -> bytes:
        """What is in a file that a document names, as ``checked`` returns it; reports why it cannot be used."""
        place = FilePath(document.file).parent / file
        try:
            return checked(read_file(place, MAX_BYTES))
        except (OSError, ValueError, CertificateError) as error:
            self._report.add(document, Finding(path, f"{place}: {_reason(error)}", shown(file), allowed))
            return b""


def _each_once(files: Iterable[str]) -> Iterable[str]:
    """The files, each of them where it is named first."""
    once: dict[str, str] = {}
    for file in files:
        once.setdefault(file if file == STDIN else os.path.realpath(file), file)
    return once.values()


def _read_file(file: str) -> tuple[list[Document], list[Problem]]:
    try:
        if file == STDIN:
            return read("<stdin>", _standard_input())
        with FilePath(file).open("rb") as stream:  # a pipe or a device, perhaps: no size is known beforehand
            return read(file, stream.read(MAX_BYTES + 1))
    except (OSError, ValueError) as error:
        message = f"cannot be read: {_reason(error)}"
        return [], [Problem(file, 0, 0, "", "", "a readable file", message)]


def _standard_input() -> bytes:
    if not sys.stdin:  # it was closed before the start
        raise OSError(EBADF, "it is closed")
    return sys.stdin.buffer.read(MAX_BYTES + 1)


def _reason(error: Exception) -> str:
    return (isinstance(error, OSError) and error.strerror) or str(error)


def _told(ask: Callable[[], T]) -> T | None:
    """What is asked for, or None where it is not known."""
    try:
        return ask()
    except Unknown:
        return None


def _name(model: Mesh | Workload) -> Hashable:
    """What no other document may be called."""
    if isinstance(model, Workload):
        return Workload, model.metadata.namespace, model.metadata.name
    return Mesh, model.metadata.name


def _shared(workload: Workload) -> Hashable:
    """What workloads of one machine have in common, and none of another machine has."""
    try:
        return workload.spec.machine
    except Unknown:
        return object()


def _services(document: Document, mesh: Mesh) -> Services:
    hosts = [("spec", "services", at, "host") for at, each in enumerate(mesh.spec.services) if each.get("host") is None]
    return Services(mesh.spec.services, map(document.at, hosts))


def _warnings(machines: Iterable[Machine]) -> Iterator[str]:
    for machine in machines:
        name = machine.workload.metadata.name
        for port in machine.egress:
            if port.listen and not port.listen.is_loopback and machine.workload.spec.clients is None:
                yield f"{name}: whoever reaches {port.listen} calls {port.service.host} as {machine.identity}"
        yield from clients.warnings(name, machine.workload.spec, machine.identity)
        yield from inbound.warnings(name, machine.ingress, machine.mesh.spec.trust_domain)
    for service in {port.service.host: port.service for machine in machines for port in machine.egress}.values():
        if service.unsafe_any_workload_of:
            yield f"{service.host}: any workload of {_whom(service.unsafe_any_workload_of)} may answer as this service"


def _whom(anyone: AnyWorkload) -> str:
    return f"namespace {anyone.namespace}" if anyone.namespace else f"trust domain {anyone.trust_domain}"

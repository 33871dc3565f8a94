"""Files to a `Spec`: every document read, checked and resolved, and every problem of all of them reported at once."""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from difflib import get_close_matches
from pathlib import Path as FilePath
from typing import TYPE_CHECKING, Final, TypeVar, get_args

from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from sidestep.errors import CertificateError, Problem, SpecError
from sidestep.spec import clients, htpasswd, inbound, proxy
from sidestep.spec.base import descriptions
from sidestep.spec.documents import MAX_BYTES, Document, Path, printable, read, shown
from sidestep.spec.model import API_VERSION, AnyWorkload, Mesh, Workload
from sidestep.spec.resolve import Machine, Resolution, Services, clashes

if TYPE_CHECKING:
    from sidestep.spec.transcoding import Compile

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

STDIN: Final = "-"
KINDS: Final[Mapping[str, type[Mesh] | type[Workload]]] = {"Mesh": Mesh, "Workload": Workload}


@dataclass(frozen=True)
class Spec:
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
    """Reads files (``-`` is standard input) that hold documents of both kinds, in any order.

    ``now`` decides whether root certificates are in date; ``compile_protos`` is asked where ``transcode`` names .proto
    files, and without it ``transcode`` is left out. Raises `SpecError` with every problem that was found.
    """
    return _Loader(now, compile_protos).load(files)


class _Loader:
    def __init__(self, now: datetime, compile_protos: Compile | None) -> None:
        self._now = now
        self._compile_protos = compile_protos
        self._problems: list[Problem] = []
        self._meshes: dict[str, tuple[Document, Mesh]] = {}
        self._workloads: dict[tuple[str, str], tuple[Document, Workload]] = {}
        self._unread = False
        """Whether a document could not be taken: what seems to be missing may stand in it."""

    def load(self, files: Iterable[str]) -> Spec:
        for file in files:
            documents, problems = _read_file(file)
            self._problems += problems
            self._unread |= bool(problems)
            for document in documents:
                self._take(document)
        self._check_services()
        machines = self._resolve()
        if self._problems:
            raise SpecError(self._problems)
        meshes = tuple(mesh for _, mesh in self._meshes.values())
        return Spec(meshes, tuple(machines), tuple(_warnings(machines)))

    def _take(self, document: Document) -> None:
        value = _validated(document)
        if isinstance(value, list):
            self._problems += value
            self._unread = True
        elif isinstance(value, Mesh):
            self._keep(self._meshes, value.metadata.name, document, value)
        else:
            self._keep(self._workloads, (value.metadata.namespace, value.metadata.name), document, value)

    def _keep(self, kept: dict[K, tuple[Document, V]], key: K, document: Document, value: V) -> None:
        if key in kept:
            path = ("metadata", "name")
            other = kept[key][0]
            line = other.problem(path, "").line
            self._problems.append(
                document.problem(path, f"the name is already taken at {other.file}:{line}", allowed="a name of its own")
            )
        else:
            kept[key] = (document, value)

    def _check_services(self) -> None:
        for document, mesh in self._meshes.values():
            for path, message, found in _repeated(mesh):
                self._problems.append(document.problem(path, message, found=found, allowed="each one once"))

    def _resolve(self) -> list[Machine]:
        services = {name: Services(mesh.spec.services) for name, (_, mesh) in self._meshes.items()}
        roots = {name: self._roots(document, mesh) for name, (document, mesh) in self._meshes.items()}
        machines, together = [], defaultdict(list)
        for document, workload in self._workloads.values():
            name = self._mesh_of(document, workload)
            if name is None:
                continue
            resolution = Resolution(document, services[name])
            resolution.take(workload, self._meshes[name][1].spec.trust_domain)
            self._transcode(workload, resolution)
            self._problems += resolution.problems
            self._problems += proxy.problems(document, workload.spec)
            self._problems += clients.problems(document, workload.spec)
            together[workload.spec.machine].append((workload, resolution))
            mesh, egress, ingress = self._meshes[name][1], tuple(resolution.ports), tuple(resolution.ingress)
            users = self._credentials(document, workload)
            machines.append(Machine(mesh, workload, egress, ingress, roots[name], users))
        self._problems += clashes(together.values())
        return machines

    def _transcode(self, workload: Workload, resolution: Resolution) -> None:
        wanted = [
            (index, egress.transcode) for index, egress in enumerate(workload.spec.egress or ()) if egress.transcode
        ]
        if wanted and self._compile_protos:
            from sidestep.spec.transcoding import Descriptors  # which imports protobuf: only where it is asked for

            descriptors = Descriptors(self._compile_protos)
            for index, transcode in wanted:
                descriptors.attach(resolution, index, transcode)

    def _mesh_of(self, document: Document, workload: Workload) -> str | None:
        name = workload.spec.mesh
        if name in self._meshes:
            return name
        if name is None and len(self._meshes) == 1:
            return next(iter(self._meshes))
        if not self._unread:
            several = name is None and self._meshes
            message = "there are several meshes, so say which" if several else "no document holds its Mesh"
            allowed = ", ".join(sorted(self._meshes)) or "a document of kind Mesh beside the Workload"
            found = shown(name) if name else ""
            self._problems.append(document.problem(("spec", "mesh"), message, found=found, allowed=allowed))
        return None

    def _roots(self, document: Document, mesh: Mesh) -> bytes:
        if mesh.spec.roots is None:
            return b""
        from sidestep.pki.pem import read_roots  # cryptography takes a while to import: only where there is a file

        path = FilePath(document.file).parent / mesh.spec.roots
        try:
            content = path.read_bytes()
            read_roots(content, self._now, "the file")
        except (OSError, CertificateError) as error:
            reason = (error.strerror or str(error)) if isinstance(error, OSError) else str(error)
            allowed = "a PEM file with the root certificates of the mesh, in date"
            self._problems.append(
                document.problem(("spec", "roots"), f"{path}: {reason}", found=shown(mesh.spec.roots), allowed=allowed)
            )
            return b""
        return content

    def _credentials(self, document: Document, workload: Workload) -> bytes:
        file = workload.spec.clients and workload.spec.clients.credentials
        if not file:
            return b""
        path = FilePath(document.file).parent / file
        try:
            with path.open("rb") as stream:
                return htpasswd.normal(stream.read(htpasswd.MOST + 1))
        except (OSError, ValueError) as error:
            reason = (error.strerror or str(error)) if isinstance(error, OSError) else str(error)
            problem = document.problem(
                clients.CREDENTIALS, f"{path}: {reason}", found=shown(file), allowed=htpasswd.ALLOWED
            )
            self._problems.append(problem)
            return b""


def _read_file(file: str) -> tuple[list[Document], list[Problem]]:
    try:
        if file == STDIN:
            return read("<stdin>", sys.stdin.buffer.read(MAX_BYTES + 1))
        with FilePath(file).open("rb") as stream:  # a pipe or a device, perhaps: no size is known beforehand
            return read(file, stream.read(MAX_BYTES + 1))
    except (OSError, ValueError) as error:
        reason = (error.strerror or str(error)) if isinstance(error, OSError) else str(error)
        return [], [Problem(printable(file), 0, 0, "", "", "a readable file", f"cannot be read: {reason}")]


def _validated(document: Document) -> Mesh | Workload | list[Problem]:
    value = document.value
    if not isinstance(value, dict):
        allowed = "a mapping with apiVersion, kind, metadata and spec"
        return [document.problem((), "not a document of ours", found=shown(value), allowed=allowed)]
    problems = []
    if value.get("apiVersion") != API_VERSION:
        found = shown(value.get("apiVersion"))
        problems.append(document.problem(("apiVersion",), "unknown version", found=found, allowed=API_VERSION))
    kind = value.get("kind")
    if not isinstance(kind, str) or kind not in KINDS:
        allowed = ", ".join(KINDS)
        return [*problems, document.problem(("kind",), "unknown kind", found=shown(kind), allowed=allowed)]
    try:
        read = KINDS[kind].model_validate({**value, "apiVersion": API_VERSION})  # said above, where it is another
    except ValidationError as error:
        return problems + [_problem(document, KINDS[kind], details) for details in error.errors(include_url=False)]
    return problems or read


def _problem(document: Document, kind: type[BaseModel], details: ErrorDetails) -> Problem:
    path: Path = tuple(step for step in details["loc"] if step != "[key]")
    message, allowed = _WORDS.get(details["type"], (details["msg"], ""))
    found = "" if details["type"] == "missing" else shown(details["input"])
    context = details.get("ctx", {})
    if details["type"] == "not_allowed":
        message, allowed = context["message"], context["allowed"]
        found = "" if isinstance(details["input"], (dict, list, BaseModel)) else found
    elif details["type"] == "extra_forbidden":
        fields = _fields_at(kind, path[:-1])
        near = get_close_matches(str(path[-1]), fields, 1)
        message = f"unknown field{f', did you mean {near[0]}?' if near else ''}"
        found, allowed = shown(path[-1]), ", ".join(fields)
    elif details["type"] == "missing":
        allowed = _description(kind, path)
    return document.problem(path, message, found=found, allowed=allowed)


_WORDS: Final[Mapping[str, tuple[str, str]]] = {
    "missing": ("required, and missing", ""),
    "list_type": ("wrong type", "a list"),
    "dict_type": ("wrong type", "a mapping"),
    "bool_type": ("wrong type", "true or false"),
    "model_type": ("wrong type", "a mapping"),
    "too_short": ("empty", "at least one"),
}


def _fields_at(kind: type[BaseModel], path: Path) -> list[str]:
    """The field names that the model allows where ``path`` leads."""
    model = _model_at(kind, path)
    return [field.alias or name for name, field in model.model_fields.items()] if model else []


def _description(kind: type[BaseModel], path: Path) -> str:
    model = _model_at(kind, path[:-1])
    described = descriptions(model).items() if model else ()
    fields = model.model_fields if model else {}
    text = next((text for name, text in described if fields[name].alias == path[-1]), "")
    return text.partition(". ")[0].removesuffix(".")


def _model_at(kind: type[BaseModel], path: Path) -> type[BaseModel] | None:
    model: type[BaseModel] | None = kind
    for step in path:
        if isinstance(step, str) and model is not None:
            annotation = next((f.annotation for n, f in model.model_fields.items() if (f.alias or n) == step), None)
            model = _model_in(annotation)
    return model


def _model_in(annotation: object) -> type[BaseModel] | None:
    """The model inside ``Annotated[list[Model], …]``, ``Model | None`` or ``Model``."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((model for inner in get_args(annotation) if (model := _model_in(inner))), None)


def _repeated(mesh: Mesh) -> Iterator[tuple[Path, str, str]]:
    """Services, ports and gateways that stand twice: their paths, what is wrong, and the value."""
    gateways = [(gateway.address, gateway.port) for gateway in mesh.spec.gateways]
    for index in _duplicates(gateways):
        address, port = gateways[index]
        yield ("spec", "gateways", index), "the gateway is already listed", f"{address} port {port}"
    for index in _duplicates([service.host for service in mesh.spec.services]):
        yield ("spec", "services", index, "host"), "the service is already listed", mesh.spec.services[index].host
    for at, service in enumerate(mesh.spec.services):
        if len(service.ports) > 1:
            for index in _duplicates([port.number for port in service.ports]):
                path: Path = ("spec", "services", at, "ports", index, "number")
                yield path, "the port is already listed", str(service.ports[index].number)


def _duplicates(values: Sequence[Hashable]) -> list[int]:
    if len(set(values)) == len(values):
        return []
    seen: set[Hashable] = set()
    repeated = []
    for index, value in enumerate(values):
        if value in seen:
            repeated.append(index)
        seen.add(value)
    return repeated


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

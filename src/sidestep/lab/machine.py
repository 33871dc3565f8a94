"""The machine's side of the lab: a spec that a user could have written, its bundle, its certificate, its Envoy."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import orjson

from sidestep import onboard
from sidestep.files import write_set
from sidestep.lab.access_log import AccessLog
from sidestep.lab.envoys import Runtime
from sidestep.lab.ledger import DESCRIPTOR
from sidestep.lab.mesh import Mesh
from sidestep.lab.topology import Application, Protocol, Service, ServicePort
from sidestep.pki.identity import Identity
from sidestep.pki.spiffe import SpiffeId
from sidestep.proxy.binary import Envoy
from sidestep.proxy.process import Process
from sidestep.proxy.validation import validate

Edit = Callable[[dict[str, object]], None]
"""Changes one cluster of a bundle, to leave out on purpose what the bundle does right."""

_TRANSCODE: Final = f", transcode: {{descriptor: {DESCRIPTOR.name}, streamNewlineDelimited: true}}"
_ARGUMENTS: Final = ("--file-flush-interval-msec", "20", "--log-level", "warning", "--drain-time-s", "1")


@dataclass(frozen=True)
class Calls:
    """One line of a machine's egress: a port of a service and where the machine listens for it."""

    service: Service
    port: int
    listen: int | str | None
    """A port on 127.0.0.1, or a socket in the bundle's directory; None for the service's own port and address."""
    traffic: str = ""
    """What it says of its traffic, as it stands in the document."""

    def __str__(self) -> str:
        port = next(port for port in self.service.ports if port.number == self.port)
        said = ", protocol: HTTP" if port.protocol is Protocol.UNDECLARED else ""
        said += _TRANSCODE if port.application is Application.LEDGER else ""
        host = f"{self.service.name}.{self.service.namespace}"
        address = f"127.0.0.1:{self.listen}" if isinstance(self.listen, int) else f"unix:./{self.listen}"
        listen = f", listen: {address}" if self.listen is not None else ""
        traffic = f", {self.traffic}" if self.traffic else ""
        return f"  - {{host: {host}, port: {self.port}{said}{listen}{traffic}}}"


@dataclass(frozen=True)
class Serves:
    """One line of a machine's ingress: a port that the mesh calls, where Envoy listens, where the application does."""

    port: ServicePort
    listen: int
    application: int
    allow: str
    """The principal that may call."""
    more: str = ""
    """Further fields, as in the document."""

    def __str__(self) -> str:
        addresses = f"listen: 127.0.0.1:{self.listen}, application: 127.0.0.1:{self.application}"
        more = f", {self.more}" if self.more else ""
        allow = f"allow: [{self.allow}]{more}"
        return f"  - {{port: {self.port.number}, protocol: {self.port.protocol}, {addresses}, {allow}}}"


@dataclass
class Machine:
    """An onboarded machine. Its directory holds ``spec/``, ``bundle/`` and ``logs/``."""

    spiffe_id: SpiffeId
    directory: Path
    mesh: Mesh
    envoy: Envoy
    egress: list[Calls]
    proxy: int
    """The local port of its HTTP proxy."""
    ingress: tuple[Serves, ...] = ()
    addresses: str = ""
    """The network in which services have addresses of their own."""
    more: str = ""
    """Further lines of its ``spec``."""
    process: Process = field(init=False)

    @property
    def spec(self) -> list[Path]:
        """The documents that it was onboarded from."""
        return [self.directory / "spec" / "mesh.yaml", self.directory / "spec" / "billing.yaml"]

    @property
    def bundle(self) -> Path:
        """What its Envoy runs in."""
        return self.directory / "bundle"

    @property
    def log(self) -> AccessLog:
        """What its Envoy tells of every call."""
        return AccessLog(self.directory / "logs" / "stdout.log")

    def listen(self, service: Service, port: int, traffic: str = "") -> int:
        """The local port that stands for a service's, and for what is said of its traffic."""
        calls = [each for each in self._calls(service, port) if each.traffic == traffic]
        return next(each.listen for each in calls if isinstance(each.listen, int))

    def socket(self, service: Service, port: int) -> Path:
        """The unix-domain socket that stands for a service's port."""
        return self.bundle / next(each.listen for each in self._calls(service, port) if isinstance(each.listen, str))

    def _calls(self, service: Service, port: int) -> list[Calls]:
        return [calls for calls in self.egress if (calls.service, calls.port) == (service, port)]

    def render(self) -> onboard.Installed:
        """Writes the spec and (re)renders the bundle from it, as ``sidestep render`` does."""
        (self.directory / "spec").mkdir(parents=True, exist_ok=True)
        shutil.copyfile(DESCRIPTOR, self.directory / "spec" / DESCRIPTOR.name)
        for path, text in zip(self.spec, (mesh_document(self.mesh), self._workload_document()), strict=True):
            path.write_text(text)
        spec = onboard.load(str(path) for path in self.spec)
        [bundle] = onboard.bundles(spec)
        return bundle.install(self.bundle, validate=lambda directory, file: validate(self.envoy, directory, file))

    def hold(self, identity: Identity) -> None:
        """Gives it a certificate, as ``sidestep ca issue`` does."""
        write_set(self.bundle / "certs", identity.files())

    def spoil(self, edit: Edit) -> None:
        """Edits the clusters of the bundle that lead to the mesh."""
        path = self.bundle / "cds.json"
        clusters = orjson.loads(path.read_bytes())
        for cluster in clusters["resources"]:
            if cluster["name"].startswith("outbound|"):
                edit(cluster)
        path.write_bytes(orjson.dumps(clusters))

    def _workload_document(self) -> str:
        lines = "\n".join(str(calls) for calls in self.egress)
        lines += "\n  ingress:\n" + "\n".join(map(str, self.ingress)) if self.ingress else ""
        addresses = f"\n  addresses: {{range: {self.addresses}}}" if self.addresses else ""
        return f"""\
apiVersion: sidestep/v1alpha1
kind: Workload
metadata: {{name: {self.spiffe_id.service_account}, namespace: {self.spiffe_id.namespace}}}
spec:
{self.more}  proxy: {{listen: 127.0.0.1:{self.proxy}}}{addresses}
  egress:
{lines}
"""


def mesh_document(mesh: Mesh) -> str:
    """The Mesh document for a running mesh."""
    gateways = "\n".join(
        f"  - {{address: {each.address}, port: {each.port}, statusPort: {each.status}}}" for each in mesh.gateways
    )
    services = "".join(_service(service) for service in mesh.description.services)
    return f"""\
apiVersion: sidestep/v1alpha1
kind: Mesh
metadata: {{name: lab}}
spec:
  trustDomain: {mesh.description.trust_domain}
  gateways:
{gateways}
  services:
{services}"""


def _service(service: Service) -> str:
    ports = ", ".join(
        f"{{number: {port.number}, protocol: {port.protocol}}}" if port.protocol else f"{{number: {port.number}}}"
        for port in service.ports
    )
    return f"  - host: {service.host}\n    ports: [{ports}]\n    serviceAccounts: [{service.account}]\n"


@asynccontextmanager
async def start_machine(
    mesh: Mesh,
    spiffe_id: SpiffeId,
    directory: Path,
    runtime: Runtime,
    *,
    egress: Sequence[tuple[Service, int]],
    sockets: Sequence[tuple[Service, int]] = (),
    tuned: Sequence[tuple[Service, int, str]] = (),
    identity: Identity,
    edit: Edit | None = None,
    ingress: Sequence[Serves] = (),
    addresses: str = "",
    more: str = "",
) -> AsyncIterator[Machine]:
    """Onboards a machine that calls ``egress`` and is called on ``ingress``; its Envoy runs until the end of the block.

    It listens on a port for each of ``egress`` and of ``tuned``, on a socket for each of ``sockets``, and on one port
    for all by name. With ``addresses``, a network, the port of an egress is the service's own, on an address that is
    the service's alone.
    ``more`` are further lines of its ``spec``.
    """
    listens = [Calls(service, port, None if addresses else runtime.ports.reserve()) for service, port in egress]
    listens += [Calls(service, port, f"{service.name}-{port}.sock") for service, port in sockets]
    listens += [Calls(service, port, runtime.ports.reserve(), traffic) for service, port, traffic in tuned]
    proxy = runtime.ports.reserve()
    machine = Machine(
        spiffe_id, directory, mesh, runtime.envoy, listens, proxy, tuple(ingress), addresses=addresses, more=more
    )
    machine.render()
    machine.hold(identity)
    if edit:
        machine.spoil(edit)
    (directory / "logs").mkdir()
    machine.process = Process(
        runtime.envoy,
        machine.bundle,
        directory / "logs",
        concurrency=1,
        arguments=_ARGUMENTS,
        die_with_parent=True,
    )
    async with machine.process as process:
        runtime.watchdog.started(process.pid)
        await process.wait_ready()
        yield machine
    runtime.watchdog.ended(process.pid)

"""A workload and the mesh it names, brought together: every egress becomes ports of known services."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from sidestep.spec import inbound
from sidestep.spec.addresses import allocate
from sidestep.spec.base import Finding, Unknown, known
from sidestep.spec.documents import shown
from sidestep.spec.proxy import with_mode
from sidestep.spec.scalars import Listen, Protocol
from sidestep.spec.sockets import NONE, LocalAddress
from sidestep.spec.traffic import NO_TRAFFIC, Traffic
from sidestep.spec.traffic_checks import CHECKED_FIELDS, Call, findings, together

if TYPE_CHECKING:
    from sidestep.spec.clashes import Claim
    from sidestep.spec.documents import Document, Path
    from sidestep.spec.inbound import IngressPort
    from sidestep.spec.ingress import Ingress
    from sidestep.spec.model import Egress, Mesh, Port, Service, Workload, WorkloadSpec
    from sidestep.spec.report import Report
    from sidestep.spec.services import Services
    from sidestep.spec.transcode import Transcoding


class EgressPort(NamedTuple):
    """One port of one service, and the local address that stands for it."""

    service: Service
    number: int
    protocol: Protocol
    listen: LocalAddress | None
    """None where it is called by name only, through the workload's proxy."""
    transcoding: Transcoding | None = None
    """REST beside native gRPC on ``listen``, where the document asks for it."""
    traffic: Traffic = NO_TRAFFIC

    @property
    def address(self) -> str | None:
        """``listen`` as it is written."""
        return str(self.listen) if self.listen else None

    @property
    def sni(self) -> str:
        """The server name that the gateway routes by."""
        return self.service.sni(self.number, self.traffic.subset)

    @property
    def is_http2_upstream(self) -> bool:
        """Whether requests travel over HTTP/2, whatever the application here or there speaks."""
        return self.protocol.is_http2 or (self.protocol.is_http and self.traffic.upgraded)


@dataclass(frozen=True)
class Machine:
    """A workload with all that it needs to know of its mesh: what the compiler takes."""

    mesh: Mesh
    workload: Workload
    egress: tuple[EgressPort, ...]
    ingress: tuple[IngressPort, ...] = ()
    roots: bytes = field(default=b"", repr=False)
    """The mesh's root certificates (PEM), where the document names a file of them."""
    credentials: bytes = field(default=b"", repr=False)
    """The users of a forwarder's proxy with their hashed passwords (htpasswd), where it asks for them."""

    @property
    def addresses(self) -> int:
        """On how many addresses it listens."""
        spec = self.workload.spec
        own = sum(each is not None for each in (spec.proxy, spec.health))
        return own + sum(port.listen is not None for port in self.egress) + len(self.ingress)

    @property
    def identity(self) -> str:
        """The workload's SPIFFE ID (facts/istio.md §5.1)."""
        metadata = self.workload.metadata
        trust_domain = self.mesh.spec.trust_domain
        return f"spiffe://{trust_domain}/ns/{metadata.namespace}/sa/{self.workload.service_account}"


@dataclass
class Resolution:
    """What came of one workload: its ports, as far as they can be told."""

    document: Document
    report: Report
    services: Services | None
    """Those of its mesh; None where they are not known."""
    gives_addresses: bool = False
    """Whether services get addresses of their own."""
    ports: list[EgressPort] = field(default_factory=list)
    paths: list[Path] = field(default_factory=list)
    """For each of ``ports``, where in the document its egress stands."""
    unplaced: set[int] = field(default_factory=set)
    """Which of ``ports`` listen nobody knows where, because `addresses` is wrong."""
    ingress: list[IngressPort] = field(default_factory=list)
    ingress_paths: list[Path] = field(default_factory=list)
    """For each of ``ingress``, where in the document it stands."""
    claims: list[Claim] = field(default_factory=list)
    """Addresses of what is neither in ``ports`` nor in ``ingress``, because something else is wrong with it."""
    _by_destination: dict[tuple[str, int, str], list[Egress]] = field(default_factory=lambda: defaultdict(list))

    def take(self, workload: WorkloadSpec, trust_domain: str | None) -> None:
        """Resolves all that a workload calls and is called on. ``trust_domain`` is None where it is not known."""
        self.gives_addresses = not workload.knows("addresses") or workload.addresses is not None
        with suppress(Unknown):
            for index, egress in enumerate(workload.egress or ()):
                self._add(("spec", "egress", index), egress)
        with suppress(Unknown):
            self._give_addresses(workload)
        with suppress(Unknown):
            for index, ingress in inbound.each_once(workload.ingress or ()):
                self._serve(("spec", "ingress", index), ingress, trust_domain)

    def say(self, path: Path, found: Iterable[Finding]) -> None:
        """Reports what was found at ``path`` or below it."""
        for finding in found:
            self.report.add(self.document, finding._replace(path=path + finding.path))

    def _add(self, path: Path, egress: Egress) -> None:
        try:
            service = self._service(path, egress)
            ports = self._ports(path, egress, service)
        except Unknown:
            self._claim(path, egress)
            return
        if len(ports) > 1 and egress.get("listen") not in {None, NONE}:
            message = "one address cannot stand for several ports"
            self.say(path, [Finding(("listen",), message, str(egress.listen), "add `port`")])
            self._claim(path, egress)
            return
        for port in ports:
            self._take(path, Call(service, port, egress))

    def _take(self, path: Path, call: Call) -> None:
        service, port, egress = call
        try:
            self._check(path, call)
            listen, traffic = _local_address(egress, port), Traffic.of(egress)
            self.ports.append(EgressPort(service, port.number, call.protocol, listen, traffic=traffic))
            self.paths.append(path)
        except Unknown:
            self._claim(path, egress, call)

    def _check(self, path: Path, call: Call) -> None:
        service, port, egress = call
        # Most say nothing, and there may be thousands.
        if port.get("protocol") is None or not CHECKED_FIELDS.isdisjoint(egress.model_fields_set):
            self.say(path, findings(call))
        same = self._by_destination[service.host, port.number, egress.subset or ""]
        if same:
            self.say(path, together(call, same[0]))
        same.append(egress)

    def _claim(self, path: Path, egress: Egress, call: Call | None = None) -> None:
        """Notes the address of an egress that has not become a port."""
        number = call.port.get("number") if call else None
        listen = egress.get("listen")
        if number and egress.knows("listen") and listen is None and not self.gives_addresses:
            listen = Listen("127.0.0.1", number)
        if listen not in {None, NONE}:
            purpose = f"{call.service.host}:{number}" if call and number else "another egress"
            self.claims.append(((*path, "listen"), listen, purpose))

    def _give_addresses(self, workload: WorkloadSpec) -> None:
        """Moves what no `listen` places to an address of its service's own, where the workload has `addresses`."""
        if not self.gives_addresses:
            return
        egress = workload.egress or ()
        moved = [at for at, path in enumerate(self.paths) if egress[_index(path)].listen is None]
        self.unplaced.update(moved)
        addresses = self._allocated(workload)
        self.unplaced.clear()
        for at in moved:
            port = self.ports[at]
            self.ports[at] = port._replace(listen=Listen(addresses[port.service.host], port.number))

    def _allocated(self, workload: WorkloadSpec) -> dict[str, str]:
        """The address of each service. Raises `Unknown` where `addresses` is wrong, and reports it."""
        wanted = workload.addresses
        assert wanted is not None
        try:
            return allocate((port.service.host for port in self.ports), wanted.range)
        except ValueError as error:
            found = Finding(("addresses", "range"), "too small", str(error), "a larger network")
            self.say(("spec",), [found])
            raise Unknown from None

    def _serve(self, path: Path, ingress: Ingress, trust_domain: str | None) -> None:
        if trust_domain is not None:
            self.say(path, known(inbound.never_admitted(ingress, trust_domain)))
        try:
            port = inbound.resolved(ingress)
        except Unknown:
            if ingress.knows("listen") and ingress.listen:
                self.claims.append(((*path, "listen"), ingress.listen, "another ingress"))
        else:
            self.ingress.append(port)
            self.ingress_paths.append(path)

    def _service(self, path: Path, egress: Egress) -> Service:
        """The service that an egress means. Raises `Unknown` where that cannot be told, and reports it."""
        if self.services is None:
            raise Unknown
        found = self.services.matching(egress.host)
        if len(found) == 1:
            return found[0]
        if found:
            candidates = _listing([service.host for service in found])
            self.say(path, [Finding(("host",), "the name is ambiguous", shown(egress.host), candidates)])
        elif not self.services.might_match(egress.host):
            like = _listing(self.services.like(egress.host))
            allowed = f"a service of the Mesh{f', such as {like}' if like else ''}"
            self.say(path, [Finding(("host",), "the mesh has no such service", shown(egress.host), allowed)])
        raise Unknown

    def _ports(self, path: Path, egress: Egress, service: Service) -> Sequence[Port]:
        """The ports that an egress means, each number once. Raises `Unknown` where there is none, and reports it."""
        if egress.port is None and len(service.ports) == 1:
            return service.ports
        ports = {port.number: port for port in reversed(service.ports) if port.knows("number")}
        if egress.port is None:
            return list(reversed(ports.values()))
        if egress.port in ports:
            return [ports[egress.port]]
        if all(port.knows("number") for port in service.ports):
            allowed = ", ".join(map(str, reversed(ports)))
            message = f"{service.host} has no such port"
            self.say(path, [Finding(("port",), message, str(egress.port), allowed)])
        raise Unknown


def _listing(names: Sequence[str]) -> str:
    return ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")


def _index(path: Path) -> int:
    """Which egress a path leads into."""
    index = path[2]
    assert isinstance(index, int)
    return index


def _local_address(egress: Egress, port: Port) -> LocalAddress | None:
    if egress.listen is None:
        return Listen("127.0.0.1", port.number)
    return None if isinstance(egress.listen, str) else with_mode(egress.listen, egress.socket_mode)

"""A workload and the mesh it names, brought together: every egress becomes ports of known services."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from itertools import islice
from typing import Final, TypeAlias

from sidestep.errors import Problem
from sidestep.spec import inbound
from sidestep.spec.addresses import allocate
from sidestep.spec.documents import Document, Path, shown
from sidestep.spec.inbound import IngressPort
from sidestep.spec.model import Egress, Mesh, Port, Service, Workload
from sidestep.spec.proxy import PATH as PROXY
from sidestep.spec.proxy import with_mode
from sidestep.spec.scalars import UNSPECIFIED, Listen, Protocol
from sidestep.spec.sockets import NONE, LocalAddress
from sidestep.spec.traffic import NO_TRAFFIC, Traffic
from sidestep.spec.traffic_checks import findings
from sidestep.spec.transcode import Transcoding

_COMPARISONS: Final = 200_000


@dataclass(frozen=True)
class EgressPort:
    """One port of one service, and the local address that stands for it."""

    service: Service
    number: int
    protocol: Protocol
    declared: bool
    """Whether Istio was told the protocol; where not, it detects it on every connection."""
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

    @property
    def identity(self) -> str:
        """The workload's SPIFFE ID (facts/istio.md §5.1)."""
        metadata = self.workload.metadata
        trust_domain = self.mesh.spec.trust_domain
        return f"spiffe://{trust_domain}/ns/{metadata.namespace}/sa/{self.workload.service_account}"


class Services:
    """The services of one mesh, to be found by any beginning of their name that is unambiguous."""

    def __init__(self, services: Iterable[Service]) -> None:
        self._by_prefix: dict[str, list[Service]] = defaultdict(list)
        self._by_host: dict[str, Service] = {}
        self._compared = 0
        for service in services:
            if self._by_host.setdefault(service.host, service) is not service:
                continue  # listed twice, which is reported
            at = service.host.find(".")
            while at > 0:
                self._by_prefix[service.host[:at]].append(service)
                at = service.host.find(".", at + 1)

    def matching(self, name: str) -> Sequence[Service]:
        """The services that ``name`` can mean: the one with exactly that host, else all whose host begins with it."""
        exact = self._by_host.get(name)
        return [exact] if exact else self._by_prefix.get(name, [])

    def like(self, name: str) -> list[str]:
        """Hosts to suggest for a name that means nothing: like it, as long as comparing takes no time to speak of."""
        self._compared += len(self._by_host)
        close = get_close_matches(name, self._by_host, 3, 0.4) if self._compared <= _COMPARISONS else []
        return close or sorted(islice(self._by_host, 3))


@dataclass
class Resolution:
    """What came of one workload's egress: ports, and problems."""

    document: Document
    services: Services
    ports: list[EgressPort] = field(default_factory=list)
    paths: list[Path] = field(default_factory=list)
    """For each of ``ports``, where in the document its egress stands."""
    problems: list[Problem] = field(default_factory=list)
    ingress: list[IngressPort] = field(default_factory=list)
    ingress_paths: list[Path] = field(default_factory=list)
    """For each of ``ingress``, where in the document it stands."""
    _by_destination: dict[tuple[str, int, str], list[EgressPort]] = field(default_factory=lambda: defaultdict(list))

    def take(self, workload: Workload, trust_domain: str) -> None:
        """Resolves all that a workload calls, and all that it is called on."""
        for index, egress in enumerate(workload.spec.egress or ()):
            self.add(index, egress)
        self.give_addresses(workload)
        resolved = inbound.resolve(self.document, workload.spec.ingress or (), trust_domain)
        self.ingress, self.ingress_paths, problems = resolved
        self.problems += problems

    def add(self, index: int, egress: Egress) -> None:
        """Resolves ``spec.egress[index]``."""
        path: Path = ("spec", "egress", index)
        service = self._service(path, egress)
        if service is None:
            return
        ports = self._ports(path, egress, service)
        if egress.listen not in {None, NONE} and len(ports) > 1:
            self._problem(
                (*path, "listen"), "one address cannot stand for several ports", str(egress.listen), "add `port`"
            )
            return
        traffic = Traffic.of(egress)
        for port in ports:
            protocol = self._protocol(path, egress, service, port)
            if protocol:
                listen = _local_address(egress, port)
                declared = port.protocol is not None
                self._take(path, EgressPort(service, port.number, protocol, declared, listen, traffic=traffic))

    def _take(self, path: Path, port: EgressPort) -> None:
        same = self._by_destination[port.service.host, port.number, port.traffic.subset]
        if same or port.traffic is not NO_TRAFFIC:  # most say nothing, and there may be thousands
            for place, message, found, allowed in findings(port, same):
                self._problem((*path, *place), message, found, allowed)
        same.append(port)
        self.ports.append(port)
        self.paths.append(path)

    def give_addresses(self, workload: Workload) -> None:
        """Moves what no `listen` places to an address of its service's own, where the workload has `addresses`."""
        wanted = workload.spec.addresses
        if wanted is None:
            return
        try:
            addresses = allocate((port.service.host for port in self.ports), wanted.range)
        except ValueError as error:
            self._problem(("spec", "addresses", "range"), "too small", str(error), "a larger network")
            return
        egress = workload.spec.egress or ()
        for index, (port, path) in enumerate(zip(self.ports, self.paths, strict=True)):
            if egress[_index(path)].listen is None:
                self.ports[index] = replace(port, listen=Listen(addresses[port.service.host], port.number))

    def _problem(self, path: Path, message: str, found: str, allowed: str) -> None:
        self.problems.append(self.document.problem(path, message, found=found, allowed=allowed))

    def _service(self, path: Path, egress: Egress) -> Service | None:
        found = self.services.matching(egress.host)
        if len(found) == 1:
            return found[0]
        path = (*path, "host")
        if found:
            candidates = _listing(sorted(service.host for service in found))
            self._problem(path, "the name is ambiguous", shown(egress.host), candidates)
        else:
            candidates = _listing(self.services.like(egress.host))
            self._problem(
                path, "the mesh has no such service", shown(egress.host), f"a service of the Mesh, such as {candidates}"
            )
        return None

    def _ports(self, path: Path, egress: Egress, service: Service) -> Sequence[Port]:
        if egress.port is None:
            return service.ports
        ports = [port for port in service.ports if port.number == egress.port]
        if not ports:
            allowed = ", ".join(str(port.number) for port in service.ports)
            self._problem((*path, "port"), f"{service.host} has no such port", str(egress.port), allowed)
        return ports

    def _protocol(self, path: Path, egress: Egress, service: Service, port: Port) -> Protocol | None:
        place = f"port {port.number} of {service.host}"
        if port.protocol is None and egress.protocol is None:
            message = f"the Mesh gives no protocol for {place}, so say what to speak"
            self._problem(
                (*path, "protocol"),
                message,
                "nothing",
                "protocol: HTTP or TCP (HTTP2 or GRPC where the service speaks it)",
            )
        elif port.protocol is not None and egress.protocol not in {None, port.protocol}:
            message = f"the Mesh declares {place} as {port.protocol}"
            self._problem((*path, "protocol"), message, str(egress.protocol), f"{port.protocol}, or leave it out")
        else:
            return port.protocol or egress.protocol
        return None


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


Claim: TypeAlias = tuple[Path, LocalAddress, str]
"""Where in a document an address is taken, which one, and for what."""


def clashes(machines: Iterable[Sequence[tuple[Workload, Resolution]]]) -> Iterator[Problem]:
    """Listen addresses that are taken twice, or by an application, among the workloads of each machine."""
    for workloads in machines:
        taken: dict[Hashable, dict[str, str]] = defaultdict(dict)
        for number, (workload, resolution) in enumerate(workloads):
            for path, listen, purpose in _claims(workload, resolution):
                place, address = _place(listen, number)
                owners = taken[place]
                owner = _owner(owners, address)
                if owner:
                    yield _clash(resolution.document, path, listen, owner)
                else:
                    owners[address] = f"{workload.metadata.name} for {purpose}"
        for _, resolution in workloads:
            yield from _applications_in_the_way(resolution, taken)


def _applications_in_the_way(resolution: Resolution, taken: Mapping[Hashable, Mapping[str, str]]) -> Iterator[Problem]:
    for port, path in zip(resolution.ingress, resolution.ingress_paths, strict=True):
        application = port.application
        place, address = _place(application, 0)
        owner = _owner(taken.get(place, {}), address)
        if owner:
            yield resolution.document.problem(
                (*path, "application"),
                f"Envoy itself listens there: {owner}",
                found=str(application),
                allowed="another `application` address, or `listen` on another port",
            )


def _claims(workload: Workload, resolution: Resolution) -> Iterator[Claim]:
    """Every address that a workload listens on."""
    for port, path in zip(resolution.ports, resolution.paths, strict=True):
        if port.listen:
            yield (*path, "listen"), port.listen, f"{port.service.host}:{port.number}"
    for served, path in zip(resolution.ingress, resolution.ingress_paths, strict=True):
        yield (*path, "listen"), served.listen, f"its own port {served.number}"
    if workload.spec.proxy:
        yield PROXY, workload.spec.proxy.listen, "its proxy"


def _place(listen: LocalAddress, workload: int) -> tuple[Hashable, str]:
    """What two addresses must have in common to clash, and what tells them apart within that."""
    if isinstance(listen, Listen):
        return (":" in listen.address, listen.port), listen.address
    return (workload if listen.is_in_bundle else None), listen.path


def _owner(owners: Mapping[str, str], address: str) -> str | None:
    """Who keeps ``address`` from being bound: the same address, or either of the two standing for every address."""
    if not owners or address in owners:
        return owners.get(address)
    everywhere = next((owners[each] for each in UNSPECIFIED if each in owners), None)
    return everywhere or (next(iter(owners.values())) if address in UNSPECIFIED else None)


def _clash(document: Document, path: Path, listen: LocalAddress, owner: str) -> Problem:
    allowed = "a `listen` address of its own, or another `machine` for one of two workloads"
    return document.problem(path, f"already listened on by {owner}", found=str(listen), allowed=allowed)

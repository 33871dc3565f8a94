"""What a document may hold: kinds ``Mesh`` and ``Workload`` of ``sidestep/v1alpha1``.

Field descriptions are what editors show (`sidestep schema`). Everything is immutable once read.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Annotated, Final, Literal

from pydantic import Field

from sidestep.spec.addresses import Addresses
from sidestep.spec.base import Finding, Model
from sidestep.spec.clients import FORWARDER, FORWARDER_CHECKS, Clients, Health, Limits, Profile
from sidestep.spec.documents import shown
from sidestep.spec.ingress import Ingress
from sidestep.spec.proxy import PROXY_CHECKS, Proxy, mode_is_of_a_socket
from sidestep.spec.scalars import (
    MAX_SNI,
    Address,
    DnsName,
    FileName,
    LabelKey,
    LabelValue,
    Locality,
    Name,
    PortNumber,
    PortProtocol,
    Priority,
    ServerIdentity,
    ServiceAccount,
    TrustDomain,
)
from sidestep.spec.sockets import ListenOnOrNone, SocketMode
from sidestep.spec.traffic import HealthCheck, Retries, Timespan, TrafficPolicy
from sidestep.spec.transcode import Transcode

API_VERSION: Final = "sidestep/v1alpha1"


class Metadata(Model):
    """What a document is called."""

    name: Name
    """Name of the object."""


class WorkloadMetadata(Metadata):
    """What a workload is called, in Kubernetes' words."""

    namespace: Name = "default"
    """Namespace of the workload's identity; it need not exist in a cluster."""
    labels: dict[LabelKey, LabelValue] = Field(default_factory=dict, json_schema_extra={"additionalProperties": False})
    """Labels; `app` and `version` (or `app.kubernetes.io/name`, `/version`) name it in the mesh's telemetry."""


class Gateway(Model):
    """An east-west gateway of the mesh, with a server of mode AUTO_PASSTHROUGH."""

    address: Address
    """IP address or DNS name under which machines reach the gateway."""
    port: PortNumber = 15443
    """Port of the AUTO_PASSTHROUGH server."""
    status_port: PortNumber | None = None
    """Where it says that it is ready (15021 in Istio's own): tells a gateway that hangs from one that works."""
    locality: Locality | None = None
    """Where it is, as region/zone; gateways near a workload's own locality are preferred."""
    priority: Priority | None = None
    """Preference among gateways as near as each other: 0 first. Equal numbers share the traffic."""


class Port(Model):
    """A port of a service."""

    number: PortNumber
    """The service's own port number (not the target port of its pods)."""
    protocol: PortProtocol | None = None
    """What Istio was told that the port carries; left out where it was told nothing (then each egress says it)."""


class AnyWorkload(Model):
    """A looser rule for who may answer as a service. Exactly one of the two."""

    namespace: Name | None = None
    """Any workload of this namespace may answer."""
    trust_domain: TrustDomain | None = None
    """Any workload of this trust domain may answer."""

    def _exactly_one(self) -> Iterator[Finding]:
        if self.says("namespace") == self.says("trust_domain"):
            yield Finding((), "says too little or too much", allowed="exactly one of namespace and trustDomain")

    checks = (_exactly_one,)


class Service(Model):
    """A service of the mesh that machines may reach through its gateways."""

    host: DnsName
    """The service's full host name, such as reviews.bookinfo.svc.cluster.local."""
    ports: Annotated[list[Port], Field(min_length=1)]
    """The service's ports."""
    service_accounts: list[ServerIdentity] = Field(default_factory=list)
    """Service accounts that its pods run as; nobody else can answer in its place."""
    unsafe_any_workload_of: AnyWorkload | None = None
    """Instead of serviceAccounts: accept any workload of a namespace or of the whole trust domain as this service."""

    @property
    def namespace(self) -> str | None:
        """The Kubernetes namespace that the host names; None for a host of another form."""
        labels = self.host.split(".", 3)
        return labels[1] if len(labels) == 4 and labels[2] == "svc" else None

    def sni(self, port: int, subset: str = "") -> str:
        """The server name that an east-west gateway routes by (facts/istio.md §1.1)."""
        return f"outbound_.{port}_.{subset}_.{self.host}"

    def server_identities(self, trust_domain: str) -> list[str]:
        """The SPIFFE IDs of ``serviceAccounts``, whole."""
        namespace = self.namespace
        return [_spiffe_id(account, namespace, trust_domain) for account in self.service_accounts]

    def _can_be_reached(self) -> Iterator[Finding]:
        if len(self.sni(65535)) <= MAX_SNI:  # nearly always
            return
        longest = max((len(self.sni(port.number)) for port in self.ports if port.knows("number")), default=0)
        if longest > MAX_SNI:
            message = f"the host makes a server name (SNI) of {longest} bytes"
            yield Finding(("host",), message, shown(self.host), f"at most {MAX_SNI} bytes")

    def _each_port_once(self) -> Iterator[Finding]:
        if len(self.ports) > 1:
            yield from _repeated(self.ports, "ports", "number", "the port is already listed")

    def _server_is_pinned(self) -> Iterator[Finding]:
        pinned, loose = self.says("service_accounts"), self.says("unsafe_any_workload_of")
        if not pinned and not loose:
            allowed = "serviceAccounts, or unsafeAnyWorkloadOf with a namespace or trustDomain"
            yield Finding((), "nothing says who may answer as this service", allowed=allowed)
        if pinned and loose:
            yield Finding((), "serviceAccounts and unsafeAnyWorkloadOf exclude each other", allowed="one of the two")

    def _namespaces_are_known(self) -> Iterator[Finding]:
        if self.namespace is None:
            for index, account in enumerate(self.service_accounts):
                if "/" not in account:
                    message = "the host does not tell the namespace of the service account"
                    allowed = "NAMESPACE/SERVICE-ACCOUNT or a whole SPIFFE ID, or a host that is NAME.NAMESPACE.svc.…"
                    yield Finding(("serviceAccounts", index), message, shown(account), allowed)

    checks = (_can_be_reached, _each_port_once, _server_is_pinned, _namespaces_are_known)


def _repeated(models: Iterable[Model], within: str, field: str, message: str) -> Iterator[Finding]:
    """Those models of a list that have the same value in a field as one before them."""
    values = [model.get(field) for model in models]
    if len(set(values)) == len(values):
        return
    seen: set[object] = {None}
    for index, value in enumerate(values):
        if value in seen and value is not None:
            yield Finding((within, index, field), message, shown(value), "each one once")
        seen.add(value)


def _spiffe_id(account: str, namespace: str | None, trust_domain: str) -> str:
    if account.startswith("spiffe://"):
        return account
    own_namespace, _, name = account.rpartition("/")
    return f"spiffe://{trust_domain}/ns/{own_namespace or namespace}/sa/{name}"


class MeshSpec(Model):
    """How a mesh is reached and what it offers."""

    trust_domain: TrustDomain = "cluster.local"
    """The mesh's trust domain (meshConfig.trustDomain)."""
    roots: FileName | None = None
    """File with the mesh's root certificates (PEM), relative to this document; seeds the bundle's root-cert.pem."""
    gateways: Annotated[list[Gateway], Field(min_length=1)]
    """East-west gateways in order of preference: the next one is used while those before it fail."""
    services: Annotated[list[Service], Field(min_length=1)]
    """Services that the gateways export."""

    def _gateways_are_alike(self) -> Iterator[Finding]:
        if len({gateway.says("priority") for gateway in self.gateways}) > 1:
            allowed = "one for every gateway, or the order of the list"
            yield Finding(("gateways",), "only some gateways have a priority", allowed=allowed)
        if len({gateway.says("status_port") for gateway in self.gateways}) > 1:
            yield Finding(
                ("gateways",), "only some gateways have a statusPort", allowed="one for every gateway, or for none"
            )

    def _each_gateway_once(self) -> Iterator[Finding]:
        seen = set()
        for index, gateway in enumerate(self.gateways):
            if gateway.knows("address") and gateway.knows("port"):
                if (gateway.address, gateway.port) in seen:
                    found = f"{gateway.address} port {gateway.port}"
                    yield Finding(("gateways", index), "the gateway is already listed", found, "each one once")
                seen.add((gateway.address, gateway.port))

    def _each_service_once(self) -> Iterator[Finding]:
        yield from _repeated(self.services, "services", "host", "the service is already listed")

    checks = (_gateways_are_alike, _each_gateway_once, _each_service_once)


class Egress(Model):
    """A service that the workload may call."""

    host: DnsName
    """The service: its full host name, or the beginning of it where that is unambiguous (reviews.bookinfo)."""
    port: PortNumber | None = None
    """One port of the service; without it every port, each listened on under its own number."""
    protocol: PortProtocol | None = None
    """What to speak on a port that the Mesh lists without a protocol."""
    listen: ListenOnOrNone | None = None
    """Local address for the application to call; 127.0.0.1 and the service's port number unless said otherwise."""
    transcode: Transcode | None = None
    """REST for a gRPC service: JSON over HTTP beside native gRPC, on the same address."""
    subset: Name | None = None
    """A subset that a DestinationRule in the mesh defines."""
    timeout: Timespan | None = None
    """How long a request may take, all tries together (HTTP only); without it as long as the caller waits."""
    retries: Retries | None = None
    """When a request is sent again (HTTP only)."""
    traffic_policy: TrafficPolicy | None = None
    """Connections and outlier detection, as in a DestinationRule."""
    health_check: HealthCheck | None = None
    """Asks the service through every gateway; without it, only the gateways are asked."""
    socket_mode: SocketMode | None = None
    """Mode of the file where `listen` is a unix-domain socket; "0600" unless said otherwise."""

    checks = (mode_is_of_a_socket,)


class WorkloadSpec(Model):
    """What a machine, or a group of equal machines, is and may call."""

    service_account: ServiceAccount | None = None
    """Service account of the workload's SPIFFE ID; the workload's name unless said otherwise."""
    mesh: Name | None = None
    """Name of the Mesh, where there are several."""
    machine: Name | None = None
    """Name of the machine (or group) that it runs on. Workloads of one machine cannot share a listen address."""
    locality: Locality | None = None
    """Where it is, as region/zone."""
    addresses: Addresses | None = None
    """Gives each service a loopback address of its own, so that its port numbers can be used unchanged."""
    proxy: Proxy | None = None
    """Serves every egress by name, too: an HTTP proxy on one local address."""
    profile: Profile = "sidecar"
    """Whom it serves: its own machine (sidecar), or machines that stay as they are (forwarder)."""
    clients: Clients | None = None
    """Who may use a forwarder; required for one."""
    limits: Limits | None = None
    """How much of a forwarder its clients may take."""
    health: Health | None = None
    """Endpoint by which load balancers see whether a forwarder takes connections."""
    egress: Annotated[list[Egress] | None, Field(min_length=1)] = None
    """The services that it calls."""
    ingress: Annotated[list[Ingress] | None, Field(min_length=1)] = None
    """Its own ports that the mesh may call."""

    @property
    def may_have_clients(self) -> bool:
        """Whether it is meant to serve other machines."""
        return self.profile == FORWARDER or self.says("clients")

    def _does_something(self) -> Iterator[Finding]:
        if not self.says("egress") and not self.says("ingress"):
            yield Finding((), "neither calls nor is called", allowed="egress, ingress or both")

    def _each_port_once(self) -> Iterator[Finding]:
        yield from _repeated(self.ingress or (), "ingress", "port", "the port is already listed")

    checks = (_does_something, _each_port_once, *FORWARDER_CHECKS, *PROXY_CHECKS)


class Mesh(Model):
    """A mesh, as machines outside of it see it."""

    api_version: Literal["sidestep/v1alpha1"]
    kind: Literal["Mesh"]
    metadata: Metadata
    spec: MeshSpec


class Workload(Model):
    """One machine, or a group of equal machines, outside the mesh."""

    api_version: Literal["sidestep/v1alpha1"]
    kind: Literal["Workload"]
    metadata: WorkloadMetadata
    spec: WorkloadSpec

    @property
    def service_account(self) -> str:
        """The service account that its identity names."""
        return self.spec.service_account or self.metadata.name

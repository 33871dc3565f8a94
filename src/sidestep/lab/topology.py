"""What a mesh of the lab consists of: services, their ports, and who may call them. Values only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class Protocol(StrEnum):
    """The protocol that a Service port declares, in Istio's words."""

    HTTP = "HTTP"
    HTTP2 = "HTTP2"
    GRPC = "GRPC"
    TCP = "TCP"
    TLS = "TLS"
    UNDECLARED = ""

    @property
    def is_http2(self) -> bool:
        """Whether the application hears HTTP/2, whatever arrived."""
        return self in {Protocol.HTTP2, Protocol.GRPC}

    @property
    def is_tcp(self) -> bool:
        """Whether the sidecar forwards bytes and looks no further."""
        return self in {Protocol.TCP, Protocol.TLS}


class MTLSMode(StrEnum):
    """``spec.mtls.mode`` of a PeerAuthentication."""

    STRICT = "STRICT"
    PERMISSIVE = "PERMISSIVE"


class Application(StrEnum):
    """Which sample service answers behind a port."""

    HTTP = "http"
    GRPC = "grpc"
    LEDGER = "ledger"
    """gRPC with real messages (``protos/ledger.proto``); the machine's application calls it as REST, too."""
    TCP_ECHO = "tcp-echo"
    TCP_GREETING = "tcp-greeting"
    """Speaks before the client does."""
    TLS = "tls"
    """Speaks TLS of its own, with a certificate of its own: nothing that the mesh knows of."""


@dataclass(frozen=True)
class ServicePort:
    """One port of a Service, and the sample service behind it."""

    number: int
    protocol: Protocol
    application: Application


@dataclass(frozen=True)
class AuthorizationPolicy:
    """An AuthorizationPolicy with action ALLOW and one rule that names source principals.

    Principals are written as in Istio, without ``spiffe://``: exact, ``*``, ``prefix*`` or ``*suffix``.
    No principals means that nobody is allowed.
    """

    name: str
    namespace: str
    principals: tuple[str, ...] = ()


@dataclass(frozen=True)
class Service:
    """A Service and the pods behind it, which run under ``service_account`` with a sidecar each."""

    name: str
    namespace: str
    ports: tuple[ServicePort, ...]
    mtls: MTLSMode = MTLSMode.STRICT
    service_account: str = ""
    """The pod's; the Service's name where it is empty."""
    policy: AuthorizationPolicy | None = None
    """None: every authenticated workload of the mesh may call (and with PERMISSIVE everybody else too)."""
    exported: bool = True
    """Whether a ``Gateway`` host covers it."""
    subsets: Mapping[str, tuple[int, ...]] = field(default_factory=dict, hash=False)
    """What a DestinationRule defines: which of the pods, counted from 0, belong to a subset."""
    pods: int = 1
    """How many pods there are."""
    presents: str = ""
    """A fault: the SPIFFE ID in the certificate that the sidecar presents, where it is not the pod's own."""

    @property
    def host(self) -> str:
        """The name in the mesh's registry."""
        return f"{self.name}.{self.namespace}.svc.cluster.local"

    @property
    def account(self) -> str:
        """The service account's name."""
        return self.service_account or self.name

    def spiffe_id(self, trust_domain: str) -> str:
        """The identity that callers expect."""
        return f"spiffe://{trust_domain}/ns/{self.namespace}/sa/{self.account}"


@dataclass(frozen=True)
class MeshDescription:
    """A whole mesh of the lab."""

    services: tuple[Service, ...]
    trust_domain: str = "cluster.local"
    accepted_trust_domains: tuple[str, ...] = field(default=())
    """Others that sidecars accept: what ``trustDomainAliases`` and ``caCertificates[].trustDomains`` add."""
    gateways: int = 1

    @property
    def trust_domains(self) -> tuple[str, ...]:
        """All that sidecars accept, the mesh's own first."""
        return (self.trust_domain, *self.accepted_trust_domains)

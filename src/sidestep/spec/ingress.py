"""What the mesh may call on a machine: ``spec.ingress`` of a Workload."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Final

from pydantic import Field

from sidestep.spec.base import Finding, Model
from sidestep.spec.checked import one_of, whole
from sidestep.spec.networks import Network, everything, repeated
from sidestep.spec.principals import Principal
from sidestep.spec.requests import HEALTH_PATH, GrpcServiceName, Method, PathPattern, PlainPath, RequestPath
from sidestep.spec.scalars import Listen, ListenAddress, PortNumber, PortProtocol

_BESIDE: Final = 10_000
"""Where the application has the port that the mesh calls, Envoy listens on this much more."""


UnsafeTlsMode = Annotated[str, one_of(("SIMPLE", "DISABLE"))]
Seconds = Annotated[int, whole(1, 3600, "a whole number of seconds, 1 to 3600")]
Count = Annotated[int, whole(1, 1000, "a whole number, 1 to 1000")]


class Source(Model):
    """Who calls."""

    principals: Annotated[list[Principal], Field(min_length=1)]
    """Any of these, in the form of AuthorizationPolicy."""


class From(Model):
    """A source of a rule."""

    source: Source
    """Who calls."""


class Operation(Model):
    """What is asked for. What is not said may be anything; at least one is said."""

    methods: Annotated[list[Method] | None, Field(min_length=1)] = None
    """HTTP methods, such as GET; a gRPC call is a POST."""
    paths: Annotated[list[PathPattern] | None, Field(min_length=1)] = None
    """Paths without the query: exact, /prefix*, *suffix (of a path without `;`) or *; of a gRPC call
    /PACKAGE.SERVICE/METHOD."""

    def _says_something(self) -> Iterator[Finding]:
        if not self.says("methods") and not self.says("paths"):
            yield Finding((), "says nothing", allowed="methods, paths or both")

    checks = (_says_something,)


class To(Model):
    """An operation of a rule."""

    operation: Operation
    """What is asked for."""


class Rule(Model):
    """What some callers may do, as in AuthorizationPolicy: one of ``from`` and one of ``to`` must match."""

    from_: Annotated[list[From] | None, Field(alias="from", min_length=1)] = None
    """Who; everybody in `allow` unless said otherwise."""
    to: Annotated[list[To] | None, Field(min_length=1)] = None
    """What; everything unless said otherwise."""


class HttpGet(Model):
    """A request whose answer tells whether the application is well: 200 to 399."""

    path: RequestPath = "/"
    """Path to ask for."""
    port: PortNumber | None = None
    """Port to ask on, where it is not the application's own."""


class TcpSocket(Model):
    """A connection that has to be accepted."""

    port: PortNumber | None = None
    """Port to connect to, where it is not the application's own."""


class GrpcHealth(Model):
    """A call of grpc.health.v1.Health/Check that has to answer SERVING."""

    service: GrpcServiceName = ""
    """Name of the service to ask about; empty is the server as a whole."""
    port: PortNumber | None = None
    """Port to ask on, where it is not the application's own."""


class HealthCheck(Model):
    """A probe of the application, in the words of Kubernetes' probes. Exactly one of httpGet, tcpSocket and grpc."""

    http_get: HttpGet | None = None
    """Ask for a path."""
    tcp_socket: TcpSocket | None = None
    """Open a connection."""
    grpc: GrpcHealth | None = None
    """Ask the gRPC health service."""
    period_seconds: Seconds = 10
    """How often."""
    timeout_seconds: Seconds = 1
    """How long to wait for an answer."""
    failure_threshold: Count = 3
    """How many failures in a row make it unhealthy."""
    success_threshold: Count = 1
    """How many successes in a row make it healthy again."""

    @property
    def port(self) -> int | None:
        """The port to ask on, where one is said."""
        how = self.http_get or self.tcp_socket or self.grpc
        return how.port if how else None

    def _one_way(self) -> Iterator[Finding]:
        if sum(self.says(how) for how in ("http_get", "tcp_socket", "grpc")) != 1:
            yield Finding((), "says too little or too much", allowed="exactly one of httpGet, tcpSocket and grpc")

    checks = (_one_way,)


class LoadBalancer(Model):
    """An HTTPS load balancer in front of equal machines. It ends the callers' TLS, so it is the caller here."""

    sources: Annotated[list[Network], Field(min_length=1)]
    """Where its connections come from, as CIDRs; nobody else gets as far as a handshake."""
    health_path: PlainPath = HEALTH_PATH
    """Path that Envoy itself answers to it: 200 while the application is well and Envoy is not draining, else 503."""
    unsafe_tls_mode: UnsafeTlsMode | None = None
    """Do without its client certificate: SIMPLE is TLS with the machine's certificate alone, DISABLE plain text."""

    def _sources_say_it_once(self) -> Iterator[Finding]:
        return repeated("sources", self.sources)

    def _sources_are_not_all(self) -> Iterator[Finding]:
        return everything("sources", self.sources, "the addresses that the load balancer calls from")

    checks = (_sources_say_it_once, _sources_are_not_all)


class Ingress(Model):
    """A port of the machine that the mesh may call."""

    port: PortNumber
    """The port that the mesh calls: the one that its ServiceEntry declares."""
    protocol: PortProtocol
    """What it carries, as the ServiceEntry declares it."""
    listen: ListenAddress | None = None
    """Where Envoy listens; 0.0.0.0 and `port`, or `port` + 10000 where the application has that number."""
    application: ListenAddress | None = None
    """Where the application listens, in plain text; 127.0.0.1 and `port` unless said otherwise."""
    allow: Annotated[list[Principal] | None, Field(min_length=1)] = None
    """Who may call, in the form of AuthorizationPolicy. Nobody else gets through the handshake."""
    rules: Annotated[list[Rule] | None, Field(min_length=1)] = None
    """What of HTTP they may ask for; everything unless said otherwise."""
    health_check: HealthCheck | None = None
    """How to tell whether the application is well; while it is not, calls fail at once."""
    load_balancer: LoadBalancer | None = None
    """For calls that come by an HTTPS load balancer, and no other way."""

    @property
    def called_at(self) -> Listen:
        """The address of the application."""
        return self.application or Listen("127.0.0.1", self.port)

    @property
    def listens_on(self) -> Listen | None:
        """Envoy's address; None where it has to be said."""
        if self.listen:
            return self.listen
        # Envoy and the application cannot both have the number that the mesh calls.
        number = self.port + _BESIDE if self.called_at.port == self.port else self.port
        return Listen("0.0.0.0", number) if number <= 65535 else None

    @property
    def without_client_certificate(self) -> bool:
        """Whether the caller shows no certificate."""
        return bool(self.load_balancer and self.load_balancer.unsafe_tls_mode)

    def _says_who_may_call(self) -> Iterator[Finding]:
        if not self.says("allow") and not self.without_client_certificate:
            allowed = "allow: [cluster.local/ns/NAMESPACE/sa/SERVICE-ACCOUNT, …]"
            yield Finding((), "nothing says who may call", allowed=allowed)
        if self.says("allow") and self.without_client_certificate:
            message = "has no meaning where the load balancer shows no certificate"
            allowed = "allow (the load balancer's principal), or loadBalancer.unsafeTlsMode, not both"
            yield Finding(("allow",), message, allowed=allowed)

    def _suits_the_protocol(self) -> Iterator[Finding]:
        for field, name in (("rules", "rules"), ("load_balancer", "loadBalancer")):
            if not self.protocol.is_http and self.says(field):
                allowed = f"protocol HTTP, HTTP2 or GRPC, or no {name}"
                yield Finding((name,), f"only HTTP has {name}", self.protocol, allowed)

    def _can_be_asked(self) -> Iterator[Finding]:
        if self.health_check and self.health_check.says("grpc") and not self.protocol.is_http2:
            allowed = "protocol GRPC or HTTP2, or httpGet or tcpSocket"
            yield Finding(("healthCheck", "grpc"), "only gRPC has this check", self.protocol, allowed)

    def _no_principals_without_certificate(self) -> Iterator[Finding]:
        for index, rule in enumerate(self.rules or ()):
            if self.without_client_certificate and rule.knows("from_") and rule.from_:
                message = "rules cannot tell callers apart where the load balancer shows no certificate"
                yield Finding(("rules", index, "from"), message, allowed="rules without `from`")

    def _has_addresses(self) -> Iterator[Finding]:
        if self.called_at.is_unspecified:
            allowed = f"the address to call it on, such as 127.0.0.1:{self.called_at.port}"
            yield Finding(("application",), "is no address to call", str(self.called_at), allowed)
        elif self.listens_on is None:
            message = f"Envoy cannot have the application's port, nor {self.port} + {_BESIDE}"
            yield Finding(("listen",), message, allowed="an address to listen on, such as 0.0.0.0:18080")

    checks = (
        _says_who_may_call,
        _suits_the_protocol,
        _can_be_asked,
        _no_principals_without_certificate,
        _has_addresses,
    )

"""What the mesh may call on a machine: ``spec.ingress`` of a Workload."""

from __future__ import annotations

from typing import Annotated, Final, Self

from pydantic import Field, model_validator

from sidestep.spec.base import Model
from sidestep.spec.networks import Network, overlapping
from sidestep.spec.principals import Principal
from sidestep.spec.requests import GrpcServiceName, Method, PathPattern, PlainPath, RequestPath
from sidestep.spec.scalars import Checked, ListenAddress, PortNumber, PortProtocol, not_allowed

HEALTH_PATH: Final = "/healthz/ready"


def _whole(most: int, what: str) -> Checked:
    def parse(value: object) -> int:
        if type(value) is int and 1 <= value <= most:
            return value
        raise ValueError

    allowed = f"a whole number{what}, 1 to {most}"
    return Checked(parse, allowed, {"type": "integer", "minimum": 1, "maximum": most})


def _mode(value: object) -> str:
    if type(value) is str and value in {"SIMPLE", "DISABLE"}:
        return value
    raise ValueError


UnsafeTlsMode = Annotated[str, Checked(_mode, "SIMPLE or DISABLE", {"type": "string", "enum": ["SIMPLE", "DISABLE"]})]
Seconds = Annotated[int, _whole(3600, " of seconds")]
Count = Annotated[int, _whole(1000, "")]


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

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if self.methods is None and self.paths is None:
            raise not_allowed("says nothing", "methods, paths or both")
        return self


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

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if sum(how is not None for how in (self.http_get, self.tcp_socket, self.grpc)) != 1:
            raise not_allowed("says too little or too much", "exactly one of httpGet, tcpSocket and grpc")
        return self


class LoadBalancer(Model):
    """An HTTPS load balancer in front of equal machines. It ends the callers' TLS, so it is the caller here."""

    sources: Annotated[list[Network], Field(min_length=1)]
    """Where its connections come from, as CIDRs; nobody else gets as far as a handshake."""
    health_path: PlainPath = HEALTH_PATH
    """Path that Envoy itself answers to it: 200 while the application is well and Envoy is not draining, else 503."""
    unsafe_tls_mode: UnsafeTlsMode | None = None
    """Do without its client certificate: SIMPLE is TLS with the machine's certificate alone, DISABLE plain text."""

    @model_validator(mode="after")
    def _each_source_once(self) -> Self:
        if pair := overlapping(self.sources):
            raise not_allowed(f"{pair[0]} lies within {pair[1]}", "each address once")
        return self


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
    def without_client_certificate(self) -> bool:
        """Whether the caller shows no certificate."""
        return bool(self.load_balancer and self.load_balancer.unsafe_tls_mode)

    @model_validator(mode="after")
    def _says_who_may_call(self) -> Self:
        if self.allow is None and not self.without_client_certificate:
            raise not_allowed(
                "nothing says who may call",
                "allow: [cluster.local/ns/NAMESPACE/sa/SERVICE-ACCOUNT, …]",
            )
        if self.allow is not None and self.without_client_certificate:
            raise not_allowed(
                "allow has no meaning where the load balancer shows no certificate",
                "allow (the load balancer's principal), or loadBalancer.unsafeTlsMode, not both",
            )
        return self

    @model_validator(mode="after")
    def _suits_the_protocol(self) -> Self:
        if self.protocol.is_http:
            return self
        for name, value in (("rules", self.rules), ("loadBalancer", self.load_balancer)):
            if value is not None:
                raise not_allowed(f"only HTTP has {name}", f"protocol HTTP, HTTP2 or GRPC, or no {name}")
        return self

    @model_validator(mode="after")
    def _can_be_asked(self) -> Self:
        check = self.health_check
        if check and check.grpc is not None and not self.protocol.is_http2:
            raise not_allowed("healthCheck.grpc is for gRPC", "protocol GRPC or HTTP2, or httpGet or tcpSocket")
        return self

    @model_validator(mode="after")
    def _no_principals_without_certificate(self) -> Self:
        if self.without_client_certificate and any(rule.from_ for rule in self.rules or ()):
            raise not_allowed(
                "rules cannot tell callers apart where the load balancer shows no certificate", "rules without `from`"
            )
        return self

"""What makes a workload a forwarder: other machines use its listeners, and the spec says which of them may."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Final

from pydantic import Field

from sidestep.spec.base import Finding, Model
from sidestep.spec.checked import checked, one_of, whole
from sidestep.spec.documents import shown
from sidestep.spec.networks import Network, everything, parse_network, repeated
from sidestep.spec.principals import Principal
from sidestep.spec.scalars import FileName, ListenAddress
from sidestep.spec.sockets import UnixSocket

if TYPE_CHECKING:
    from sidestep.spec.base import Check
    from sidestep.spec.documents import Path
    from sidestep.spec.model import WorkloadSpec

FORWARDER: Final = "forwarder"
HEALTH: Final[Path] = ("spec", "health", "listen")
CREDENTIALS: Final[Path] = ("spec", "clients", "credentials")
_MOST: Final = 1_000_000


def _yes(value: object) -> bool:
    if value is True:
        return True
    raise ValueError


Profile = Annotated[str, one_of(("sidecar", FORWARDER))]
Count = Annotated[int, whole(1, _MOST, f"a whole number, 1 to {_MOST:,}")]
_NETWORK: Final = (
    "an IP network such as 10.1.0.0/24 or 2001:db8::/64, or one address (every one: unsafeAnyAddress: true)"
)
ClientNetwork = Annotated[str, checked(parse_network, _NETWORK)]
Yes = Annotated[bool, checked(_yes, "true, or leave it out", {"type": "boolean", "const": True})]


class MutualTLS(Model):
    """Clients that prove who they are by a certificate of the mesh."""

    principals: Annotated[list[Principal], Field(min_length=1)]
    """Any of these, in the form of AuthorizationPolicy."""


class ProxyProtocol(Model):
    """Load balancers in front of a forwarder, which say by PROXY protocol (version 1 or 2) who their clients are."""

    from_: Annotated[list[Network], Field(min_length=1)] = Field(alias="from")
    """Networks of the load balancers. What they say counts as the client's address, and nobody else may connect."""

    def _networks_say_it_once(self) -> Iterator[Finding]:
        return repeated("from", self.from_)

    def _networks_are_not_all(self) -> Iterator[Finding]:
        return everything("from", self.from_, "fewer")

    checks = (_networks_say_it_once, _networks_are_not_all)


class Clients(Model):
    """Who may use a forwarder: whoever comes from one of the networks, or presents one of the certificates."""

    cidrs: Annotated[list[ClientNetwork] | None, Field(min_length=1)] = None
    """Networks whose machines may call in plain text."""
    mutual_tls: MutualTLS | None = Field(default=None, alias="mutualTLS")
    """Certificates of the mesh whose holders may call from anywhere, by TLS."""
    credentials: FileName | None = None
    """File with the user names and passwords (htpasswd, {SHA}) that the proxy asks plain-text clients for, relative."""
    proxy_protocol: ProxyProtocol | None = None
    """Load balancers that clients come through, where those keep no addresses."""
    unsafe_any_address: Yes | None = None
    """Instead of cidrs: let everybody call in plain text who can reach the forwarder."""

    @property
    def in_plain_text(self) -> bool:
        """Whether some may call without a certificate."""
        return bool(self.cidrs or self.unsafe_any_address)

    def _somebody_may_connect(self) -> Iterator[Finding]:
        if not self.in_plain_text and not self.says("mutual_tls"):
            yield Finding((), "nothing says who may connect", allowed="cidrs, mutualTLS or both")

    def _everybody_is_not_somebody(self) -> Iterator[Finding]:
        if self.says("cidrs") and self.unsafe_any_address:
            yield Finding((), "cidrs and unsafeAnyAddress exclude each other", allowed="one of the two")

    def _credentials_are_asked_for(self) -> Iterator[Finding]:
        if self.says("credentials") and not self.in_plain_text and self.says("mutual_tls"):
            message = "credentials are asked for from clients without a certificate, and none may connect"
            yield Finding(("credentials",), message, allowed="cidrs beside credentials")

    def _networks_say_it_once(self) -> Iterator[Finding]:
        return repeated("cidrs", self.cidrs or ())

    def _networks_are_not_all(self) -> Iterator[Finding]:
        return everything("cidrs", self.cidrs or (), "fewer, or unsafeAnyAddress: true")

    checks = (
        _somebody_may_connect,
        _everybody_is_not_somebody,
        _credentials_are_asked_for,
        _networks_say_it_once,
        _networks_are_not_all,
    )


class Limits(Model):
    """How much of a forwarder its clients may take."""

    connections: Count = 10_000
    """Connections that all clients together may have open; 10000 unless said otherwise."""
    requests_per_second: Count | None = None
    """HTTP requests that one client address (of IPv6 one /64) may make each second, on each listener."""


class Health(Model):
    """An endpoint for load balancers: GET /healthz/ready says 200, and 503 once the forwarder drains."""

    listen: ListenAddress
    """Address of the endpoint. Whoever reaches it may ask."""


def _only_forwarders_have(workload: WorkloadSpec) -> Iterator[Finding]:
    """What is for a forwarder, where there is none."""
    if workload.profile != FORWARDER:
        for field in ("clients", "limits", "health"):
            if workload.says(field):
                message = "the workload is no forwarder: it serves its own machine"
                yield Finding((field,), message, allowed=f"profile: {FORWARDER} beside it")


def _forwarders_say(workload: WorkloadSpec) -> Iterator[Finding]:
    """What a forwarder needs, and has not."""
    if workload.profile == FORWARDER:
        if not workload.says("egress"):
            yield Finding(("profile",), "nothing says what it forwards to", FORWARDER, "egress beside it")
        if not workload.says("clients"):
            allowed = "clients: {cidrs: […]} beside it"
            yield Finding(("profile",), "nothing says for whom it forwards", FORWARDER, allowed)


def _somebody_asks_for_credentials(workload: WorkloadSpec) -> Iterator[Finding]:
    """Passwords, where no proxy would ask for them."""
    clients, proxy = workload.clients, workload.proxy
    if workload.profile != FORWARDER or clients is None or clients.credentials is None:
        return
    if proxy is None:
        message = "only the proxy asks for credentials, and the workload has none"
        yield Finding(CREDENTIALS[1:], message, shown(clients.credentials), "proxy in spec")
    elif isinstance(proxy.listen, UnixSocket):
        message = "a proxy on a unix-domain socket asks for none: the mode of the socket says who may connect"
        yield Finding(CREDENTIALS[1:], message, shown(clients.credentials), "a proxy that listens on an IP address")


FORWARDER_CHECKS: Final[tuple[Check, ...]] = (_only_forwarders_have, _forwarders_say, _somebody_asks_for_credentials)


def warnings(name: str, workload: WorkloadSpec, identity: str) -> Iterator[str]:
    """What a forwarder opens to more than it seems to."""
    if workload.clients and workload.clients.unsafe_any_address:
        yield f"{name}: whoever reaches the forwarder calls the mesh as {identity}"

"""What makes a workload a forwarder: other machines use its listeners, and the spec says which of them may."""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network, collapse_addresses, ip_network
from typing import TYPE_CHECKING, Annotated, Final, Self

from pydantic import Field, model_validator

from sidestep.spec.base import Model
from sidestep.spec.networks import Network, overlapping, parse_network
from sidestep.spec.principals import Principal
from sidestep.spec.scalars import Checked, FileName, ListenAddress, not_allowed

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from sidestep.errors import Problem
    from sidestep.spec.documents import Document, Path
    from sidestep.spec.model import WorkloadSpec

FORWARDER: Final = "forwarder"
HEALTH: Final[Path] = ("spec", "health", "listen")
CREDENTIALS: Final[Path] = ("spec", "clients", "credentials")
_PROFILES: Final = ("sidecar", FORWARDER)
_MOST: Final = 1_000_000


def _profile(value: object) -> str:
    if type(value) is str and value in _PROFILES:
        return value
    raise ValueError


def _count(value: object) -> int:
    if type(value) is int and 1 <= value <= _MOST:
        return value
    raise ValueError


def _yes(value: object) -> bool:
    if value is True:
        return True
    raise ValueError


Profile = Annotated[str, Checked(_profile, ", ".join(_PROFILES), {"type": "string", "enum": [*_PROFILES]})]
Count = Annotated[
    int,
    Checked(_count, f"a whole number, 1 to {_MOST:,}", {"type": "integer", "minimum": 1, "maximum": _MOST}),
]
_NETWORK: Final = (
    "an IP network such as 10.1.0.0/24 or 2001:db8::/64, or one address (every one: unsafeAnyAddress: true)"
)
ClientNetwork = Annotated[str, Checked(parse_network, _NETWORK, {"type": "string"})]
Yes = Annotated[bool, Checked(_yes, "true, or leave it out", {"type": "boolean"})]


class MutualTLS(Model):
    """Clients that prove who they are by a certificate of the mesh."""

    principals: Annotated[list[Principal], Field(min_length=1)]
    """Any of these, in the form of AuthorizationPolicy."""


class ProxyProtocol(Model):
    """Load balancers in front of a forwarder, which say by PROXY protocol (version 1 or 2) who their clients are."""

    from_: Annotated[list[Network], Field(min_length=1)] = Field(alias="from")
    """Networks of the load balancers. What they say counts as the client's address, and nobody else may connect."""

    @model_validator(mode="after")
    def _networks_say_it_once(self) -> Self:
        _check("proxyProtocol.from", self.from_, "fewer")
        return self


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

    @model_validator(mode="after")
    def _some_and_not_all(self) -> Self:
        if not self.in_plain_text and self.mutual_tls is None:
            raise not_allowed("nothing says who may connect", "cidrs, mutualTLS or both")
        if self.cidrs and self.unsafe_any_address:
            raise not_allowed("cidrs and unsafeAnyAddress exclude each other", "one of the two")
        if self.credentials and not self.in_plain_text:
            message = "credentials are asked for from clients without a certificate, and none may connect"
            raise not_allowed(message, "cidrs beside credentials")
        return self

    @model_validator(mode="after")
    def _networks_say_it_once(self) -> Self:
        _check("cidrs", self.cidrs or (), "fewer, or unsafeAnyAddress: true")
        return self


def _check(field: str, networks: Sequence[str], instead: str) -> None:
    """Raises where networks overlap, or are every address between them."""
    if pair := overlapping(networks):
        raise not_allowed(f"of {field} {pair[0]} lies within {pair[1]}", "networks that do not overlap")
    if everything := _whole(networks):
        raise not_allowed(f"{field} together are {everything}: every address", instead)


def _whole(networks: Sequence[str]) -> str:
    """The whole of an address family, where the networks make it up between them."""
    parsed = [ip_network(network) for network in networks]
    collapsed: list[IPv4Network | IPv6Network] = [
        *collapse_addresses(each for each in parsed if isinstance(each, IPv4Network)),
        *collapse_addresses(each for each in parsed if isinstance(each, IPv6Network)),
    ]
    return next((str(each) for each in collapsed if each.prefixlen == 0), "")


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


def problems(document: Document, workload: WorkloadSpec) -> Iterator[Problem]:
    """What is wrong with a forwarder's clients, with having none, or with having what only a forwarder has."""
    if workload.profile != FORWARDER:
        for field in ("clients", "limits", "health"):
            if getattr(workload, field) is not None:
                message = "the workload is no forwarder: it serves its own machine"
                yield document.problem(("spec", field), message, allowed=f"profile: {FORWARDER} beside it")
    elif not workload.egress:
        message = "nothing says what it forwards to"
        yield document.problem(("spec", "profile"), message, found=FORWARDER, allowed="egress beside it")
    elif workload.clients is None:
        message = "nothing says for whom it forwards"
        yield document.problem(("spec", "profile"), message, found=FORWARDER, allowed="clients: {cidrs: […]} beside it")
    elif workload.clients.credentials and workload.proxy is None:
        message = "only the proxy asks for credentials, and the workload has none"
        yield document.problem(CREDENTIALS, message, found=workload.clients.credentials, allowed="proxy in spec")


def warnings(name: str, workload: WorkloadSpec, identity: str) -> Iterator[str]:
    """What a forwarder opens to more than it seems to."""
    if workload.clients and workload.clients.unsafe_any_address:
        yield f"{name}: whoever reaches the forwarder calls the mesh as {identity}"

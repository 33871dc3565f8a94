"""Networks: ranges of addresses, written as CIDRs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from ipaddress import IPv4Network, IPv6Network, collapse_addresses, ip_network
from typing import Annotated

from sidestep.spec.base import Finding
from sidestep.spec.checked import checked


def parse_network(value: object) -> str:
    """What `Network` allows. Raises `ValueError`."""
    if type(value) is not str or "%" in value:
        raise ValueError
    try:
        network = ip_network(value)
    except ValueError as error:
        raise ValueError("has host bits set" if "host bits" in str(error) else "not a network") from None
    if network.version == 6 and network.network_address.ipv4_mapped is not None:
        raise ValueError("stands for IPv4 addresses, which a listener sees as IPv4")
    if network.prefixlen == 0:
        raise ValueError("is every address")
    return str(network)


def repeated(field: str, networks: Sequence[str]) -> Iterator[Finding]:
    """Networks of a field that others of it hold already."""
    for narrower, wider in _overlapping(networks):
        yield Finding((field, narrower), f"lies within {wider}", networks[narrower], "networks that do not overlap")


def everything(field: str, networks: Sequence[str], instead: str) -> Iterator[Finding]:
    """Networks of a field that make up every address of a family between them."""
    if whole := _whole(networks):
        yield Finding((field,), f"together they are {whole}: every address", allowed=instead)


def _whole(networks: Sequence[str]) -> str:
    parsed = [ip_network(network) for network in networks]
    collapsed: list[IPv4Network | IPv6Network] = [
        *collapse_addresses(each for each in parsed if isinstance(each, IPv4Network)),
        *collapse_addresses(each for each in parsed if isinstance(each, IPv6Network)),
    ]
    return next((str(each) for each in collapsed if each.prefixlen == 0), "")


def _overlapping(networks: Sequence[str]) -> Iterator[tuple[int, str]]:
    """Which of the networks lie within another, each with the widest of those; of equal ones, all but the first."""
    parsed = [ip_network(network) for network in networks]
    order = sorted(
        range(len(parsed)),
        key=lambda at: (parsed[at].version, int(parsed[at].network_address), parsed[at].prefixlen, at),
    )
    # In this order a network is followed at once by all that lie within it.
    wider = None
    for at in order:
        if wider is not None and wider.version == parsed[at].version and parsed[at].network_address in wider:
            yield at, str(wider)
        else:
            wider = parsed[at]


Network = Annotated[str, checked(parse_network, "an IP network such as 10.1.0.0/24 or 2001:db8::/64, or one address")]

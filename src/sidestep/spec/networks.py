"""Networks: ranges of addresses, written as CIDRs."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Network, IPv6Network, ip_network
from itertools import permutations
from typing import Annotated

from sidestep.spec.scalars import Checked


def _network(value: object) -> str:
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


def overlapping(networks: Sequence[str]) -> tuple[str, str] | None:
    """Two of the networks of which the first lies within the second; None where there are none."""
    for first, second in permutations(map(ip_network, networks), 2):
        if _lies_within(first, second):
            return str(first), str(second)
    return None


def _lies_within(first: IPv4Network | IPv6Network, second: IPv4Network | IPv6Network) -> bool:
    if isinstance(first, IPv4Network) and isinstance(second, IPv4Network):
        return first.subnet_of(second)
    return isinstance(first, IPv6Network) and isinstance(second, IPv6Network) and first.subnet_of(second)


Network = Annotated[
    str,
    Checked(_network, "an IP network such as 10.1.0.0/24 or 2001:db8::/64, or one address", {"type": "string"}),
]

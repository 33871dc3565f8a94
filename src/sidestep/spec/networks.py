"""Networks: ranges of addresses, written as CIDRs."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import ip_network
from itertools import pairwise
from typing import Annotated

from sidestep.spec.scalars import Checked


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


def overlapping(networks: Sequence[str]) -> tuple[str, str] | None:
    """Two of the networks of which the first lies within the second; None where there are none."""
    ordered = sorted(
        map(ip_network, networks), key=lambda each: (each.version, int(each.network_address), each.prefixlen)
    )
    # In this order a network is followed at once by the first of those that lie within it.
    for wider, narrower in pairwise(ordered):
        if wider.version == narrower.version and narrower.network_address in wider:
            return str(narrower), str(wider)
    return None


Network = Annotated[
    str,
    Checked(parse_network, "an IP network such as 10.1.0.0/24 or 2001:db8::/64, or one address", {"type": "string"}),
]

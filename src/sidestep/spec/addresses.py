"""Virtual addresses: a loopback address for each service, so that its own port numbers can be used unchanged."""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import sha256
from ipaddress import IPv4Network
from typing import Annotated, Final

from sidestep.spec.base import Model
from sidestep.spec.checked import checked

_LOOPBACK: Final = IPv4Network("127.0.0.0/8")
_RESERVED: Final = IPv4Network("127.0.0.0/24")
"""127.0.0.1 is everybody's, and 127.0.0.53 mostly systemd-resolved's."""
_ALLOWED: Final = "an IPv4 network inside 127.0.0.0/8 and outside 127.0.0.0/24, from /9 to /24, such as 127.77.0.0/16"


def _loopback_network(value: object) -> IPv4Network:
    if type(value) is not str or "/" not in value:
        raise ValueError
    network = IPv4Network(value)
    if not network.subnet_of(_LOOPBACK) or network.overlaps(_RESERVED) or not 9 <= network.prefixlen <= 24:
        raise ValueError
    return network


class Addresses(Model):
    """Gives each service of the egress an address of its own, on which its ports have their own numbers."""

    range: Annotated[IPv4Network, checked(_loopback_network, _ALLOWED)] = IPv4Network("127.77.0.0/16")
    """Network that the addresses are taken from."""


def allocate(hosts: Iterable[str], network: IPv4Network) -> dict[str, str]:
    """An address of ``network`` for each host, by a digest of its name: the same one whatever else is called.

    Where two hosts come out at one address, the one that sorts later takes the next; with a /16 that is one pair in
    300 services. Raises `ValueError` if there are more hosts than addresses.
    """
    usable = network.num_addresses - 2
    taken: dict[int, str] = {}
    wanted = sorted(set(hosts))
    if len(wanted) > usable:
        raise ValueError(f"{len(wanted)} services, and {usable} addresses in {network}")
    for host in wanted:
        at = int.from_bytes(sha256(host.encode()).digest()[:8]) % usable
        while at in taken:
            at = (at + 1) % usable
        taken[at] = host
    return {host: str(network[at + 1]) for at, host in taken.items()}

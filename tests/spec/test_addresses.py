"""Addresses of services' own: stable, apart from each other, within the network that the spec names."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidestep.spec.addresses import allocate

NETWORK = IPv4Network("127.77.0.0/16")
HOSTS = st.sets(st.from_regex(r"[a-z]{1,8}\.[a-z]{1,4}\.svc", fullmatch=True), max_size=60)


@given(HOSTS)
def test_every_host_has_an_address_of_its_own_in_the_network(hosts: set[str]) -> None:
    addresses = allocate(hosts, NETWORK)
    assert addresses.keys() == hosts
    assert len(set(addresses.values())) == len(hosts)
    usable = [IPv4Address(address) for address in addresses.values()]
    assert all(address in NETWORK and address not in {NETWORK[0], NETWORK[-1]} for address in usable)


def test_an_address_does_not_depend_on_what_else_is_called() -> None:
    alone = allocate(["reviews.bookinfo.svc"], NETWORK)
    assert alone.items() <= allocate([f"s{i}.x.svc" for i in range(50)] + ["reviews.bookinfo.svc"], NETWORK).items()


def test_a_small_network_is_filled_to_the_last_address_and_no_further() -> None:
    network = IPv4Network("127.77.0.0/24")
    hosts = [f"s{i}" for i in range(254)]
    assert len(set(allocate(hosts, network).values())) == 254
    with pytest.raises(ValueError, match=r"255 services, and 254 addresses in 127\.77\.0\.0/24"):
        allocate([*hosts, "one-more"], network)

"""Who and what the mesh refuses in the handshake, each for its own reason."""

from __future__ import annotations

import datetime as dt
import json

from typing import TYPE_CHECKING

import pytest

from . import clients
from .certificates import Authority
from .mesh import spiffe_id
from .processes import until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from .certificates import Identity
    from .machine import Egress, Machine, Machines
    from .mesh import Mesh

pytestmark = pytest.mark.xdist_group("istiod")
OPEN = "open.strict"
BILLING = spiffe_id("billing")
FAILED = "certificate verification error at depth"


def of_another_root(istio: Mesh) -> Identity:
    return Authority("another root").intermediate("machines").issue(BILLING).trusting(istio.root)


def expired(istio: Mesh) -> Identity:
    return istio.machine_ca.issue(BILLING, age=dt.timedelta(days=2))


def not_yet_valid(istio: Mesh) -> Identity:
    return istio.machine_ca.issue(BILLING, age=dt.timedelta(days=-2))


def without_its_intermediate(istio: Mesh) -> Identity:
    return istio.machine_ca.issue(BILLING).without_intermediates()


def of_a_foreign_trust_domain(istio: Mesh) -> Identity:
    return istio.machine_ca.issue(spiffe_id("billing", trust_domain="vms.example"))


def outside_its_cas_constraint(istio: Mesh) -> Identity:
    return istio.root.intermediate("constrained", permitted="vms.example").issue(BILLING)


def inside_its_cas_constraint(istio: Mesh) -> Identity:
    """The chain holds, so what is refused is the trust domain alone."""
    constrained = istio.root.intermediate("constrained", permitted="vms.example")
    return constrained.issue(spiffe_id("billing", trust_domain="vms.example"))


REFUSED = [
    (of_another_root, f"{FAILED} 1: unable to get local issuer certificate"),
    (expired, f"{FAILED} 0: certificate has expired"),
    (not_yet_valid, f"{FAILED} 0: certificate is not yet valid"),
    (without_its_intermediate, f"{FAILED} 0: unable to get local issuer certificate"),
    (of_a_foreign_trust_domain, "SAN matcher"),
    (outside_its_cas_constraint, f"{FAILED} 0: permitted subtree violation"),
    (inside_its_cas_constraint, "SAN matcher"),
]


@pytest.fixture
def three_ports(istio: Mesh) -> list[Egress]:
    return [(istio.services[OPEN], port, "") for port in (9080, 50051, 9000)]


def assert_all_refused(machine: Machine, service: str = OPEN) -> None:
    response = machine[service].http()
    assert (response.status, response.heard) == (503, {})
    assert machine[service].unary().code == "UNAVAILABLE"
    assert machine[service].exchange(b"ping") == b""


def assert_all_pass(machine: Machine, service: str = OPEN) -> None:
    assert machine[service].http().status == 200
    assert machine[service].unary().code == "OK"
    assert machine[service].exchange(b"ping") == b"ping"


@pytest.mark.parametrize(("identity", "reason"), REFUSED, ids=[case[0].__name__ for case in REFUSED])
def test_a_machine_is_refused_with_a_certificate(
    istio: Mesh,
    machines: Machines,
    three_ports: list[Egress],
    identity: Callable[[Mesh], Identity],
    reason: str,
) -> None:
    sidecar = istio.proxies[OPEN].process
    with machines.running("billing", istio.machine_ca.issue(BILLING), three_ports) as machine:
        assert_all_pass(machine)
        before = len(sidecar.text())
        identity(istio).write(machine.bundle / "certs")
        until(lambda: machine[OPEN].exchange(b"ping") == b"", "the new certificate is refused")
        assert_refused_for(reason, sidecar.text()[before:])
        istio.machine_ca.issue(BILLING).write(machine.bundle / "certs")
        until(lambda: machine[OPEN].exchange(b"ping") == b"ping", "the right certificate passes")


def assert_refused_for(reason: str, log: str) -> None:
    print(log)

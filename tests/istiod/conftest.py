"""One mesh for all tests of this folder."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from . import machine, mesh
from .certificates import spiffe_id

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .machine import Egress, Machine, Machines
    from .mesh import Mesh

BINARY = "pilot-discovery"


def missing() -> str:
    """What this host lacks for a mesh; empty if nothing."""
    folder = os.environ.get("SIDESTEP_TEST_SERVERS", "")
    if not folder:
        return "SIDESTEP_TEST_SERVERS is unset: no real istiod"
    if sys.platform != "linux":
        return "network namespaces need Linux"
    if os.geteuid():
        return "network namespaces need root"
    if absent := [command for command in ("ip", "iptables") if not shutil.which(command)]:
        return f"not installed: {', '.join(absent)}"
    return "" if Path(folder, BINARY).exists() else f"no {BINARY} in SIDESTEP_TEST_SERVERS"


@pytest.fixture(scope="session")
def istio() -> Iterator[Mesh]:
    """The mesh that the real istiod runs."""
    if reason := missing():
        pytest.skip(reason)
    with mesh.running(Path(os.environ["SIDESTEP_TEST_SERVERS"], BINARY)) as running:
        yield running


@pytest.fixture(scope="session")
def machines(istio: Mesh) -> Iterator[Machines]:
    with machine.outside(istio) as machines:
        yield machines


@pytest.fixture(scope="session")
def egress(istio: Mesh) -> list[Egress]:
    """Every port of every service, the undeclared ones as what their applications speak."""
    undeclared = {9081: "HTTP", 9082: "TCP"}
    return [(service, port, undeclared.get(port, "")) for service in istio.services.values() for port in service.ports]


@pytest.fixture(scope="session")
def billing(istio: Mesh, machines: Machines, egress: list[Egress]) -> Iterator[Machine]:
    """The machine that the policy on `guarded` admits."""
    with machines.running("billing", istio.authorities.machine(spiffe_id("billing")), egress) as billing:
        yield billing


@pytest.fixture(scope="session")
def stranger(istio: Mesh, machines: Machines, egress: list[Egress]) -> Iterator[Machine]:
    """A machine under the same root that no policy names."""
    with machines.running("stranger", istio.authorities.machine(spiffe_id("stranger")), egress) as stranger:
        yield stranger

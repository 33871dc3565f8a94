"""A certificate is replaced while calls go on."""

from __future__ import annotations

from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING

import pytest

from sidestep.files import write_set
from tests.envoys import eventually

from . import clients
from .certificates import spiffe_id, write_one_by_one

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from .machine import Machine, Machines
    from .mesh import Mesh

pytestmark = pytest.mark.xdist_group("istiod")
OPEN, GUARDED = "open.strict", "guarded.strict"
ROTATIONS = 20


@pytest.mark.parametrize("put", [write_one_by_one, write_set])
def test_no_call_fails_while_certificates_change(
    istio: Mesh, machines: Machines, tmp_path: Path, put: Callable[[Path, dict[str, bytes]], None]
) -> None:
    egress = [(istio.services[OPEN], 9080, ""), (istio.services[OPEN], 9000, ""), (istio.services[GUARDED], 9000, "")]
    stop = tmp_path / "stop"
    with machines.running("billing", istio.authorities.machine(spiffe_id("billing")), egress) as machine:
        http = machine[OPEN].start(clients.http_load, 9080, 2, stop)
        tcp = machine[OPEN].start(clients.tcp_load, 9000, 2, stop)
        try:
            rotate(istio, machine, put)
        finally:
            stop.touch()
            loads = [http.result(), tcp.result()]
    assert [load.failures for load in loads] == [(), ()]
    assert all(load.answered > ROTATIONS for load in loads)


def rotate(istio: Mesh, machine: Machine, put: Callable[[Path, dict[str, bytes]], None]) -> None:
    """Between two identities, of which a policy admits one: that shows which is in use."""
    for turn in range(ROTATIONS):
        name, expected = ("billing", b"ping") if turn % 2 else ("stranger", b"")
        put(machine.bundle / "certs", istio.authorities.machine(spiffe_id(name)).files())
        eventually(f"{name} in use", partial(_answers, machine, expected))


def _answers(machine: Machine, expected: bytes) -> bool:
    return machine[GUARDED].exchange(b"ping") == expected


def test_new_connections_end_with_the_certificate(istio: Mesh, machines: Machines) -> None:
    """Sidecars resume sessions without asking for the certificate again; a machine that let them would never expire."""
    soon = istio.authorities.machine(spiffe_id("billing"), age=timedelta(hours=24, seconds=-4))
    with machines.running("billing", soon, [(istio.services[OPEN], 9000, "")]) as machine:
        assert machine[OPEN].exchange(b"ping") == b"ping"
        eventually("the certificate has expired", lambda: machine[OPEN].exchange(b"ping") != b"ping")
        assert machine[OPEN].exchange(b"ping") == b""

"""A certificate is replaced while calls go on."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import pytest

from . import clients
from .certificates import Identity
from .mesh import spiffe_id
from .processes import until

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from .machine import Machine, Machines
    from .mesh import Mesh

pytestmark = pytest.mark.xdist_group("istiod")
OPEN, GUARDED = "open.strict", "guarded.strict"
ROTATIONS = 20


def answers(machine: Machine, expected: bytes) -> bool:
    """Whether the guarded service gives this answer."""
    return machine[GUARDED].exchange(b"ping") == expected


@pytest.mark.parametrize("put", [Identity.write, Identity.link], ids=["file by file", "all at once"])
def test_no_call_fails_while_certificates_change(
    istio: Mesh, machines: Machines, tmp_path: Path, put: Callable[[Identity, Path], None]
) -> None:
    """It changes between two identities, of which a policy admits one: that shows which is in use."""
    egress = [(istio.services[OPEN], 9080, ""), (istio.services[OPEN], 9000, ""), (istio.services[GUARDED], 9000, "")]
    stop = tmp_path / "stop"
    with machines.running("billing", istio.machine_ca.issue(spiffe_id("billing")), egress) as machine:
        http = machine[OPEN].start(clients.http_load, 9080, 2, stop)
        tcp = machine[OPEN].start(clients.tcp_load, 9000, 2, stop)
        for turn in range(ROTATIONS):
            name, expected = ("billing", b"ping") if turn % 2 else ("stranger", b"")
            put(istio.machine_ca.issue(spiffe_id(name)), machine.bundle / "certs")
            until(partial(answers, machine, expected), f"{name} in use")
        stop.touch()
        loads = [http.result(), tcp.result()]
    assert [load.failures for load in loads] == [(), ()]
    assert all(load.answered > ROTATIONS for load in loads)

"""The names that a proxy knows change while it is in use."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from tests.by_name.test_http_proxy import REVIEWS, TCP, answer, ask, get
from tests.by_name.test_tunnels import tunnel
from tests.commands import run
from tests.envoys import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.by_name.conftest import Machine

pytestmark = pytest.mark.xdist_group("by-name")

DETAILS = "details.bookinfo:9080"


@contextmanager
def added(machine: Machine, egress: str) -> Iterator[None]:
    """One more egress for the length of the block."""
    mesh, workload = (machine.directory / "machine" / "spec" / name for name in ("mesh.yaml", "billing.yaml"))
    before = workload.read_text(encoding="utf-8")
    for text in (before.replace("  ingress:\n", f"{egress}  ingress:\n"), before):
        workload.write_text(text, encoding="utf-8")
        assert run("render", mesh, workload, "-o", machine.bundle).code == 0
        if text != before:
            yield


def test_a_new_name_is_known_and_a_tunnel_to_another_goes_on(machine: Machine) -> None:
    listeners = (machine.bundle / "lds.json").read_bytes()
    with tunnel(machine, TCP) as of_bytes, tunnel(machine, REVIEWS) as of_requests:
        with added(machine, "  - {host: details.bookinfo, port: 9080, listen: none}\n"):
            assert (machine.bundle / "lds.json").read_bytes() == listeners
            eventually("the new name is known", lambda: ask(machine, get(DETAILS))[0] == 503)
            of_bytes.sendall(b"still there")
            assert of_bytes.recv(100) == b"still there"
            of_requests.sendall(get(DETAILS).encode())
            assert answer(of_requests)[0] == 503, "it is known in tunnels that were there before, too"
        eventually("the name is forgotten", lambda: ask(machine, get(DETAILS))[0] == 404)
        of_bytes.sendall(b"and still")
        assert of_bytes.recv(100) == b"and still"
        for name, status in ((DETAILS, 404), (REVIEWS, 200)):
            of_requests.sendall(get(name).encode())
            assert answer(of_requests)[0] == status

"""The names that a proxy knows change while it is in use."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from tests.by_name.test_http_proxy import TCP, answer, ask, connected, get
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
    with connected(machine) as tunnel:
        tunnel.sendall(f"CONNECT {TCP} HTTP/1.1\r\nhost: {TCP}\r\n\r\n".encode())
        assert answer(tunnel)[0] == 200
        with added(machine, "  - {host: details.bookinfo, port: 9080, listen: none}\n"):
            assert (machine.bundle / "lds.json").read_bytes() == listeners
            eventually("the new name is known", lambda: ask(machine, get(DETAILS))[0] == 503)
            tunnel.sendall(b"still there")
            assert tunnel.recv(100) == b"still there"
        eventually("the name is forgotten", lambda: ask(machine, get(DETAILS))[0] == 404)
        tunnel.sendall(b"and still")
        assert tunnel.recv(100) == b"and still"

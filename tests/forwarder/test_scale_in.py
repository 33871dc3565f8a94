"""A forwarder is taken away under load, as `docs/forwarder.md` says, and nobody notices."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import TYPE_CHECKING

import pytest

from sidestep.proxy.admin import Admin
from tests.envoys import eventually
from tests.forwarder.conftest import ADDRESS, ANOTHER, HEALTH, HTTP, TCP, UNTOUCHED

if TYPE_CHECKING:
    from pathlib import Path

    from tests.envoys import Running
    from tests.forwarder.conftest import Site

pytestmark = pytest.mark.xdist_group("forwarder")

CLIENTS = {"cidrs": ["10.99.0.0/24"]}
BALANCER = "127.0.0.1:8000"


def test_nothing_fails_when_one_of_two_goes(site: Site, tmp_path: Path) -> None:
    both = [f"{address}:{HTTP}" for address in (ADDRESS, ANOTHER)]
    with (
        site.forwarder(tmp_path / "one", ADDRESS, clients=CLIENTS) as leaving,
        site.forwarder(tmp_path / "two", ANOTHER, clients=CLIENTS) as staying,
        site.program(UNTOUCHED, "balancer", BALANCER, *both, "--health", str(HEALTH)) as balancer,
        site.program(UNTOUCHED, "load", BALANCER) as load,
    ):
        eventually("both are called", lambda: min(answered(leaving), answered(staying)) > 50)
        admin = Admin(leaving.directory / "admin.sock")
        assert admin.request("/healthcheck/fail", "POST").status == 200
        assert site.curl(UNTOUCHED, f"http://{ADDRESS}:{HEALTH}/healthz/ready")[0] == "503"
        assert balancer.stdout
        assert balancer.stdout.readline() == f"{ADDRESS}:{HTTP}\n", "it is taken out"
        eventually("no client is left", lambda: connections(leaving) == 0)
        before = answered(staying)
        leaving.process.terminate()
        leaving.process.wait(20)
        eventually("the other is called", lambda: answered(staying) > before + 50)
        out, _ = load.communicate("stop\n", timeout=30)
    counts = json.loads(out)
    assert counts["failed"] == [], counts
    assert counts["answered"] > 200


def test_a_tcp_connection_lives_while_it_drains(site: Site, tmp_path: Path) -> None:
    with site.forwarder(tmp_path, clients=CLIENTS) as forwarder:

        async def talk() -> None:
            command = [*site.on(UNTOUCHED), sys.executable, "-m", "tests.forwarder.load", f"{ANOTHER}:{TCP}", "--tcp"]
            pipe = asyncio.subprocess.PIPE
            client = await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe)
            assert client.stdout
            assert await client.stdout.readline() == b"ready\n"
            await asyncio.to_thread(Admin(forwarder.directory / "admin.sock").request, "/healthcheck/fail", "POST")
            out, _ = await client.communicate(b"stop\n")
            assert json.loads(out)["failed"] == []

        asyncio.run(talk())


def answered(forwarder: Running) -> int:
    """How many requests it has answered well."""
    return sum(forwarder.stats(r"^http\.egress_http\.downstream_rq_2xx$").values())


def connections(forwarder: Running) -> int:
    """How many clients are connected, counted as the page says."""
    counts = forwarder.stats("downstream_cx_active")
    return sum(count for name, count in counts.items() if "admin" not in name and "health" not in name)

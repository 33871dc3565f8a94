"""Reserved ports are nobody else's, and a log is read by what was added since a mark."""

from __future__ import annotations

import asyncio
import json
import random
import socket
import sys
from typing import TYPE_CHECKING

import pytest

from sidestep.errors import EnvoyError
from sidestep.lab.access_log import AccessLog, Entry
from sidestep.lab.ports import Ports

if TYPE_CHECKING:
    from pathlib import Path

linux = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a port is only found to be free")


@linux
def test_a_reserved_port_is_for_those_who_may_reuse_it() -> None:
    with Ports() as ports, socket.socket() as envoy, socket.socket() as other:
        port = ports.reserve()
        with pytest.raises(OSError, match="in use"):
            other.bind(("127.0.0.1", port))
        envoy.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        envoy.bind(("127.0.0.1", port))
        envoy.listen()
        socket.create_connection(("127.0.0.1", port)).close()


def test_a_port_without_a_listener_refuses() -> None:
    with Ports() as ports, pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", ports.reserve()))


@linux
def test_two_labs_never_get_one_port() -> None:
    with Ports() as one, Ports() as other:
        reserved = [ports.reserve() for _ in range(200) for ports in (one, other)]
    assert len(set(reserved)) == len(reserved)


def line(**fields: str | int) -> str:
    return json.dumps(fields) + "\n"


def test_a_log_gives_what_came_after_the_mark_and_no_half_line(tmp_path: Path) -> None:
    log = AccessLog(tmp_path / "access.log")
    assert (log.mark(), log.since(0)) == (0, [])
    (tmp_path / "access.log").write_text(line(method="GET"))
    mark = log.mark()
    with (tmp_path / "access.log").open("a") as file:
        file.write(line(method="POST") + line(method="PUT")[:5])
    assert [entry.fields["method"] for entry in log.since(mark)] == ["POST"]


def test_waiting_ends_with_the_entry_or_the_deadline(tmp_path: Path) -> None:
    log = AccessLog(tmp_path / "access.log")

    async def run() -> tuple[Entry | None, Entry | None]:
        waiting = asyncio.create_task(log.wait(0, lambda entry: entry.status == 403))
        await asyncio.sleep(0)
        (tmp_path / "access.log").write_text(line(response_code=200) + line(response_code=403))
        return await waiting, await log.wait(0, lambda entry: entry.status == 500, deadline=0.05)

    found, missing = asyncio.run(run())
    assert found is not None
    assert missing is None


@pytest.mark.parametrize(
    ("fields", "kind", "refusal"),
    [
        ({"method": "GET", "response_code": 200}, "http", ""),
        ({"method": "GET", "response_code_details": "rbac_access_denied_x"}, "http", "rbac_access_denied_x"),
        ({"access_log_type": "TcpConnectionEnd"}, "tcp", ""),
        ({"response_flags": "NR"}, "connection", "no filter chain matches its SNI and ALPN"),
        ({"downstream_transport_failure_reason": "TLS_error"}, "connection", "TLS_error"),
    ],
)
def test_an_entry_tells_what_it_is_and_why_it_was_refused(
    fields: dict[str, str | int | None], kind: str, refusal: str
) -> None:
    entry = Entry(fields)
    assert (entry.kind, entry.refusal) == (kind, refusal)


@linux
def test_a_network_is_had_by_one_lab_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(random, "randint", lambda first, _last: first)
    with Ports() as ports:
        assert ports.network() == "127.64.0.0/24"
        with Ports() as others, pytest.raises(EnvoyError, match="no free network"):
            others.network()
    with Ports() as ports:
        assert ports.network() == "127.64.0.0/24"

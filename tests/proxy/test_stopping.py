"""The end of an Envoy: drained, cut, killed, or tied to its parent's."""

from __future__ import annotations

import asyncio
import os
import select
import signal
import socket
import subprocess
import sys
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from sidestep.proxy.binary import Envoy
from tests.proxy.static import CHILD, HOST, echo, forward, free_port, process, run, script, write_static

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@asynccontextmanager
async def slow_application() -> AsyncIterator[tuple[int, asyncio.Event, asyncio.Event]]:
    """An HTTP/1.1 server that answers when it is told to; its port, `asked` and `may_answer`."""
    asked, may_answer, closed = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        asked.set()
        await may_answer.wait()
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\ndone")
        writer.close()
        await asyncio.wait([asyncio.ensure_future(writer.wait_closed())])
        closed.set()

    server = await asyncio.start_server(serve, HOST, 0)
    async with server:
        yield server.sockets[0].getsockname()[1], asked, may_answer
        await closed.wait()


async def ask(port: int) -> bytes:
    reader, writer = await asyncio.open_connection(HOST, port)
    writer.write(b"GET / HTTP/1.1\r\nhost: app\r\n\r\n")
    try:
        return await reader.readuntil(b"done")
    except (asyncio.IncompleteReadError, ConnectionResetError):
        return b""
    finally:
        writer.close()


def test_stop_lets_requests_in_flight_finish(tmp_path: Path) -> None:
    async def test() -> None:
        async with slow_application() as (application, asked, may_answer):
            port = free_port()
            write_static(tmp_path, forward("http", port, application))
            async with process(tmp_path) as envoy:
                await envoy.wait_ready()
                request = asyncio.create_task(ask(port))
                await asked.wait()
                stopping = asyncio.create_task(envoy.stop(drain=30))
                while (await envoy.admin("/ready")).body != b"DRAINING\n":
                    assert envoy.running
                may_answer.set()
                answer = await request
                assert await stopping == 0
            assert answer.endswith(b"done")
            assert b"connection: close" in answer

    run(test)


def test_stop_without_draining_cuts_them(tmp_path: Path) -> None:
    async def test() -> None:
        async with slow_application() as (application, asked, may_answer):
            port = free_port()
            write_static(tmp_path, forward("http", port, application))
            async with process(tmp_path) as envoy:
                await envoy.wait_ready()
                request = asyncio.create_task(ask(port))
                await asked.wait()
                assert await envoy.stop(drain=0) == 0
            may_answer.set()
            assert await request == b""

    run(test)


def test_stop_does_not_wait_where_nothing_is_in_flight(tmp_path: Path) -> None:
    write_static(tmp_path, echo("one", free_port()))

    async def test() -> None:
        async with process(tmp_path) as envoy:
            await envoy.wait_ready()
            async with asyncio.timeout(20):
                assert await envoy.stop(drain=600) == 0
            assert await envoy.stop() == 0

    run(test)


def test_stop_waits_no_longer_than_it_is_told(tmp_path: Path) -> None:
    port = free_port()
    write_static(tmp_path, echo("one", port))

    async def test() -> None:
        async with process(tmp_path) as envoy:
            await envoy.wait_ready()
            with socket.create_connection((HOST, port)) as client:
                client.sendall(b"x")
                client.recv(1)
                assert await envoy.stop(drain=0.3) == 0
                assert client.recv(1) == b""

    run(test)


def test_an_envoy_that_will_not_stop_is_killed(tmp_path: Path) -> None:
    write_static(tmp_path)
    stubborn = Envoy(script(tmp_path, "trap '' TERM; echo > started; while :; do sleep 0.05; done"), (1, 40, 0), "", "")

    async def test() -> None:
        async with process(tmp_path, stubborn) as envoy:
            while not (tmp_path / "started").exists():
                await asyncio.sleep(0)
            assert await envoy.stop(drain=0.1, grace=0.1) == -signal.SIGKILL

    run(test)


PARENT = """
import asyncio, os, signal, sys
from pathlib import Path
from sidestep.proxy.binary import find
from sidestep.proxy.process import Process

async def main():
    envoy = Process(find(), Path(), Path(), concurrency=1, die_with_parent=True)
    await envoy.start()
    await envoy.wait_ready()
    print(envoy.pid, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(main())
"""


def test_an_envoy_can_be_tied_to_the_life_of_its_parent(tmp_path: Path) -> None:
    write_static(tmp_path, echo("one", free_port()))
    (tmp_path / "parent.py").write_text(PARENT)
    command = [sys.executable, "parent.py"]
    parent = subprocess.run(command, cwd=tmp_path, env=CHILD, capture_output=True, text=True, check=False)
    assert parent.returncode == -signal.SIGKILL, parent.stderr
    envoy = os.pidfd_open(int(parent.stdout)) if Path("/proc", parent.stdout.strip()).exists() else None
    if envoy is not None:
        assert select.select([envoy], [], [], 20)[0], "it outlives its parent"
        os.close(envoy)

"""Calls again and again: the same one at once by many callers, or one after the other over one connection or tunnel."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

import grpc
import grpc.aio

from sidestep.lab.clients import CHANNEL_OPTIONS, DEADLINE, Answer
from sidestep.lab.services import GRPC_SERVICE

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable


async def many(call: Callable[[int], Awaitable[Answer]], port: int, calls: int, callers: int) -> list[Answer]:
    """The same call again and again, ``callers`` of them at a time."""
    free = asyncio.Semaphore(callers)

    async def one() -> Answer:
        async with free:
            return await call(port)

    return await asyncio.gather(*(one() for _ in range(calls)))


@asynccontextmanager
async def tcp_lines(port: int) -> AsyncIterator[Callable[[str], Awaitable[str]]]:
    """A connection to an echo that is kept; each call sends a line and gives what comes back, if anything does."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)

    async def line(text: str) -> str:
        with suppress(OSError):  # TimeoutError is one
            async with asyncio.timeout(DEADLINE):
                writer.write(f"{text}\n".encode())
                return (await reader.readline()).decode(errors="replace").rstrip("\n")
        return ""

    try:
        yield line
    finally:
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()


@asynccontextmanager
async def grpc_tunnel(port: int, name: str, authority: str = "") -> AsyncIterator[Callable[[int], Awaitable[Answer]]]:
    """A gRPC channel that is kept, through the proxy on a port; each call sends a message on it.

    With ``authority`` the calls ask for that, and not for what the tunnel is opened to.
    """
    options: list[tuple[str, str | int]] = [*CHANNEL_OPTIONS, ("grpc.http_proxy", f"http://127.0.0.1:{port}")]
    options += [("grpc.default_authority", authority)] if authority else []
    async with grpc.aio.insecure_channel(name, options=options) as channel:
        method: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(f"/{GRPC_SERVICE}/Unary")

        async def call(_port: int) -> Answer:
            try:
                reply: bytes = await method(b"hello", timeout=DEADLINE)
            except grpc.aio.AioRpcError as error:
                return Answer(ok=False, status=error.code().name, error=error.details() or "")
            return Answer(ok=True, status="OK", text=reply.decode())

        yield call

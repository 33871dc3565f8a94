"""Calls again and again: the same one at once by many callers, or line after line over one connection."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

from sidestep.lab.clients import DEADLINE

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from sidestep.lab.clients import Answer


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

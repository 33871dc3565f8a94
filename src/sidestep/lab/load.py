"""Requests that flow while something happens to what they go through."""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import httpx2

from sidestep.lab.clients import http_client, words

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

_KEPT_ERRORS = 5


@dataclass
class Load:
    """What a running load has seen so far."""

    total: int = 0
    failed: int = 0
    errors: list[str] = field(default_factory=list)
    """The first few, as text."""
    longest: float = 0.0
    """Seconds that the slowest took."""
    cut: int = 0
    """Answers that had begun and did not end: nobody can ask again for those. Not among the failed ones."""
    concurrency: int = 0
    """How many callers there are."""

    async def more(self, requests: int, *, deadline: float = 30.0) -> None:
        """Wait until so many more requests have been answered, or raise `TimeoutError`."""
        target = self.total + requests
        async with asyncio.timeout(deadline):
            while self.total < target:
                await asyncio.sleep(0.005)

    def count(self, error: str, seconds: float = 0.0) -> None:
        """Count one request; ``error`` is empty where it succeeded."""
        self.total += 1
        self.longest = max(self.longest, seconds)
        if error:
            self.failed += 1
            self.errors += [error] if len(self.errors) < _KEPT_ERRORS else []


@asynccontextmanager
async def keep_calling(port: int, *, path: str = "/", concurrency: int = 8) -> AsyncIterator[Load]:
    """Send GET requests over kept-alive HTTP/1.1 connections for as long as the block lasts.

    At the end of the block every request in flight is waited for, so the counts are complete after it.
    """
    counts, stopping = Load(concurrency=concurrency), asyncio.Event()
    url = f"http://127.0.0.1:{port}{path}"
    async with http_client(connections=concurrency) as client:
        callers = [asyncio.create_task(_requests(client, url, counts, stopping)) for _ in range(concurrency)]
        try:
            yield counts
        finally:
            stopping.set()
            await asyncio.gather(*callers)


async def _requests(client: httpx2.AsyncClient, url: str, counts: Load, stopping: asyncio.Event) -> None:
    while not stopping.is_set():
        started = time.perf_counter()
        try:
            response = await client.get(url)
            error = "" if response.status_code == 200 else f"{response.status_code} {response.text[:200]}"
        except httpx2.HTTPError as failure:
            error = words(failure)
            if "message body" in error:
                counts.cut += 1
                continue
        counts.count(error, time.perf_counter() - started)
        await asyncio.sleep(0.01 if error else 0)

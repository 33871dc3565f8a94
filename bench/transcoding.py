"""REST through transcoding against native gRPC: the same calls through the same listener of a machine.

::

    client ─▶ machine (transcoder, or not) ─ mTLS ─▶ gateway ─▶ sidecar ─▶ pay.v1.Ledger

The mesh is the lab's, every Envoy with one worker. Both clients are Python's, so their own cost is in both figures; the
ratio says what a caller notices.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any, Final

import grpc
import grpc.aio
import httpx2
from google.protobuf.message_factory import GetMessageClass

import measure
from sidestep.lab import ledger, sample
from sidestep.lab.clients import CHANNEL_OPTIONS, NO_PROXY
from sidestep.lab.session import open_lab
from sidestep.lab.watchdog import Watchdog
from sidestep.proxy import binary

CALLS: Final = 400
AT_ONCE: Final = (1, 16)
_PORT: Final = 50052
Once = Callable[[], Awaitable[object]]


async def main() -> None:
    """Measures and prints."""
    options = measure.options(__doc__, runs=5)
    heads = ("way", "calls at once", "calls/s", "of native gRPC", "p50 ms", "p99 ms")
    report = measure.Report("REST by transcoding and native gRPC", heads)
    with measure.scratch() as directory, Watchdog() as watchdog:
        async with open_lab(binary.find(), directory / "lab", watchdog) as lab, AsyncExitStack() as stack:
            ways = await _ways(lab.machine.listen(sample.LEDGER, _PORT), stack)
            for at_once in AT_ONCE:
                _report(report, at_once, await _measured(ways, at_once, options.runs))
    report.show(as_json=options.json)


async def _ways(port: int, stack: AsyncExitStack) -> dict[str, Once]:
    channel = await stack.enter_async_context(
        grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=[*CHANNEL_OPTIONS, *NO_PROXY])
    )
    method = ledger.method("GetEntry")
    native: Any = channel.unary_unary(
        f"/{ledger.LEDGER}/GetEntry",
        GetMessageClass(method.input_type).SerializeToString,
        GetMessageClass(method.output_type).FromString,
    )
    request = ledger.message("GetEntryRequest", account="a", id="1")
    limits = httpx2.Limits(max_connections=max(AT_ONCE), max_keepalive_connections=max(AT_ONCE))
    client = await stack.enter_async_context(httpx2.AsyncClient(trust_env=False, limits=limits))
    url = f"http://127.0.0.1:{port}/v1/accounts/a/entries/1"

    async def rest() -> None:
        (await client.get(url)).raise_for_status()

    async def grpc_call() -> None:
        await native(request, timeout=20)

    return {"native gRPC": grpc_call, "REST": rest}


async def _measured(ways: dict[str, Once], at_once: int, runs: int) -> dict[str, list[list[float]]]:
    """Seconds of every call, for each way and run; the ways take turns."""
    found: dict[str, list[list[float]]] = {name: [] for name in ways}
    for _ in range(runs):
        for name, once in ways.items():
            await _load(once, at_once, 20)
            found[name].append(await _load(once, at_once, CALLS))
    return found


async def _load(once: Once, at_once: int, calls: int) -> list[float]:
    """The seconds of each call, and the whole time as the last."""
    seconds: list[float] = []

    async def caller() -> None:
        for _ in range(calls // at_once):
            started = time.perf_counter()
            await once()
            seconds.append(time.perf_counter() - started)

    started = time.perf_counter()
    await asyncio.gather(*(caller() for _ in range(at_once)))
    return [*seconds, time.perf_counter() - started]


def _report(report: measure.Report, at_once: int, found: dict[str, list[list[float]]]) -> None:
    rates = {name: measure.median([(len(run) - 1) / run[-1] for run in runs]) for name, runs in found.items()}
    for name, runs in found.items():
        every = [second * 1000 for run in runs for second in run[:-1]]
        p99 = statistics.quantiles(every, n=100)[98]
        report.row(name, at_once, rates[name], rates[name] / rates["native gRPC"], measure.median(every), p99)


if __name__ == "__main__":
    asyncio.run(main())

"""A gateway dies, or hangs, under load: how many calls fail, and how long the longest one waits.

Real Envoys: two gateways, one machine with as many services as ``--sizes`` says. Each fault hits the gateway in use;
then it comes back, and the machine must go back to it. Calls: GET over HTTP/1.1, GET over HTTP/2, a line over a TCP
connection that is kept, all at once; and, after the gateway is lost, the first calls ever to services that nothing has
called before, so that whatever the others have learned of the gateway is unknown there.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Final, TypeAlias

import httpx2

import measure
from measure import Report, options, scratch
from sidestep import onboard
from sidestep.files import write_set
from sidestep.lab import clients
from sidestep.lab.envoys import Runtime
from sidestep.lab.identities import Authorities
from sidestep.lab.mesh import Gateway, Mesh, start_mesh
from sidestep.lab.ports import Ports
from sidestep.lab.topology import Application, MeshDescription, Protocol, Service, ServicePort
from sidestep.lab.watchdog import Watchdog
from sidestep.pki.spiffe import SpiffeId
from sidestep.proxy import binary
from sidestep.proxy.process import Process
from sidestep.proxy.validation import validate

CALLERS: Final = 6
"""For each kind of call."""
PATIENCE: Final = 20.0
"""Seconds after which a call counts as failed."""
FIRST_CALLS_AFTER: Final = (0.2, 1.0, 3.0, 6.0)
"""Seconds after the loss."""
TCP: Final = "TCP"
POST: Final = "POST over HTTP/1.1"
OVER_HTTP: Final = "over HTTP"
BILLING: Final = SpiffeId("cluster.local", "vms", "billing")

Call: TypeAlias = "Callable[[], Awaitable[None]]"
"""One call. It raises `OSError` if it fails, `Cut` if the answer had begun."""


class Cut(Exception):
    """The connection ended after an answer had begun: nobody can ask again."""


@dataclass
class Load:
    """What callers have seen."""

    total: int = 0
    failed: int = 0
    cut: int = 0
    longest: float = 0.0
    errors: set[str] = field(default_factory=set)

    async def time(self, call: Call) -> None:
        """One call."""
        started, error = time.perf_counter(), ""
        try:
            async with asyncio.timeout(PATIENCE):
                await call()
        except Cut:
            self.cut += 1
            return
        except OSError as failure:  # TimeoutError is one
            error = f"{type(failure).__name__}: {failure}"
        self.total += 1
        self.longest = max(self.longest, time.perf_counter() - started)
        if error:
            self.failed += 1
            self.errors.add(error)


@contextlib.asynccontextmanager
async def http(port: int, method: str = "GET", *, http2: bool = False) -> AsyncIterator[Call]:
    """Requests by a client of its own."""

    async def call() -> None:
        begun = False
        try:
            async with client.stream(method, f"http://127.0.0.1:{port}/") as response:
                begun = response.status_code == 200
                text = await response.aread()
        except httpx2.HTTPError as failure:
            raise (Cut if begun else OSError)(f"{type(failure).__name__}: {failure}") from failure
        if not begun:
            raise OSError(f"{response.status_code} {text[:80]!r}")

    async with httpx2.AsyncClient(http1=not http2, http2=http2, trust_env=False, timeout=PATIENCE) as client:
        yield call


@contextlib.asynccontextmanager
async def tcp(port: int) -> AsyncIterator[Call]:
    """Lines over a connection that is kept; a new one where it broke."""
    opened: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def call() -> None:
        reader, writer = opened.pop() if opened else await asyncio.open_connection("127.0.0.1", port)
        answer = b""
        try:
            writer.write(b"ping\n")
            answer = await reader.readline()
        finally:
            if answer:
                opened.append((reader, writer))
            else:
                writer.close()
        if not answer:
            raise OSError("closed")

    yield call
    for _, writer in opened:
        writer.close()


@dataclass(frozen=True)
class Kind:
    """A kind of call: the port that is busy, and those that nothing calls before the gateway is lost."""

    first: int
    protocol: Protocol
    application: Application
    caller: Callable[[int], AbstractAsyncContextManager[Call]]
    busy: bool = True

    @property
    def ports(self) -> list[ServicePort]:
        """The busy one, then the others."""
        numbers = range(self.first, self.first + 1 + len(FIRST_CALLS_AFTER))
        return [ServicePort(number, self.protocol, self.application) for number in numbers]


KINDS: Final = {
    "GET over HTTP/1.1": Kind(9100, Protocol.HTTP, Application.HTTP, http),
    "GET over HTTP/2": Kind(9200, Protocol.HTTP2, Application.HTTP, partial(http, http2=True)),
    TCP: Kind(9300, Protocol.TCP, Application.TCP_ECHO, tcp),
    # Under way when the gateway hangs they would wait as long as it does; docs/gateways.md says so.
    POST: Kind(9400, Protocol.HTTP, Application.HTTP, partial(http, method="POST"), busy=False),
}
SERVICE: Final = Service("reviews", "bookinfo", tuple(port for kind in KINDS.values() for port in kind.ports))


@dataclass
class Machine:
    """The machine under test."""

    process: Process
    listens: Mapping[int, int]
    """For each port of the service, where it is called."""

    async def uses(self, gateway: Gateway, kind: Kind) -> int:
        """How many requests, or TCP connections, have gone to a gateway."""
        said = (await self.process.admin("/clusters", timeout=30)).body
        counted = "cx_total" if kind.protocol is Protocol.TCP else "rq_total"
        line = f"outbound|{kind.first}||{SERVICE.host}::127.0.0.1:{gateway.port}::{counted}::"
        found = re.search(re.escape(line).encode() + rb"(\d+)", said)
        return int(found[1]) if found else 0

    @contextlib.asynccontextmanager
    async def loaded(self) -> AsyncIterator[dict[str, Load]]:
        """Callers of every kind, for as long as the block lasts."""
        stopping = asyncio.Event()
        loads = {name: Load() for name, kind in KINDS.items() if kind.busy}
        calling = [self._repeat(KINDS[name], load, stopping) for name, load in loads.items() for _ in range(CALLERS)]
        callers = [asyncio.create_task(each) for each in calling]
        try:
            yield loads
        finally:
            stopping.set()
            await asyncio.gather(*callers)

    async def _repeat(self, kind: Kind, load: Load, stopping: asyncio.Event) -> None:
        async with kind.caller(self.listens[kind.first]) as call:
            while not stopping.is_set():
                await load.time(call)
                await asyncio.sleep(0.03)

    async def first_calls(self) -> dict[str, Load]:
        """One call of every kind at each time of `FIRST_CALLS_AFTER`, each to a service of its own."""
        loads = {name: Load() for name in KINDS}
        async with AsyncExitStack() as stack, asyncio.TaskGroup() as group:
            for name, kind in KINDS.items():
                for port, seconds in zip(kind.ports[1:], FIRST_CALLS_AFTER, strict=True):
                    call = await stack.enter_async_context(kind.caller(self.listens[port.number]))
                    group.create_task(_later(seconds, loads[name], call))
        return loads


async def _later(seconds: float, load: Load, call: Call) -> None:
    await asyncio.sleep(seconds)
    await load.time(call)


def documents(mesh: Mesh, listens: Mapping[int, int], size: int, *, status: bool) -> str:
    """What a user would write: the service that is called, and others that make up the number."""
    text = measure.documents(size - len(listens), [])
    gateways = [
        f"  - {{address: 127.0.0.1, port: {each.port}{f', statusPort: {each.status}' if status else ''}}}\n"
        for each in mesh.gateways
    ]
    ports = ", ".join(f"{{number: {port.number}, protocol: {port.protocol}}}" for port in SERVICE.ports)
    service = f"  - {{host: {SERVICE.host}, ports: [{ports}], serviceAccounts: [reviews]}}\n"
    calls = [f"  - {{host: reviews, port: {port}, listen: 127.0.0.1:{at}}}\n" for port, at in listens.items()]
    for name, lines in {"gateways": gateways, "services": [service], "egress": calls}.items():
        text = text.replace(f"  {name}:\n", f"  {name}:\n{''.join(lines)}")
    return text


@contextlib.asynccontextmanager
async def started(directory: Path, runtime: Runtime, size: int, *, status: bool) -> AsyncIterator[tuple[Mesh, Machine]]:
    """A mesh and a machine."""
    authorities = Authorities.make("cluster.local", datetime.now(UTC))
    async with start_mesh(MeshDescription((SERVICE,), gateways=2), authorities, directory / "mesh", runtime) as mesh:
        listens = {port.number: runtime.ports.reserve() for port in SERVICE.ports}
        (directory / "spec.yaml").write_text(documents(mesh, listens, size, status=status))
        [bundle] = onboard.bundles(onboard.load([str(directory / "spec.yaml")]))
        bundle.install(directory / "bundle", validate=lambda place, file: validate(runtime.envoy, place, file))
        write_set(directory / "bundle" / "certs", authorities.machine(BILLING).files())
        (directory / "logs").mkdir()
        process = Process(runtime.envoy, directory / "bundle", directory / "logs", concurrency=2)
        async with process:
            runtime.watchdog.started(process.pid)
            await process.wait_ready()
            yield mesh, Machine(process, listens)
        runtime.watchdog.ended(process.pid)


@dataclass(frozen=True)
class Measured:
    """What one fault did to one kind of call."""

    size: int
    asked: str
    fault: str
    calls: str
    load: Load
    back: float | None = None
    """Seconds until the gateway was used again; negative where it was not."""


async def fault(mesh: Mesh, machine: Machine, how: str) -> list[tuple[str, Load, float | None]]:
    """A gateway is lost under load, and comes back."""
    gateway = mesh.gateways[0]
    async with machine.loaded() as loads:
        await asyncio.sleep(1.5)
        await gateway.envoy.kill() if how == "kill" else gateway.envoy.pause()
        first, _ = await asyncio.gather(machine.first_calls(), asyncio.sleep(8))
        await gateway.envoy.start() if how == "kill" else gateway.envoy.resume()
        back = await asyncio.gather(*(used_again(machine, gateway, KINDS[name]) for name in loads))
    busy = zip(loads, loads.values(), back, strict=True)
    return [*busy, *((f"first {name}", load, None) for name, load in first.items())]


async def used_again(machine: Machine, gateway: Gateway, kind: Kind) -> float:
    """Seconds until a gateway is used again."""
    since, before = time.monotonic(), await machine.uses(gateway, kind)
    while time.monotonic() < since + 75:
        await asyncio.sleep(0.25)
        if kind.protocol is Protocol.TCP:  # those that are open stay where they are
            await clients.tcp_echo(machine.listens[kind.first])
        if await machine.uses(gateway, kind) > before:
            return time.monotonic() - since
    return -1.0


async def measured(runs: int, sizes: tuple[int, ...]) -> list[Measured]:
    """Every fault at every size: with a status port, and without."""
    results = []
    with Watchdog() as watchdog, Ports() as ports, scratch() as directory:
        runtime = Runtime(binary.find(), ports, watchdog)
        for size in sizes:
            for status in (False, True):
                for run in range(runs):
                    place = directory / f"{size}-{status}-{run}"
                    async with started(place, runtime, size, status=status) as (mesh, machine):
                        for how in ("kill", "hang"):
                            asked = OVER_HTTP if status else "by connecting"
                            found = await fault(mesh, machine, how)
                            results += [Measured(size, asked, how, *each) for each in found]
    return results


def main() -> None:
    """Measures and reports."""
    asked = options(__doc__, runs=1, sizes=(20, 1000, 5000))
    heads = ("services", "gateway is asked", "fault", "calls", "made", "failed", "cut short", "longest (s)", "back (s)")
    report = Report("Failover", heads)
    results = asyncio.run(measured(asked.runs, asked.sizes))
    for each in results:
        load, back = each.load, "" if each.back is None else each.back
        row = (f"{each.size:,}", each.asked, each.fault, each.calls)
        report.row(*row, load.total, load.failed, load.cut, load.longest, back)
    for size in asked.sizes:
        _targets(report, [each for each in results if each.size == size])
    report.show(as_json=asked.json)


def _targets(report: Report, results: list[Measured]) -> None:
    size = f"{results[0].size:,} services: "
    gets = [each.load for each in results if "GET" in each.calls]
    report.target(f"{size}failed GET requests", sum(load.failed for load in gets), 0)
    report.target(f"{size}seconds that the longest GET took", max(load.longest for load in gets), 3)
    first = [each.load for each in results if each.calls in (f"first {TCP}", f"first {POST}")]
    report.target(f"{size}first POSTs and TCP connections that failed", sum(load.failed for load in first), 0)
    report.target(f"{size}seconds that the longest of them took", max(load.longest for load in first), 3)
    noticed = [each for each in results if each.calls == TCP and (each.fault == "kill" or each.asked == OVER_HTTP)]
    text = f"{size}seconds that open TCP connections stood still, but for a hang that nothing tells"
    report.target(text, max(each.load.longest for each in noticed), 3)
    back = [each.back for each in results if each.back is not None]
    report.target(f"{size}seconds until the gateway is used again", max(back), 30)


if __name__ == "__main__":
    main()

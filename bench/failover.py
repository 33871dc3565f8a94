"""A gateway dies, or hangs, under load: how many calls fail, and how long the longest one waits.

Real Envoys: two gateways, one service, one machine. Each fault hits the gateway in use; then it comes back, and the
machine must go back to it. Calls: GET over HTTP/1.1, GET over HTTP/2, a line over a TCP connection that is kept.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import httpx2

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

CALLERS: Final = 16
OVER_HTTP: Final = "over HTTP"
PATIENCE: Final = 20.0
"""Seconds after which a call counts as failed."""
BILLING: Final = SpiffeId("cluster.local", "vms", "billing")
PORTS: Final = {
    "HTTP/1.1": ServicePort(9080, Protocol.HTTP, Application.HTTP),
    "HTTP/2": ServicePort(9090, Protocol.HTTP2, Application.HTTP),
    "TCP": ServicePort(9000, Protocol.TCP, Application.TCP_ECHO),
}
SERVICE: Final = Service("reviews", "bookinfo", tuple(PORTS.values()))


@dataclass
class Load:
    """What the callers have seen."""

    total: int = 0
    failed: int = 0
    cut: int = 0
    """Answers that had begun: nobody can ask again for those."""
    longest: float = 0.0
    errors: set[str] = field(default_factory=set)
    stopping: asyncio.Event = field(default_factory=asyncio.Event)

    def count(self, seconds: float, error: str = "") -> None:
        """One call."""
        self.total += 1
        self.longest = max(self.longest, seconds)
        if error:
            self.failed += 1
            self.errors.add(error)


async def http_caller(port: int, load: Load, *, http2: bool) -> None:
    """GETs, one after the other."""
    async with httpx2.AsyncClient(http1=not http2, http2=http2, trust_env=False, timeout=PATIENCE) as client:
        while not load.stopping.is_set():
            started, begun = time.perf_counter(), False
            try:
                async with client.stream("GET", f"http://127.0.0.1:{port}/") as response:
                    begun = response.status_code == 200
                    text = await response.aread()
                error = "" if begun else f"{response.status_code} {text[:80]!r}"
            except httpx2.HTTPError as failure:
                error = f"{type(failure).__name__}: {failure}"
                if begun:
                    load.cut += 1
                    continue
            load.count(time.perf_counter() - started, error)
            await asyncio.sleep(0.01)


async def tcp_caller(port: int, load: Load) -> None:
    """Lines over a connection that is kept; a new one where it breaks."""
    writer = None
    while not load.stopping.is_set():
        started, error = time.perf_counter(), ""
        try:
            async with asyncio.timeout(PATIENCE):
                if writer is None:
                    reader, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.write(b"ping\n")
                if await reader.readline() != b"ping\n":
                    error = "closed"
        except OSError as failure:  # TimeoutError is one
            error = type(failure).__name__
        load.count(time.perf_counter() - started, error)
        if error and writer:
            writer.close()
            writer = None
        await asyncio.sleep(0.01)
    if writer:
        writer.close()


CALLS: Final[dict[str, Callable[[int, Load], Coroutine[None, None, None]]]] = {
    "HTTP/1.1": lambda port, load: http_caller(port, load, http2=False),
    "HTTP/2": lambda port, load: http_caller(port, load, http2=True),
    "TCP": tcp_caller,
}


@contextlib.asynccontextmanager
async def loaded(port: int, kind: str) -> AsyncIterator[Load]:
    """Callers, for as long as the block lasts."""
    load = Load()
    callers = [asyncio.create_task(CALLS[kind](port, load)) for _ in range(CALLERS)]
    try:
        yield load
    finally:
        load.stopping.set()
        await asyncio.gather(*callers)


@dataclass
class Machine:
    """The machine under test."""

    process: Process
    listens: dict[str, int]

    async def uses(self, gateway: Gateway, kind: str) -> int:
        """How many requests, or TCP connections, have gone to a gateway."""
        reply = await self.process.admin("/clusters?format=json")
        cluster = f"outbound|{PORTS[kind].number}||{SERVICE.host}"
        counted = "cx_total" if kind == "TCP" else "rq_total"
        statuses = [each for each in json.loads(reply.body)["cluster_statuses"] if each["name"] == cluster]
        for host in statuses[0]["host_statuses"]:
            if host["address"]["socket_address"]["port_value"] == gateway.port:
                return sum(int(each.get("value", 0)) for each in host["stats"] if each["name"] == counted)
        return 0


def documents(mesh: Mesh, listens: dict[str, int], *, status: bool) -> str:
    """What a user would write."""
    ports = [(each.port, each.status) for each in mesh.gateways]
    gateways = [
        f"  - {{address: 127.0.0.1, port: {port}{f', statusPort: {asked}' if status else ''}}}" for port, asked in ports
    ]
    declared = ", ".join(f"{{number: {each.number}, protocol: {each.protocol}}}" for each in PORTS.values())
    calls = [
        f"  - {{host: reviews, port: {PORTS[kind].number}, listen: 127.0.0.1:{listen}}}"
        for kind, listen in listens.items()
    ]
    lines = [
        "apiVersion: sidestep/v1alpha1",
        "kind: Mesh",
        "metadata: {name: bench}",
        "spec:",
        "  gateways:",
        *gateways,
    ]
    lines += ["  services:", f"  - {{host: {SERVICE.host}, ports: [{declared}], serviceAccounts: [reviews]}}", "---"]
    lines += ["apiVersion: sidestep/v1alpha1", "kind: Workload", "metadata: {name: billing, namespace: vms}", "spec:"]
    return "\n".join([*lines, "  egress:", *calls]) + "\n"


@contextlib.asynccontextmanager
async def started(directory: Path, runtime: Runtime, *, status: bool) -> AsyncIterator[tuple[Mesh, Machine]]:
    """A mesh and a machine."""
    authorities = Authorities.make("cluster.local", datetime.now(UTC))
    async with start_mesh(MeshDescription((SERVICE,), gateways=2), authorities, directory / "mesh", runtime) as mesh:
        listens = {kind: runtime.ports.reserve() for kind in PORTS}
        (directory / "spec.yaml").write_text(documents(mesh, listens, status=status))
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
    """One fault."""

    load: Load
    back: float
    """Seconds until the gateway was used again; negative where it was not."""


async def fault(mesh: Mesh, machine: Machine, kind: str, how: str) -> Measured:
    """A gateway is lost under load, and comes back."""
    gateway = mesh.gateways[0]
    async with loaded(machine.listens[kind], kind) as load:
        await asyncio.sleep(1.5)
        await gateway.envoy.kill() if how == "kill" else gateway.envoy.pause()
        await asyncio.sleep(8)
        await gateway.envoy.start() if how == "kill" else gateway.envoy.resume()
        back = await used_again(machine, gateway, kind)
    return Measured(load, back)


async def used_again(machine: Machine, gateway: Gateway, kind: str) -> float:
    """Seconds until a gateway is used again."""
    since, before = time.monotonic(), await machine.uses(gateway, kind)
    while time.monotonic() < since + 75:
        await asyncio.sleep(0.1)
        if kind == "TCP":  # those that are open stay where they are
            await clients.tcp_echo(machine.listens[kind])
        if await machine.uses(gateway, kind) > before:
            return time.monotonic() - since
    return -1.0


async def measured(runs: int, kinds: Sequence[str], hows: Sequence[str]) -> list[tuple[str, str, str, Measured]]:
    """Every fault, for every kind of call, with a status port and without."""
    results = []
    with Watchdog() as watchdog, Ports() as ports, scratch() as directory:
        runtime = Runtime(binary.find(), ports, watchdog)
        for status in (False, True):
            for run in range(runs):
                place = directory / f"{status}-{run}"
                async with started(place, runtime, status=status) as (mesh, machine):
                    for kind in kinds:
                        for how in hows:
                            result = await fault(mesh, machine, kind, how)
                            asked = OVER_HTTP if status else "by connecting"
                            results.append((kind, how, asked, result))
    return results


def main() -> None:
    """Measures and reports."""
    asked = options(__doc__, runs=1)
    heads = ("calls", "fault", "gateway is asked", "made", "failed", "cut short", "longest (s)", "back after (s)")
    report = Report("Failover", heads)
    results = asyncio.run(measured(asked.runs, tuple(PORTS), ("kill", "hang")))
    for kind, how, way, result in results:
        load = result.load
        report.row(kind, how, way, load.total, load.failed, load.cut, load.longest, result.back)
    http = [result.load for kind, _, _, result in results if kind != "TCP"]
    report.target("failed GET requests", sum(load.failed for load in http), 0)
    report.target("seconds that the longest GET took", max(load.longest for load in http), 3)
    noticed = [each for kind, how, way, each in results if kind == "TCP" and (how == "kill" or way == OVER_HTTP)]
    report.target(
        "seconds that TCP stood still, but for a hang that is not noticed",
        max(each.load.longest for each in noticed),
        3,
    )
    report.target("seconds until the gateway is used again", max(result.back for _, _, _, result in results), 30)
    report.show(as_json=asked.json)


if __name__ == "__main__":
    main()

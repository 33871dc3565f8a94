"""A lab that is up: the mesh, the machine, and what scenarios do with them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import orjson
from cryptography import x509

from sidestep.errors import SidestepError
from sidestep.lab import sample
from sidestep.lab.access_log import AccessLog, Entry
from sidestep.lab.envoys import Runtime
from sidestep.lab.identities import Authorities
from sidestep.lab.machine import Calls, Edit, Machine, start_machine
from sidestep.lab.mesh import Gateway, Mesh, start_mesh
from sidestep.lab.pod import Outbound, Pod
from sidestep.lab.ports import Ports
from sidestep.lab.scenarios import EGRESS, SOCKETS, TUNED, Call, Outcome, Scenario, Verdict
from sidestep.lab.serving import serve_applications
from sidestep.lab.topology import Service
from sidestep.lab.watchdog import Watchdog
from sidestep.pki.identity import Identity
from sidestep.pki.spiffe import SpiffeId
from sidestep.proxy.binary import Envoy

_BILLING: Final = SpiffeId.parse(f"spiffe://{sample.BILLING}")
_PATIENCE: Final = 5.0
"""Seconds that a change may take to show."""
_RECOVERY: Final = 15.0
"""Seconds that it may take until a gateway that is back is used again."""
_LONGEST: Final = 60.0
"""Seconds that one scenario may take."""


@dataclass(frozen=True)
class Result:
    """A scenario that has been run."""

    scenario: Scenario
    outcome: Outcome
    milliseconds: float


@dataclass(frozen=True)
class Marks:
    """Where the logs of everybody on a call's way ended before it was made."""

    lab: Lab
    machine: Machine
    service: Service
    ends: dict[str, list[int]]

    async def sidecar(self, wanted: Callable[[Entry], bool]) -> Entry | None:
        """What the destination's sidecar has logged since."""
        return await self.of("sidecar", wanted)

    async def of(self, place: str, wanted: Callable[[Entry], bool]) -> Entry | None:
        """What the ``machine``, a ``gateway`` or the ``sidecar`` has logged since; None if nothing like it comes."""
        logs = self.lab.logs(self.machine, self.service)[place]
        waits = [log.wait(mark, wanted, deadline=_PATIENCE) for log, mark in zip(logs, self.ends[place], strict=True)]
        return await _first(waits)

    async def gateway(self, call: Call) -> str:
        """The address of the gateway that took the call, as the machine's Envoy has it."""
        wanted = [str(call.port), call.service.host]
        entry = await self.of("machine", lambda entry: entry.cluster.split("|")[1::2] == wanted)
        return str(entry.fields["upstream_host"]) if entry else "no gateway"


@dataclass(frozen=True)
class Forwarder:
    """A machine for others, and the local port of its health endpoint."""

    machine: Machine
    health: int


@dataclass
class Lab:
    """The running lab."""

    mesh: Mesh
    machine: Machine
    directory: Path
    runtime: Runtime
    _others: int = 0
    _pods: int = 0

    def logs(self, machine: Machine, service: Service) -> dict[str, list[AccessLog]]:
        """The access logs along the way from a machine to a service."""
        gateways = [gateway.envoy.log for gateway in self.mesh.gateways]
        sidecars = [pod.sidecar.log for pod in self.mesh.replicas[service.host]]
        return {"machine": [machine.log], "gateway": gateways, "sidecar": sidecars}

    def marks(self, service: Service, machine: Machine | None = None) -> Marks:
        """To be taken before a call."""
        machine = machine or self.machine
        logs = self.logs(machine, service)
        return Marks(self, machine, service, {place: [log.mark() for log in each] for place, each in logs.items()})

    @asynccontextmanager
    async def other_machine(
        self, call: Call, identity: Callable[[Authorities], Identity], edit: Edit | None
    ) -> AsyncIterator[Machine]:
        """A second machine, with a certificate and perhaps a fault of its own, that can make one call."""
        self._others += 1
        directory = self.directory / f"other-machine-{self._others}"
        held, egress = identity(self.mesh.authorities), [(call.service, call.port)]
        async with start_machine(
            self.mesh, _BILLING, directory, self.runtime, egress=egress, identity=held, edit=edit
        ) as machine:
            yield machine

    @asynccontextmanager
    async def addressed_machine(self, calls: Iterable[Call]) -> AsyncIterator[Machine]:
        """A second machine, on which every service has an address of its own and its own port numbers."""
        self._others += 1
        directory = self.directory / f"other-machine-{self._others}"
        async with start_machine(
            self.mesh,
            _BILLING,
            directory,
            self.runtime,
            egress=[(call.service, call.port) for call in calls],
            identity=self.mesh.authorities.machine(_BILLING),
            addresses=self.runtime.ports.network(),
        ) as machine:
            yield machine

    @asynccontextmanager
    async def forwarder(self, call: Call, clients: str, users: str) -> AsyncIterator[Forwarder]:
        """A machine for others: ``clients`` as in its spec, ``users`` in the file ``clients.htpasswd`` beside it."""
        self._others += 1
        directory = self.directory / f"forwarder-{self._others}"
        (directory / "spec").mkdir(parents=True)
        (directory / "spec" / "clients.htpasswd").write_text(users)
        health = self.runtime.ports.reserve()
        more = f"  profile: forwarder\n  clients: {clients}\n  health: {{listen: 127.0.0.1:{health}}}\n"
        held, egress = self.mesh.authorities.machine(_BILLING), [(call.service, call.port)]
        async with start_machine(
            self.mesh, _BILLING, directory, self.runtime, egress=egress, identity=held, more=more
        ) as machine:
            yield Forwarder(machine, health)

    @asynccontextmanager
    async def pod(
        self, identity: Callable[[Authorities], Identity], change: Callable[[Outbound], Outbound] | None = None
    ) -> AsyncIterator[Pod]:
        """A pod of the mesh that calls the machine, perhaps otherwise than istiod would have it call."""
        self._pods += 1
        outbound = [
            Outbound(
                sample.BILLING_HOST,
                served.port.number,
                served.port.protocol,
                served.listen,
                str(self.machine.spiffe_id),
                self.runtime.ports.reserve(),
            )
            for served in self.machine.ingress
        ]
        changed = [change(each) for each in outbound] if change else outbound
        pod = Pod(self.directory / f"pod-{self._pods}", changed, identity(self.mesh.authorities), self.runtime)
        try:
            await pod.envoy.start()
            yield pod
        finally:
            await pod.envoy.stop()

    async def renew(self) -> bool:
        """Gives the machine a new certificate; whether its Envoy uses that soon."""
        identity = self.mesh.authorities.machine(self.machine.spiffe_id)
        serial = x509.load_pem_x509_certificates(identity.chain)[0].serial_number
        self.machine.hold(identity)

        async def in_use() -> bool:
            reply = await self.machine.process.admin("/certs")
            return f"{serial:x}" in {held.lstrip("0") for held in _serials(reply.body)}

        return await _eventually(in_use)

    @asynccontextmanager
    async def added(self, service: Service, port: int) -> AsyncIterator[int]:
        """Adds a service to the machine's spec for the length of the block; gives the local port."""
        listen = self.runtime.ports.reserve()
        calls = Calls(service, port, listen)
        self.machine.egress.append(calls)
        await asyncio.to_thread(self.machine.render)
        try:
            await _eventually(lambda: self._knows(service, port))
            await _eventually(lambda: _accepts(listen))
            yield listen
        finally:
            self.machine.egress.remove(calls)
            await asyncio.to_thread(self.machine.render)

    async def _knows(self, service: Service, port: int) -> bool:
        """Whether the machine's Envoy has the cluster: it opens a listener a moment before a new cluster is warm."""
        clusters = await self.machine.process.admin("/clusters")
        return f"outbound|{port}||{service.host}::".encode() in clusters.body

    async def connections(self, call: Call) -> int:
        """How many connections there are for what a call goes to."""
        cluster = f"outbound|{call.port}||{call.service.host}"
        return sum([await self._counted(cluster, gateway, "cx_active") for gateway in self.mesh.gateways])

    async def uses(self, call: Call, gateway: Gateway) -> bool:
        """Whether a call soon goes through a gateway (again)."""

        async def used() -> bool:
            before = await self.through(call, gateway)
            await call.by(self.machine)
            return await self.through(call, gateway) > before

        return await _eventually(used, _RECOVERY)

    async def through(self, call: Call, gateway: Gateway) -> int:
        """How many requests and connections for what a call goes to have gone through a gateway."""
        return await self._counted(f"outbound|{call.port}||{call.service.host}", gateway, "rq_total", "cx_total")

    async def _counted(self, cluster: str, gateway: Gateway, *what: str) -> int:
        reply = await self.machine.process.admin("/clusters?format=json")
        [hosts] = [each for each in orjson.loads(reply.body)["cluster_statuses"] if each["name"] == cluster]
        for host in hosts["host_statuses"]:
            if host["address"]["socket_address"]["port_value"] == gateway.port:
                return sum(int(each.get("value", 0)) for each in host["stats"] if each["name"] in what)
        return 0

    async def is_closed(self, port: int) -> bool:
        """Whether a local port is soon closed."""

        async def closed() -> bool:
            return not await _accepts(port)

        return await _eventually(closed)


@asynccontextmanager
async def open_lab(envoy: Envoy, directory: Path, watchdog: Watchdog) -> AsyncIterator[Lab]:
    """Starts the sample mesh and onboards the machine; everything ends with the block."""
    authorities = Authorities.make(sample.MESH.trust_domain, datetime.now(UTC))
    with Ports() as ports:
        runtime = Runtime(envoy, ports, watchdog)
        async with start_mesh(sample.MESH, authorities, directory / "mesh", runtime) as mesh:
            identity = authorities.machine(_BILLING)
            async with (
                serve_applications(runtime) as ingress,
                start_machine(
                    mesh,
                    _BILLING,
                    directory / "machine",
                    runtime,
                    egress=EGRESS,
                    sockets=SOCKETS,
                    tuned=TUNED,
                    ingress=ingress,
                    identity=identity,
                ) as machine,
            ):
                yield Lab(mesh, machine, directory, runtime)


async def run(lab: Lab, scenarios: Iterable[Scenario]) -> AsyncIterator[Result]:
    """Runs scenarios one after the other and gives each result as it comes."""
    for scenario in scenarios:
        started = time.monotonic()
        try:
            async with asyncio.timeout(_LONGEST) as limit:
                outcome = await scenario.run(lab)
        except TimeoutError as error:
            detail = f"not done after {_LONGEST:g} s" if limit.expired() else f"waited in vain {error}".rstrip()
            outcome = Outcome(Verdict.ERROR, ok=False, detail=detail)
        except SidestepError as error:
            outcome = Outcome(Verdict.ERROR, ok=False, detail=str(error))
        yield Result(scenario, replace(outcome, ok=outcome.ok and outcome.result == scenario.expect), _ms(started))


def _ms(started: float) -> float:
    return round((time.monotonic() - started) * 1000, 1)


def _serials(certs: bytes) -> Iterable[str]:
    for certificate in orjson.loads(certs)["certificates"]:
        yield from (each["serial_number"] for each in certificate["cert_chain"])


async def _accepts(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    with suppress(OSError):
        await writer.wait_closed()
    return True


async def _eventually(holds: Callable[[], Awaitable[bool]], patience: float = _PATIENCE) -> bool:
    deadline = time.monotonic() + patience
    while not await holds():
        if time.monotonic() > deadline:
            return False
        await asyncio.sleep(0.02)
    return True


async def _first(waits: Iterable[Awaitable[Entry | None]]) -> Entry | None:
    """The first entry that is found; None once nobody has one."""
    for found in asyncio.as_completed([asyncio.ensure_future(wait) for wait in waits]):
        if entry := await found:
            return entry
    return None

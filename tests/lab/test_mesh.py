"""The lab's mesh, running: real Envoys admit whom Istio's would admit, and refuse the rest."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import count
from typing import TYPE_CHECKING, TypeVar

import pytest

from sidestep.lab import clients
from sidestep.lab.envoys import LabEnvoy, Runtime
from sidestep.lab.identities import Authorities
from sidestep.lab.mesh import Mesh, start_mesh
from sidestep.lab.ports import Ports
from sidestep.lab.topology import (
    Application,
    AuthorizationPolicy,
    MeshDescription,
    MTLSMode,
    Protocol,
    Service,
    ServicePort,
)
from sidestep.lab.watchdog import Watchdog, start_time
from sidestep.pki.spiffe import SpiffeId
from sidestep.proxy.binary import find
from sidestep.proxy.validation import validate
from tests.lab.machine import HTTP1_ALPNS, HTTP2_ALPNS, TCP_ALPNS, Egress, machine

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from sidestep.lab.clients import Answer
    from sidestep.pki.identity import Identity

T = TypeVar("T")
Call = Callable[[int], Awaitable["Answer"]]

BILLING = SpiffeId("cluster.local", "vms", "billing")
STRANGER = SpiffeId("cluster.local", "vms", "stranger")
PORTS = (
    ServicePort(9080, Protocol.HTTP, Application.HTTP),
    ServicePort(9082, Protocol.HTTP2, Application.HTTP),
    ServicePort(50051, Protocol.GRPC, Application.GRPC),
    ServicePort(9000, Protocol.TCP, Application.TCP_ECHO),
    ServicePort(9001, Protocol.TCP, Application.TCP_GREETING),
    ServicePort(9081, Protocol.UNDECLARED, Application.HTTP),
)
ONLY_BILLING = AuthorizationPolicy("guarded", "strict", (BILLING.principal,))
DESCRIPTION = MeshDescription(
    services=(
        Service("open", "strict", PORTS),
        Service("guarded", "strict", PORTS, policy=ONLY_BILLING),
        Service("open", "perm", PORTS, mtls=MTLSMode.PERMISSIVE),
        Service("closed", "strict", PORTS[:1], policy=AuthorizationPolicy("closed", "strict")),
        Service("hidden", "strict", PORTS[:1], exported=False),
        Service("impostor", "strict", PORTS[:1], presents="spiffe://cluster.local/ns/strict/sa/open"),
    ),
    gateways=2,
)
WAYS: list[tuple[int, tuple[str, ...], Call]] = [
    (9080, HTTP1_ALPNS, clients.http1),
    (9080, HTTP1_ALPNS, clients.websocket),
    (9080, HTTP2_ALPNS, clients.http1),
    (9082, HTTP2_ALPNS, clients.http2),
    (50051, HTTP2_ALPNS, clients.grpc_unary),
    (50051, HTTP2_ALPNS, clients.grpc_server_stream),
    (50051, HTTP2_ALPNS, clients.grpc_client_stream),
    (50051, HTTP2_ALPNS, clients.grpc_bidi),
    (9000, TCP_ALPNS, clients.tcp_echo),
    (9001, TCP_ALPNS, clients.tcp_greeting),
    (9081, HTTP1_ALPNS, clients.http1),
    (9081, HTTP1_ALPNS, clients.websocket),
]


@dataclass
class Lab:
    mesh: Mesh
    runtime: Runtime
    directory: Path
    runner: asyncio.Runner
    machines: Iterator[int] = field(default_factory=count)

    def run(self, task: Awaitable[T]) -> T:
        async def bounded() -> T:
            async with asyncio.timeout(60):
                return await task

        return self.runner.run(bounded())

    @asynccontextmanager
    async def machine(self, identity: Identity, *egresses: Egress, **tls: bool) -> AsyncIterator[None]:
        envoy = machine(
            self.directory / f"machine-{next(self.machines)}", list(egresses), identity, self.runtime, **tls
        )
        async with AsyncExitStack() as stack:
            stack.push_async_callback(envoy.stop)
            await envoy.start()
            yield

    def egress(self, host: str, port: int = 9080, alpns: tuple[str, ...] = HTTP1_ALPNS, gateway: int = 0) -> Egress:
        service = next(service for service in DESCRIPTION.services if f"{service.name}.{service.namespace}" == host)
        return Egress(
            listen=self.runtime.ports.reserve(),
            gateway=self.mesh.gateways[gateway].port,
            sni=f"outbound_.{port}_._.{service.host}",
            server=service.spiffe_id("cluster.local"),
            alpns=alpns,
        )

    async def ask(self, identity: Identity, egress: Egress, call: Call = clients.http1, **tls: bool) -> Answer:
        async with self.machine(identity, egress, **tls):
            return await call(egress.listen)

    @property
    def billing(self) -> Identity:
        return self.mesh.authorities.machine(BILLING)

    @property
    def stranger(self) -> Identity:
        return self.mesh.authorities.machine(STRANGER)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    directory = tmp_path_factory.mktemp("lab")
    authorities = Authorities.make("cluster.local", datetime.now(UTC))
    with asyncio.Runner() as runner, Ports() as ports, Watchdog() as watchdog:
        runtime = Runtime(find(), ports, watchdog)
        context = start_mesh(DESCRIPTION, authorities, directory, runtime)
        mesh = runner.run(context.__aenter__())
        yield Lab(mesh, runtime, directory, runner)
        runner.run(context.__aexit__(None, None, None))


Way = tuple[str, int, tuple[str, ...]]


@pytest.fixture(scope="module")
def billing(lab: Lab) -> Iterator[dict[Way, int]]:
    yield from every_way(lab, lab.billing)


@pytest.fixture(scope="module")
def stranger(lab: Lab) -> Iterator[dict[Way, int]]:
    yield from every_way(lab, lab.stranger)


def every_way(lab: Lab, identity: Identity) -> Iterator[dict[Way, int]]:
    """One machine with a local listener for each way to call each service."""
    ways = {(host, port, alpns) for host in ("open.strict", "open.perm", "guarded.strict") for port, alpns, _ in WAYS}
    egresses = {way: lab.egress(*way) for way in sorted(ways)}
    context = lab.machine(identity, *egresses.values())
    lab.run(context.__aenter__())
    yield {way: egress.listen for way, egress in egresses.items()}
    lab.run(context.__aexit__(None, None, None))


@pytest.mark.parametrize("host", ["open.strict", "open.perm", "guarded.strict"])
@pytest.mark.parametrize("way", WAYS)
def test_the_admitted_machine_is_served(
    lab: Lab, billing: dict[Way, int], host: str, way: tuple[int, tuple[str, ...], Call]
) -> None:
    port, alpns, call = way
    answer = lab.run(call(billing[host, port, alpns]))
    assert answer.ok, answer
    assert answer.principal == ("" if alpns == TCP_ALPNS else str(BILLING))


@pytest.mark.parametrize("way", WAYS)
def test_a_machine_without_a_policy_is_refused_by_the_sidecar(
    lab: Lab, stranger: dict[Way, int], way: tuple[int, tuple[str, ...], Call]
) -> None:
    port, alpns, call = way
    log = lab.mesh.pods["guarded.strict.svc.cluster.local"].sidecar.log
    mark = log.mark()
    answer = lab.run(call(stranger["guarded.strict", port, alpns]))
    entry = lab.run(log.wait(mark, lambda entry: "rbac_access_denied" in entry.refusal and entry.port == port))
    assert not answer.ok, answer
    assert entry is not None
    assert (entry.principal, entry.cluster or f"inbound|{port}||") == (str(STRANGER), f"inbound|{port}||")
    assert answer.status == {9000: "", 9001: "", 50051: "PERMISSION_DENIED"}.get(port, "403")


def test_a_forged_client_certificate_header_changes_nothing(lab: Lab, stranger: dict[Way, int]) -> None:
    forged = {"x-forwarded-client-cert": f"URI={BILLING}"}
    open_, guarded = (stranger[host, 9080, HTTP1_ALPNS] for host in ("open.strict", "guarded.strict"))
    assert lab.run(clients.http1(open_, headers=forged)).principal == str(STRANGER)
    assert lab.run(clients.http1(guarded, headers=forged)).status == "403"


def test_a_refused_machine_still_sees_a_greeting(lab: Lab) -> None:
    answer = lab.run(lab.ask(lab.stranger, lab.egress("guarded.strict", 9001, TCP_ALPNS), clients.tcp_greeting))
    assert (answer.ok, answer.text) == (False, "220 guarded ready\r\n")


def test_a_policy_without_principals_admits_nobody(lab: Lab) -> None:
    answer = lab.run(lab.ask(lab.billing, lab.egress("closed.strict")))
    assert (answer.status, answer.text) == ("403", "RBAC: access denied")


def identities(authorities: Authorities) -> dict[str, tuple[Identity, str]]:
    return {
        "other root": (authorities.of_another_root(BILLING), "CERTIFICATE_VERIFY_FAILED"),
        "expired": (authorities.expired(BILLING), "certificate_has_expired"),
        "other trust domain": (authorities.machine(SpiffeId("other.example", "vms", "billing")), "SAN_matcher"),
        "outside its constraint": (
            authorities.outside_its_constraint(BILLING, permitted="vms.example"),
            "CERTIFICATE_VERIFY_FAILED",
        ),
    }


@pytest.mark.parametrize("host", ["open.strict", "open.perm"])
@pytest.mark.parametrize("which", ["other root", "expired", "other trust domain", "outside its constraint"])
def test_a_wrong_certificate_is_refused_in_the_handshake(lab: Lab, host: str, which: str) -> None:
    identity, reason = identities(lab.mesh.authorities)[which]
    log = lab.mesh.pods[f"{host}.svc.cluster.local"].sidecar.log
    mark = log.mark()
    answer = lab.run(lab.ask(identity, lab.egress(host)))
    entry = lab.run(log.wait(mark, lambda entry: bool(entry.refusal)))
    assert (answer.ok, answer.status) == (False, "503")
    assert entry is not None
    assert reason in entry.refusal


def test_no_certificate_is_refused_in_the_handshake(lab: Lab) -> None:
    log = lab.mesh.pods["open.strict.svc.cluster.local"].sidecar.log
    mark = log.mark()
    answer = lab.run(lab.ask(lab.billing, lab.egress("open.strict"), certificate=False))
    entry = lab.run(log.wait(mark, lambda entry: bool(entry.refusal)))
    assert (answer.ok, answer.status) == (False, "503")
    assert entry is not None
    assert "PEER_DID_NOT_RETURN_A_CERTIFICATE" in entry.refusal


@pytest.mark.parametrize(
    ("host", "port", "alpns"),
    [
        ("hidden.strict", 9080, HTTP1_ALPNS),
        ("open.strict", 4711, HTTP1_ALPNS),
        ("open.strict", 9080, ("http/1.1",)),
        ("open.strict", 9080, ()),
    ],
)
def test_the_gateway_forwards_nothing_else(lab: Lab, host: str, port: int, alpns: tuple[str, ...]) -> None:
    log = lab.mesh.gateways[0].envoy.log
    mark = log.mark()
    answer = lab.run(lab.ask(lab.billing, lab.egress(host, port, alpns)))
    entry = lab.run(log.wait(mark, lambda entry: bool(entry.refusal)))
    assert (answer.ok, answer.status) == (False, "503")
    assert entry is not None
    assert entry.refusal == "no filter chain matches its SNI and ALPN"


def test_a_server_with_another_identity_is_refused_by_the_machine(lab: Lab) -> None:
    answer = lab.run(lab.ask(lab.billing, lab.egress("impostor.strict")))
    assert (answer.ok, answer.status) == (False, "503")


def test_plaintext_reaches_permissive_sidecars_only(lab: Lab) -> None:
    async def ask(host: str) -> list[Answer]:
        pod = lab.mesh.pods[f"{host}.svc.cluster.local"]
        echo = clients.tcp_echo(pod.listen(9000), b"longer than the header of a TLS record")
        return [await clients.http1(pod.listen(9080)), await clients.http1(pod.listen(9081)), await echo]

    assert [answer.ok for answer in lab.run(ask("open.perm"))] == [True, True, True]
    assert [answer.ok for answer in lab.run(ask("open.strict"))] == [False, False, False]


def test_the_logs_tell_who_called_whom(lab: Lab) -> None:
    sidecar, gateway = lab.mesh.pods["open.strict.svc.cluster.local"].sidecar.log, lab.mesh.gateways[0].envoy.log
    seen, passed = sidecar.mark(), gateway.mark()
    egress = lab.egress("open.strict")
    assert lab.run(lab.ask(lab.billing, egress)).ok
    request = lab.run(sidecar.wait(seen, lambda entry: entry.kind == "http"))
    connection = lab.run(gateway.wait(passed, lambda entry: entry.kind == "tcp" and entry.sni == egress.sni))
    assert request is not None
    assert connection is not None
    assert (request.principal, request.status, request.refusal) == (str(BILLING), 200, "")
    assert (request.cluster, request.chain) == ("inbound|9080||", "0.0.0.0_9080")
    assert connection.cluster == egress.sni


def test_a_gateway_can_be_killed_and_started_again(lab: Lab) -> None:
    async def run() -> list[bool]:
        first, second = lab.egress("open.strict"), lab.egress("open.strict", gateway=1)
        gateway = lab.mesh.gateways[0].envoy
        async with lab.machine(lab.billing, first, second):
            before = await clients.http1(first.listen)
            await gateway.kill()
            during = [await clients.http1(first.listen), await clients.http1(second.listen)]
            await gateway.start()
            after = await clients.http1(first.listen)
        return [answer.ok for answer in (before, *during, after)]

    assert lab.run(run()) == [True, False, True, True]


def test_envoy_accepts_every_configuration(lab: Lab) -> None:
    for envoy in _envoys(lab.mesh):
        validate(lab.runtime.envoy, envoy.directory)


def test_no_file_with_a_key_can_be_read_by_others(lab: Lab) -> None:
    keys = list(lab.directory.glob("*/key.pem"))
    assert len(keys) >= len(DESCRIPTION.services)
    assert all(key.stat().st_mode & 0o077 == 0 for key in keys)


def test_everything_is_gone_after_the_block_even_when_it_fails(tmp_path: Path) -> None:
    async def run() -> Mesh:
        authorities = Authorities.make("cluster.local", datetime.now(UTC))
        with Ports() as ports, Watchdog() as watchdog, suppress(RuntimeError):
            async with start_mesh(DESCRIPTION, authorities, tmp_path, Runtime(find(), ports, watchdog)) as mesh:
                processes.extend(envoy.pid for envoy in _envoys(mesh))
                raise RuntimeError
        return mesh

    processes: list[int] = []
    mesh = asyncio.run(run())
    assert len(processes) == len(DESCRIPTION.services) + DESCRIPTION.gateways
    assert not any(envoy.running for envoy in _envoys(mesh))
    for process in processes:
        with pytest.raises(ProcessLookupError):
            os.kill(process, 0)


KILLED = """
import asyncio, sys
from datetime import UTC, datetime
from pathlib import Path
from sidestep.lab.envoys import Runtime
from sidestep.lab.identities import Authorities
from sidestep.lab.mesh import start_mesh
from sidestep.lab.ports import Ports
from sidestep.lab.topology import Application, MeshDescription, Protocol, Service, ServicePort
from sidestep.lab.watchdog import Watchdog
from sidestep.proxy.binary import find

async def main():
    service = Service("open", "strict", (ServicePort(9080, Protocol.HTTP, Application.HTTP),))
    authorities = Authorities.make("cluster.local", datetime.now(UTC))
    directory = Path(sys.argv[1])
    with Ports() as ports, Watchdog() as watchdog:
        watchdog.temporary(directory)
        runtime = Runtime(find(), ports, watchdog)
        async with start_mesh(MeshDescription((service,)), authorities, directory, runtime) as mesh:
            print(mesh.gateways[0].envoy.pid, *(pod.sidecar.pid for pod in mesh.pods.values()), flush=True)
            await asyncio.sleep(600)

asyncio.run(main())
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_everything_is_gone_after_the_lab_was_ended(tmp_path: Path, number: signal.Signals) -> None:
    directory = tmp_path / "mesh"
    command = [sys.executable, "-c", KILLED, str(directory)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as parent:
        assert parent.stdout is not None
        processes = [int(word) for word in parent.stdout.readline().split()]
        assert len(processes) == 2
        assert all(start_time(process) for process in processes)
        parent.send_signal(number)
        parent.wait()
    deadline = time.monotonic() + 20
    while directory.exists() or any(start_time(process) for process in processes):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def _envoys(mesh: Mesh) -> list[LabEnvoy]:
    return [*(pod.sidecar for pod in mesh.pods.values()), *(gateway.envoy for gateway in mesh.gateways)]

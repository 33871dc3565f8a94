"""The preferred gateway hangs, and nothing has told the machine yet: what the first call to a service waits."""

from __future__ import annotations

import asyncio
import socket
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from sidestep import onboard
from sidestep.files import write_set
from sidestep.lab import clients
from sidestep.lab.envoys import Runtime
from sidestep.lab.identities import Authorities
from sidestep.lab.mesh import start_mesh
from sidestep.lab.ports import Ports
from sidestep.lab.topology import Application, MeshDescription, Protocol, Service, ServicePort
from sidestep.lab.watchdog import Watchdog
from sidestep.pki.spiffe import SpiffeId
from tests import documents, envoys

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from sidestep.lab.clients import Answer

SERVICE = Service(
    "reviews",
    "bookinfo",
    (
        ServicePort(9080, Protocol.HTTP, Application.HTTP),
        ServicePort(9090, Protocol.HTTP2, Application.HTTP),
        ServicePort(9000, Protocol.TCP, Application.TCP_ECHO),
    ),
)
OTHERS = 320
"""So many that gateways are not asked."""
LONGEST = 3.0
DEADLINE = 5.0
"""Seconds that a call may take, and that it is given."""


@contextmanager
def hung() -> Iterator[socket.socket]:
    """A gateway whose kernel takes connections, and that never looks at one."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as gateway:
        gateway.setblocking(False)
        yield gateway


def bundle(directory: Path, gateways: list[int], listens: dict[int, int]) -> Path:
    """A machine that calls each port of the service, and many services more."""
    others = [f"s{index}.pay.svc.cluster.local" for index in range(OTHERS)]
    called = [documents.egress("reviews.bookinfo", listen, port=port) for port, listen in listens.items()]
    called += [documents.egress(host, f"127.77.{index >> 8}.{index & 255}:9080") for index, host in enumerate(others)]
    ports = [(port.number, str(port.protocol)) for port in SERVICE.ports]
    offered = [documents.service(SERVICE.host, *ports), *map(documents.service, others)]
    spec: Any = [{"address": "127.0.0.1", "port": port} for port in gateways]
    file = documents.write(
        directory / "spec.yaml", documents.mesh(*offered, gateways=spec), documents.workload(*called)
    )
    [made] = onboard.bundles(onboard.load([file]))
    made.install(directory / "bundle", validate=envoys.accepted())
    return directory / "bundle"


async def first_calls(listens: dict[int, int]) -> dict[str, Answer]:
    """One call of each kind, to ports that nobody has called before."""
    http, http2, tcp = listens.values()
    calls = {
        "GET": clients.http1(http, deadline=DEADLINE),
        "POST": clients.http1(http, "/echo", body=b"paid", deadline=DEADLINE),
        "HTTP/2": clients.http2(http2, deadline=DEADLINE),
        "TCP": clients.tcp_echo(tcp, deadline=DEADLINE),
    }
    return dict(zip(calls, await asyncio.gather(*calls.values()), strict=True))


async def called(directory: Path, *, working: bool) -> tuple[dict[str, Answer], int]:
    """What calls get behind a hung gateway, with one that works beside it or not; how often the hung one was met."""
    authorities = Authorities.make("cluster.local", datetime.now(UTC))
    with Ports() as ports, Watchdog() as watchdog, hung() as gateway:
        runtime = Runtime(envoys.envoy(), ports, watchdog)
        async with start_mesh(MeshDescription((SERVICE,)), authorities, directory / "mesh", runtime) as mesh:
            listens = {port.number: ports.reserve() for port in SERVICE.ports}
            gateways = [gateway.getsockname()[1], *([mesh.gateways[0].port] if working else [])]
            made = bundle(directory, gateways, listens)
            identity = authorities.machine(SpiffeId("cluster.local", "vms", "billing"))
            write_set(made / "certs", identity.files())
            with envoys.running(made):
                answers = await first_calls(listens)
        return answers, _connections(gateway)


def _connections(listening: socket.socket) -> int:
    count = 0
    with suppress(BlockingIOError):
        while True:
            listening.accept()[0].close()
            count += 1
    return count


def test_the_first_call_to_a_service_goes_past_a_hung_gateway_in_time(tmp_path: Path) -> None:
    answers, met = asyncio.run(called(tmp_path, working=True))
    assert {kind: answer.error for kind, answer in answers.items() if not answer.ok} == {}
    assert max(answer.milliseconds for answer in answers.values()) < LONGEST * 1000
    assert met >= len(SERVICE.ports)  # each learned it for itself


def test_without_a_gateway_that_works_it_fails(tmp_path: Path) -> None:
    answers, met = asyncio.run(called(tmp_path, working=False))
    assert not any(answer.ok for answer in answers.values())
    assert met >= len(SERVICE.ports)

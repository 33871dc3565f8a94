"""The preferred gateway hangs, and nothing has told the machine yet: what the first call to a service waits."""

from __future__ import annotations

import asyncio
import socket
from contextlib import asynccontextmanager, contextmanager, suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING

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
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from sidestep.lab.clients import Answer
    from sidestep.lab.mesh import Mesh

SERVICE = Service(
    "reviews",
    "bookinfo",
    (
        ServicePort(9080, Protocol.HTTP, Application.HTTP),
        ServicePort(9090, Protocol.HTTP2, Application.HTTP),
        ServicePort(9000, Protocol.TCP, Application.TCP_ECHO),
    ),
)
PAYMENTS = Service(
    "payments",
    "bookinfo",
    tuple(ServicePort(number, Protocol.HTTP, Application.HTTP) for number in (9080, 9081, 9082)),
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


def bundle(directory: Path, gateways: list[int], egress: list[documents.Fields]) -> Path:
    """A machine that makes these calls, and has many services more."""
    others = [f"s{index}.pay.svc.cluster.local" for index in range(OTHERS)]
    unused = [documents.egress(host, f"unix:./{index}.sock") for index, host in enumerate(others)]
    offered = [
        documents.service(each.host, *((port.number, str(port.protocol)) for port in each.ports))
        for each in (SERVICE, PAYMENTS)
    ]
    offered += map(documents.service, others)
    mesh = documents.mesh(*offered, gateways=[{"address": "127.0.0.1", "port": port} for port in gateways])
    file = documents.write(directory / "spec.yaml", mesh, documents.workload(*egress, *unused))
    [made] = onboard.bundles(onboard.load([file]))
    made.install(directory / "bundle", validate=envoys.accepted())
    return directory / "bundle"


@asynccontextmanager
async def a_mesh(directory: Path, *, gateways: int = 1) -> AsyncIterator[tuple[Mesh, Ports]]:
    """The services, behind so many gateways."""
    authorities = Authorities.make("cluster.local", datetime.now(UTC))
    with Ports() as ports, Watchdog() as watchdog:
        runtime = Runtime(envoys.envoy(), ports, watchdog)
        description = MeshDescription((SERVICE, PAYMENTS), gateways=gateways)
        async with start_mesh(description, authorities, directory / "mesh", runtime) as mesh:
            yield mesh, ports


@contextmanager
def a_machine(directory: Path, mesh: Mesh, gateways: list[int], egress: list[documents.Fields]) -> Iterator[None]:
    """A machine of that mesh, running."""
    made = bundle(directory, gateways, egress)
    write_set(made / "certs", mesh.authorities.machine(SpiffeId("cluster.local", "vms", "billing")).files())
    with envoys.running(made):
        yield


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
    with hung() as gateway:
        async with a_mesh(directory) as (mesh, ports):
            listens = {port.number: ports.reserve() for port in SERVICE.ports}
            gateways = [gateway.getsockname()[1], *([mesh.gateways[0].port] if working else [])]
            egress = [documents.egress("reviews.bookinfo", listen, port=port) for port, listen in listens.items()]
            with a_machine(directory, mesh, gateways, egress):
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


async def posted(directory: Path) -> dict[str, Answer]:
    """What POSTs get on connections that are open when their gateway hangs."""
    traffic = {"connectionPool": {"http": {"h2UpgradePolicy": "UPGRADE"}}}
    async with a_mesh(directory, gateways=2) as (mesh, ports):
        limited, unlimited, upgraded = (ports.reserve() for _ in range(3))
        egress = [
            documents.egress("payments.bookinfo", limited, port=9080, timeout="1s"),
            documents.egress("payments.bookinfo", unlimited, port=9081),
            documents.egress("payments.bookinfo", upgraded, port=9082, trafficPolicy=traffic),
        ]
        calls = {"timeout": limited, "neither": unlimited, "UPGRADE": upgraded}
        with a_machine(directory, mesh, [gateway.port for gateway in mesh.gateways], egress):
            for listen in calls.values():
                assert (await clients.http1(listen, "/echo", body=b"before")).ok
            mesh.gateways[0].envoy.pause()
            try:
                answers = await asyncio.gather(*(_post(listen) for listen in calls.values()))
            finally:
                mesh.gateways[0].envoy.resume()
        return dict(zip(calls, answers, strict=True))


async def _post(listen: int) -> Answer:
    return await clients.http1(listen, "/echo", body=b"paid", deadline=DEADLINE)


def test_a_post_under_way_waits_as_long_as_the_gateway_hangs_unless_its_egress_says_otherwise(tmp_path: Path) -> None:
    answers = asyncio.run(posted(tmp_path))
    assert answers["timeout"].status == "504"
    assert answers["UPGRADE"].status == "503"
    assert max(answers[each].milliseconds for each in ("timeout", "UPGRADE")) < LONGEST * 1000
    assert not answers["neither"].ok
    assert answers["neither"].milliseconds >= DEADLINE * 1000

"""Tunnels to services that speak HTTP: what comes through them is read, and is held to what requests are held to."""

from __future__ import annotations

import json
import socket
import time
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import h2.connection
import h2.events
import pytest

from sidestep.onboard import bundles, load
from sidestep.proxy.admin import Admin
from tests import documents
from tests.by_name.test_http_proxy import (
    AMBIGUOUS,
    ELSEWHERE,
    REVIEWS,
    TCP,
    answer,
    ask,
    connected,
    get,
    nothing_served,
)
from tests.certificates import issue_into
from tests.envoys import accepted, eventually, running

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.by_name.conftest import Machine

pytestmark = pytest.mark.xdist_group("by-name")

GRPC = "ledger.pay:50051"
GREETING = "ledger.pay:2525"
BIG = 20_000_000


@contextmanager
def tunnel(machine: Machine, name: str) -> Iterator[socket.socket]:
    """A tunnel that is open."""
    with connected(machine) as connection:
        enter(connection, name)
        yield connection


def enter(connection: socket.socket, name: str) -> None:
    connection.sendall(f"CONNECT {name} HTTP/1.1\r\nhost: {name}\r\n\r\n".encode())
    status, head, body = answer(connection)
    assert (status, body) == (200, ""), head


def within(connection: socket.socket, request: str) -> tuple[int, str, str]:
    connection.sendall(request.encode())
    return answer(connection)


def is_closed(connection: socket.socket) -> bool:
    try:
        return connection.recv(100) == b""
    except ConnectionError:
        return True


@pytest.mark.parametrize(
    "request_",
    [
        get(REVIEWS),
        get("reviews.bookinfo.svc.cluster.local.:9080"),
        get(REVIEWS, version="1.0"),
        get("example.com", target=f"http://{REVIEWS}/"),
        get(REVIEWS, "x-envoy-peer-metadata-id: forged", "x-envoy-peer-metadata: forged"),
        get(REVIEWS, "proxy-authorization: Basic YTpi"),
    ],
)
def test_a_request_in_a_tunnel_is_served_as_one_outside(machine: Machine, request_: str) -> None:
    with tunnel(machine, REVIEWS) as connection:
        status, head, body = within(connection, request_)
    assert status == 200, head
    seen = json.loads(body)
    assert (seen["service"], seen["host"]) == ("reviews", "reviews.bookinfo.svc.cluster.local:9080")
    assert seen["principal"] == "spiffe://cluster.local/ns/vms/sa/billing"
    assert seen["headers"]["x-envoy-peer-metadata-id"].startswith("sidecar~0.0.0.0~billing-")
    assert "forged" not in body
    assert "proxy-authorization" not in seen["headers"]


def test_one_tunnel_carries_many_requests_which_are_logged_each(machine: Machine) -> None:
    begun = now()
    with tunnel(machine, REVIEWS) as connection:
        address = "{}:{}".format(*connection.getsockname())
        for number in range(3):
            assert within(connection, get(REVIEWS, target=f"/in-a-tunnel/{number}"))[0] == 200
    eventually("the tunnel is logged", lambda: len(of(machine, address, begun)) == 4)
    calls = of(machine, address, begun)
    paths = [call["path"] for call in calls if call["method"] == "GET"]
    assert paths == [f"/in-a-tunnel/{number}" for number in range(3)]
    assert [call["upstream_cluster"] for call in calls if call["method"] == "CONNECT"] == ["internal|tunnel"]


def of(machine: Machine, address: str, since: datetime) -> list[Any]:
    """What is logged of a client since then: its port may have been another's before."""
    calls = [call for call in machine.calls() if call["downstream_remote_address"] == address]
    return [call for call in calls if datetime.fromisoformat(call["start_time"]) >= since]


def now() -> datetime:
    """As exactly as Envoy logs it."""
    moment = datetime.now(UTC)
    return moment.replace(microsecond=moment.microsecond // 1000 * 1000)


@pytest.mark.parametrize("name", [*ELSEWHERE, "reviews.bookinfo:443"])
def test_another_host_is_unknown_within_as_outside(machine: Machine, name: str) -> None:
    with nothing_served(machine), tunnel(machine, REVIEWS) as connection:
        status, _, body = within(connection, get(name))
        assert (status, body.partition(" here: ")[0]) == (404, f"sidestep: no service {name}")


def test_the_host_of_a_request_decides_and_not_the_tunnels(machine: Machine) -> None:
    with tunnel(machine, REVIEWS) as connection:
        assert json.loads(within(connection, get("ratings.bookinfo:9080"))[2])["service"] == "ratings"
        assert json.loads(within(connection, get(REVIEWS))[2])["service"] == "reviews"
        assert within(connection, get(TCP))[0] == 405


@pytest.mark.parametrize("name", [REVIEWS, GRPC, TCP, "example.com:80", "127.0.0.1:22"])
def test_a_tunnel_opens_no_other(machine: Machine, name: str) -> None:
    with nothing_served(machine), tunnel(machine, REVIEWS) as connection:
        status, _, _ = within(connection, f"CONNECT {name} HTTP/1.1\r\nhost: {name}\r\n\r\n")
        assert status == 403
        assert is_closed(connection)


@pytest.mark.parametrize("name", [REVIEWS, GRPC, TCP])
def test_a_tunnel_opens_no_other_over_http2(machine: Machine, name: str) -> None:
    with nothing_served(machine), tunnel(machine, GRPC) as connection:
        assert http2(connection, [(":method", "CONNECT"), (":authority", name)])[0] == "403"


@pytest.mark.parametrize(("status", "request_"), AMBIGUOUS)
def test_nothing_is_smuggled_through_a_tunnel(machine: Machine, status: int, request_: str) -> None:
    with nothing_served(machine), tunnel(machine, REVIEWS) as connection:
        assert within(connection, request_)[0] == status
        assert is_closed(connection)


def test_what_is_no_http_at_all_is_refused(machine: Machine) -> None:
    for noise in (b"\x16\x03\x01\x00\xa5\x01\x00\x00\xa1\x03\x03", b"\x00\xff ping\r\n\r\n"):
        with nothing_served(machine), tunnel(machine, REVIEWS) as connection:
            connection.sendall(noise)
            assert answer(connection)[0] == 400


def test_http2_within(machine: Machine) -> None:
    headers = [(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", REVIEWS)]
    with tunnel(machine, REVIEWS) as connection:
        status, body = http2(connection, [*headers, ("x-envoy-peer-metadata-id", "forged")])
    assert (status, json.loads(body)["service"], "forged" in body) == ("200", "reviews", False)
    with tunnel(machine, REVIEWS) as connection:
        assert http2(connection, [*headers[:3], (":authority", "example.com")])[0] == "404"


def http2(connection: socket.socket, headers: list[tuple[str, str]]) -> tuple[str, str]:
    """Status and body of the answer to a request."""
    protocol = h2.connection.H2Connection(h2.config.H2Configuration(validate_outbound_headers=False))
    protocol.initiate_connection()
    protocol.send_headers(1, headers, end_stream=headers[0][1] == "GET")
    connection.sendall(protocol.data_to_send())
    status, body, ended = "", b"", False
    while not ended:
        for event in protocol.receive_data(connection.recv(65536)):
            if isinstance(event, h2.events.ResponseReceived):
                status = dict(event.headers or [])[b":status"].decode()
            if isinstance(event, h2.events.DataReceived):
                body += event.data or b""
            ended = ended or isinstance(event, (h2.events.StreamEnded, h2.events.StreamReset))
        connection.sendall(protocol.data_to_send())
    return status, body.decode()


def test_a_large_request_and_its_answer(machine: Machine) -> None:
    body = bytes(range(256)) * (BIG // 256)
    with tunnel(machine, REVIEWS) as connection:
        head = f"POST /echo HTTP/1.1\r\nhost: {REVIEWS}\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n"
        connection.sendall(head.encode() + body)
        time.sleep(0.5)  # the answer has to wait for its reader
        received = b"".join(iter(lambda: connection.recv(1 << 20), b""))
    assert received.partition(b"\r\n\r\n")[2] == body


def test_a_request_may_take_its_time(machine: Machine) -> None:
    with tunnel(machine, REVIEWS) as connection:
        time.sleep(1)
        for piece in (f"POST /echo HTTP/1.1\r\nhost: {REVIEWS}\r\n", "content-length: 4\r\n\r\n", "pi", "ng"):
            connection.sendall(piece.encode())
            time.sleep(0.3)
        assert answer(connection)[2] == "ping"
        assert within(connection, get(REVIEWS, target="/slow?ms=1500"))[0] == 200


def test_a_server_that_speaks_first_is_heard(machine: Machine) -> None:
    with connected(machine) as connection:
        connection.sendall(f"CONNECT {GREETING} HTTP/1.1\r\nhost: {GREETING}\r\n\r\n".encode())
        status, _, greeting = answer(connection)  # which may come with the answer, or after it
        greeting = greeting or connection.recv(100).decode()
    assert (status, greeting[:4]) == (200, "220 ")


def test_a_service_that_admits_others_denies_it_within(machine: Machine) -> None:
    with tunnel(machine, "payroll.hr:9080") as connection:
        assert within(connection, get("payroll.hr:9080"))[::2] == (403, "RBAC: access denied")


def test_many_tunnels_at_once_keep_to_themselves(machine: Machine) -> None:
    """Envoy pools connections, also to itself: none may get another's."""
    with connected_many(machine, 200) as connections:
        for number, connection in enumerate(connections):
            name = (REVIEWS, "ratings.bookinfo:9080", TCP)[number % 3]
            connection.sendall(f"CONNECT {name} HTTP/1.1\r\nhost: {name}\r\n\r\n".encode())
        for connection in connections[::7]:
            connection.close()
        kept = [(number, each) for number, each in enumerate(connections) if number % 7]
        for number, connection in kept:
            assert answer(connection)[0] == 200
            connection.sendall(get(REVIEWS, target=f"/crowd/{number}").encode())
        for number, connection in kept:
            if number % 3 == 2:
                assert connection.recv(1000).startswith(f"GET /crowd/{number} ".encode())
            else:
                assert json.loads(answer(connection)[2])["path"] == f"/crowd/{number}"
        wanted = {f"/crowd/{number}": "{}:{}".format(*each.getsockname()) for number, each in kept if number % 3 < 2}
        eventually("every client is logged with its address", lambda: crowd(machine) == wanted)


def test_tunnels_share_the_connections_to_the_mesh(machine: Machine) -> None:
    before = opened(machine)
    for number in range(30):
        with tunnel(machine, REVIEWS) as connection:
            assert within(connection, get(REVIEWS, target=f"/{number}"))[0] == 200
    assert opened(machine) - before < 5


def opened(machine: Machine) -> int:
    """How many connections to reviews there have been."""
    name = "cluster.outbound|9080||reviews_bookinfo_svc_cluster_local.upstream_cx_total: "
    stats = Admin(machine.bundle / "admin.sock").request("/stats?filter=upstream_cx_total").body.decode()
    [count] = [line.removeprefix(name) for line in stats.splitlines() if line.startswith(name)]
    return int(count)


@contextmanager
def connected_many(machine: Machine, count: int) -> Iterator[list[socket.socket]]:
    connections = [connected(machine) for _ in range(count)]
    try:
        yield connections
    finally:
        for connection in connections:
            connection.close()


def crowd(machine: Machine) -> dict[str, str]:
    calls = [call for call in machine.calls() if str(call.get("path")).startswith("/crowd/")]
    return {call["path"]: call["downstream_remote_address"] for call in calls}


def test_through_a_proxy_on_a_socket(tmp_path: Path) -> None:
    """There is no mesh here, so Envoy answers itself; a client without an address is none of its concern."""
    calls = documents.egress("reviews", "none", port=9080)
    spec = documents.write(
        tmp_path / "spec.yaml", documents.mesh(), documents.workload(calls, proxy={"listen": "unix:./proxy.sock"})
    )
    [bundle] = bundles(load([str(spec)]))
    bundle.install(tmp_path / "bundle", validate=accepted())
    issue_into(tmp_path / "bundle")
    with running(tmp_path / "bundle"), socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(10)
        connection.connect(str(tmp_path / "bundle" / "proxy.sock"))
        enter(connection, REVIEWS)
        assert within(connection, get("example.com"))[0] == 404
        assert within(connection, get(REVIEWS))[0] == 503


def test_tunnels_are_what_the_log_says(machine: Machine) -> None:
    assert ask(machine, get("example.com"))[0] == 404
    begun = now()
    with tunnel(machine, TCP) as connection:
        address = "{}:{}".format(*connection.getsockname())
        connection.sendall(b"ping")
        assert connection.recv(10) == b"ping"
    [call] = eventually("the tunnel is logged", lambda: of(machine, address, begun))
    assert call["upstream_cluster"] == "outbound|9000||ledger.pay.svc.cluster.local"

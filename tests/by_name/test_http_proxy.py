"""The machine's proxy, asked in every way by hand: it serves the workload's egress, and is no open proxy."""

from __future__ import annotations

import json
import re
import socket
from contextlib import contextmanager
from itertools import count
from typing import TYPE_CHECKING, Any

import h2.connection
import h2.events
import pytest

from tests.envoys import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.by_name.conftest import Machine

pytestmark = pytest.mark.xdist_group("by-name")

REVIEWS = "reviews.bookinfo:9080"
TCP = "ledger.pay:9000"
_FENCES = count()


def ask(machine: Machine, request: str | bytes) -> tuple[int, str, str]:
    """Status, head and body of the answer to bytes."""
    with connected(machine) as connection:
        connection.sendall(request if isinstance(request, bytes) else request.encode())
        return answer(connection)


def connected(machine: Machine) -> socket.socket:
    host, _, port = machine.proxy.rpartition(":")
    return socket.create_connection((host, int(port)), 10)


def answer(connection: socket.socket) -> tuple[int, str, str]:
    received = b""
    while b"\r\n\r\n" not in received:
        received += (more := connection.recv(65536))
        assert more, f"the connection was closed after {received!r}"
    head, _, body = received.partition(b"\r\n\r\n")
    length = re.search(rb"(?i)content-length: (\d+)", head)
    while length and len(body) < int(length[1]):
        body += connection.recv(65536)
    return int(head.split(b" ")[1]), head.decode(), body.decode(errors="replace")


def get(host: str, *headers: str, target: str = "/", version: str = "1.1") -> str:
    return "\r\n".join([f"GET {target} HTTP/{version}", f"host: {host}", *headers, "", ""])


def post(*lines: str, body: str = "") -> str:
    return "\r\n".join(["POST /echo HTTP/1.1", f"host: {REVIEWS}", *lines, "", body])


@pytest.mark.parametrize(
    "request_",
    [
        get(REVIEWS),
        get("reviews.bookinfo.svc:9080"),
        get("reviews.bookinfo.svc.cluster.local:9080"),
        get("ReViews.BookInfo:9080"),
        get("reviews.bookinfo.svc.cluster.local.:9080"),
        get(REVIEWS, version="1.0"),
        get(REVIEWS, target=f"http://{REVIEWS}/"),
        get("example.com", target=f"http://{REVIEWS}/"),
        get("example.com", target=f"HTTP://{REVIEWS.upper()}/"),
        get(REVIEWS, "x-a: b\r\n c"),
        get(REVIEWS).replace("\r\n", "\n"),
        get(REVIEWS, "x-envoy-original-dst-host: 127.0.0.1:1", "x-envoy-peer-metadata-id: forged"),
    ],
)
def test_serves_an_egress_by_its_names(machine: Machine, request_: str) -> None:
    status, head, body = ask(machine, request_)
    assert status == 200, head
    seen = json.loads(body)
    assert (seen["service"], seen["path"]) == ("reviews", "/")
    assert seen["host"] == "reviews.bookinfo.svc.cluster.local:9080"
    assert seen["principal"] == "spiffe://cluster.local/ns/vms/sa/billing"
    assert seen["headers"]["x-envoy-peer-metadata-id"].startswith("sidecar~0.0.0.0~billing-")


ELSEWHERE = [
    "example.com",
    "example.com:80",
    "127.0.0.1:9080",
    "[::1]:9080",
    "[::1]",
    "details.bookinfo:9080",
    "reviews:9080",
    "bookinfo:9080",
    "xreviews.bookinfo:9080",
    "reviews.bookinfo.example.com:9080",
    "reviews.bookinfo:99",
    "reviews.bookinfo:09080",
    "reviews.bookinfo:90800000",
    "reviews.bookinfo",
    "*",
    "*:9080",
    f"{REVIEWS},example.com",
    f"example.com,{REVIEWS}",
]


@pytest.mark.parametrize("name", ELSEWHERE)
def test_knows_no_other_host(machine: Machine, name: str) -> None:
    status, _, body = ask(machine, get(name))
    assert (status, body.partition(" here: ")[0]) == (404, f"sidestep: no service {name}")
    status, _, _ = ask(machine, get(REVIEWS, target=f"http://{name}/"))
    assert status in {400, 404}, "400 where it is no name at all"


@pytest.mark.parametrize("name", [name for name in ELSEWHERE if re.fullmatch(r"[^,*]+:\d{2,5}", name)])
def test_opens_no_tunnel_to_another_host(machine: Machine, name: str) -> None:
    status, _, body = ask(machine, f"CONNECT {name} HTTP/1.1\r\nhost: {TCP}\r\n\r\n")
    assert (status, body.partition(" here: ")[0]) == (404, f"sidestep: no service {name}")


@pytest.mark.parametrize("address", ["127.0.0.1", "10.0.0.1"])
def test_what_envoy_would_take_for_orders_is_none_from_an_application(machine: Machine, address: str) -> None:
    inside = [f"x-forwarded-for: {address}", "x-envoy-internal: true"]
    again = get(REVIEWS, *inside, "x-envoy-retry-on: 5xx", "x-envoy-max-retries: 3", target=f"/second-time/{address}")
    assert ask(machine, again.replace("GET", "POST", 1))[0] == 503
    hurry = get(REVIEWS, *inside, "x-envoy-upstream-rq-timeout-ms: 100", target="/slow?ms=500")
    assert ask(machine, hurry)[0] == 200


def test_says_what_there_is(machine: Machine) -> None:
    _, head, body = ask(machine, get("example.com"))
    assert "content-type: text/plain" in head
    assert "this is the proxy of workload billing, for " in body
    assert "reviews.bookinfo.svc.cluster.local:9080" in body
    _, _, body = ask(machine, get("reviews.bookinfo"))
    assert "this machine calls reviews.bookinfo.svc.cluster.local:9080 (HTTP), " in body
    assert body.endswith("no port means 80\n")
    assert "ledger" not in body


@pytest.mark.parametrize(("method", "target"), [("GET", "?a=b"), ("OPTIONS", "*")])
def test_says_what_is_no_path(machine: Machine, method: str, target: str) -> None:
    """A name that is known is not called unknown: Python's urllib leaves the slash out."""
    form = target if method == "OPTIONS" else f"http://{REVIEWS}{target}"
    status, _, body = ask(machine, get(REVIEWS, target=form).replace("GET", method, 1))
    assert (status, body) == (404, f"sidestep: {target} is no path: one begins with a slash\n")


def test_leaves_a_404_of_the_service_as_it_is(machine: Machine) -> None:
    status, _, body = ask(machine, get(REVIEWS, target="/status/404"))
    assert (status, json.loads(body)["service"]) == (404, "reviews")


@pytest.mark.parametrize(
    ("host", "target"),
    [
        (REVIEWS, "http://example.com/"),
        (REVIEWS, f"http://{REVIEWS}@example.com/"),
        (REVIEWS, "http://127.0.0.1:9080/"),
        (f"{REVIEWS}\r\nhost: example.com", "/"),
        (f"{REVIEWS}\r\nhost: {REVIEWS}", "/"),
    ],
)
def test_is_not_misled_by_a_second_host(machine: Machine, host: str, target: str) -> None:
    with nothing_served(machine):
        status, _, _ = ask(machine, get(host, target=target))
    assert status == 404


@contextmanager
def nothing_served(machine: Machine) -> Iterator[None]:
    """Within, no request goes into the mesh, as the access log has it between two requests that do."""
    first, last = (f"/fence-{next(_FENCES)}" for _ in range(2))
    assert ask(machine, get(REVIEWS, target=first))[0] == 200
    yield
    assert ask(machine, get(REVIEWS, target=last))[0] == 200
    calls = eventually("the last request is logged", lambda: between(machine, first, last))
    served = [call for call in calls if call["upstream_host"] and call["upstream_cluster"] != "internal|tunnel"]
    assert [call["path"] for call in served] == [first, last]


def between(machine: Machine, first: str, last: str) -> list[Any] | None:
    """The calls from one path to another, once all are logged."""
    calls = machine.calls()
    paths = [call.get("path") for call in calls]
    return calls[paths.index(first) : paths.index(last) + 1] if last in paths else None


AMBIGUOUS = [
    (400, post("content-length: 4", "transfer-encoding: chunked", body="0\r\n\r\nGET /smuggled HTTP/1.1\r\n\r\n")),
    (501, post("transfer-encoding: chunked", "transfer-encoding: identity", body="0\r\n\r\n")),
    (501, post("transfer-encoding: xchunked", body="0\r\n\r\n")),
    (400, post("content-length: 4", "content-length: 5", body="abcde")),
    (400, post("content-length: +4", body="abcd")),
    (400, post("content-length : 4", body="abcd")),
    (400, get(f"{REVIEWS} example.com")),
    (400, get(REVIEWS, "x-a: b\0c")),
    (400, f"GET / HTTP/1.1\r\nhost : {REVIEWS}\r\n\r\n"),
    (400, "GET / HTTP/1.1\r\n\r\n"),
    (400, "GET / HTTP/1.0\r\n\r\n"),
    (431, get(REVIEWS, *(f"x-{number}: 1" for number in range(101)))),
    (431, get(REVIEWS, *(f"x-{number}: 1" for number in range(10_000)))),
    (431, get(REVIEWS, "x-long: " + "a" * 70_000)),
]


@pytest.mark.parametrize(
    ("status", "request_"),
    [
        *AMBIGUOUS,
        (400, f"CONNECT {TCP.partition(':')[0]} HTTP/1.1\r\nhost: {TCP}\r\n\r\n"),
        (400, f"CONNECT / HTTP/1.1\r\nhost: {TCP}\r\n\r\n"),
        (400, f"CONNECT http://{TCP}/ HTTP/1.1\r\nhost: {TCP}\r\n\r\n"),
        (400, f"CONNECT {TCP} HTTP/1.1\r\nhost: {TCP}\r\ncontent-length: 4\r\n\r\nping"),
        (501, f"CONNECT {TCP} HTTP/1.1\r\nhost: {TCP}\r\ntransfer-encoding: chunked\r\n\r\n"),
        (405, get(TCP)),
    ],
)
def test_passes_nothing_on_that_could_be_read_in_two_ways(machine: Machine, status: int, request_: str) -> None:
    with nothing_served(machine):
        assert ask(machine, request_)[0] == status


def test_a_tunnel_carries_what_is_sent_and_nothing_else(machine: Machine) -> None:
    with connected(machine) as connection:
        connection.sendall(f"CONNECT {TCP} HTTP/1.1\r\nhost: example.com\r\n\r\n".encode())
        status, head, body = answer(connection)
        assert (status, body) == (200, "")
        assert "x-envoy" not in head
        connection.sendall(b"\x00\xff ping\r\n\r\n")
        assert connection.recv(100) == b"\x00\xff ping\r\n\r\n"


@pytest.mark.parametrize(
    ("authority", "host", "status"),
    [(REVIEWS, "example.com", "200"), ("example.com", REVIEWS, "404"), ("example.com", "", "404")],
)
def test_http2_callers_are_served_by_their_authority(machine: Machine, authority: str, host: str, status: str) -> None:
    headers = [(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", authority)]
    assert http2(machine, headers + ([("host", host)] if host else [])) == status


@pytest.mark.parametrize(
    ("authority", "status"), [(TCP, "200"), (REVIEWS, "200"), ("example.com:443", "404"), ("127.0.0.1:22", "404")]
)
def test_http2_callers_get_a_tunnel_to_an_egress_only(machine: Machine, authority: str, status: str) -> None:
    assert http2(machine, [(":method", "CONNECT"), (":authority", authority)]) == status


def http2(machine: Machine, headers: list[tuple[str, str]]) -> str:
    """The status that a request over HTTP/2 is answered with."""
    config = h2.config.H2Configuration(validate_outbound_headers=False)
    protocol = h2.connection.H2Connection(config)
    protocol.initiate_connection()
    protocol.send_headers(1, headers, end_stream=headers[0][1] == "GET")
    with connected(machine) as connection:
        connection.sendall(protocol.data_to_send())
        while True:
            for event in protocol.receive_data(connection.recv(65536)):
                if isinstance(event, h2.events.ResponseReceived):
                    return dict(event.headers or [])[b":status"].decode()
            connection.sendall(protocol.data_to_send())


def test_the_log_tells_the_path_that_was_asked_for(machine: Machine) -> None:
    path = "/asked-for-a-secret"
    assert ask(machine, get(REVIEWS, "x-envoy-original-path: /harmless", target=path))[0] == 200
    assert eventually("it is logged", lambda: any(each.get("path") == path for each in machine.calls()))

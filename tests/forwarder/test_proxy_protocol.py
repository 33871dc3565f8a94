"""A forwarder behind balancers that keep no addresses takes their word for who calls, and nobody else's."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from tests.envoys import eventually
from tests.forwarder.balancer import SIGNATURE, header
from tests.forwarder.conftest import (
    ADDRESS,
    ANOTHER,
    GREETING,
    HEALTH,
    HTTP,
    PROXY,
    REVIEWS,
    STRANGER,
    STRANGER_ADDRESS,
    TCP,
    UNTOUCHED,
    UNTOUCHED_ADDRESS,
)
from tests.forwarder.test_forwarder import IDENTITY, log

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.envoys import Running
    from tests.forwarder.conftest import Site

pytestmark = pytest.mark.xdist_group("forwarder")

CLIENT, ELSEWHERE = "192.0.2.7", "198.51.100.7"
HERE = (ADDRESS, HTTP)
CLIENTS = {
    "cidrs": ["192.0.2.0/24", STRANGER_ADDRESS],
    "mutualTLS": {"principals": ["cluster.local/ns/vms/*"]},
    "proxyProtocol": {"from": [UNTOUCHED_ADDRESS]},
}
"""The untouched machine is the balancer here. The stranger is a client, who is to come through it."""
WAYS = [("get", HTTP, "200 OK"), ("get", PROXY, "200 OK"), ("echo", TCP, "ping"), ("greeting", GREETING, "220 ")]


@pytest.fixture(scope="module")
def forwarder(site: Site, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with site.forwarder(tmp_path_factory.mktemp("balanced"), ADDRESS, clients=CLIENTS) as running:
        yield running


def said(client: str, version: int = 1) -> list[str]:
    """The arguments of a client that says so first."""
    return ["--first", header(version, (client, 1234), HERE).hex()]


@pytest.mark.usefixtures("forwarder")
@pytest.mark.parametrize(("what", "port", "got"), WAYS)
@pytest.mark.parametrize("version", [1, 2])
def test_a_balancer_names_a_client_that_is_let_in(site: Site, what: str, port: int, got: str, version: int) -> None:
    answer = site.client(UNTOUCHED, what, f"{ADDRESS}:{port}", *said(CLIENT, version))
    assert got in answer["got"], answer


@pytest.mark.usefixtures("forwarder")
@pytest.mark.parametrize(("what", "port"), [("get", HTTP), ("greeting", GREETING)])
@pytest.mark.parametrize(
    ("machine", "first"),
    [
        pytest.param(UNTOUCHED, said(ELSEWHERE), id="a balancer's client of another network"),
        pytest.param(UNTOUCHED, said(ELSEWHERE, 2), id="the same by version 2"),
        pytest.param(UNTOUCHED, [], id="a balancer that says nothing"),
        pytest.param(UNTOUCHED, ["--first", b"PROXY UNKNOWN\r\n".hex()], id="a balancer that does not know"),
        pytest.param(UNTOUCHED, ["--first", (SIGNATURE + bytes([0x20, 0, 0, 0])).hex()], id="one that asks for itself"),
        pytest.param(UNTOUCHED, ["--first", b"PROXY TCP4 a b\r\n".hex()], id="a balancer that says nonsense"),
        pytest.param(STRANGER, said(CLIENT), id="somebody else who says so"),
        pytest.param(STRANGER, said(CLIENT, 2), id="somebody else who says so by version 2"),
        pytest.param(STRANGER, said(STRANGER_ADDRESS), id="a client that names itself"),
        pytest.param(STRANGER, [], id="a client past the balancer"),
    ],
)
def test_nobody_else_sees_a_byte(site: Site, machine: str, first: list[str], what: str, port: int) -> None:
    answer = site.client(machine, what, f"{ADDRESS}:{port}", *first)
    assert answer["got"] == ""


def test_the_clients_address_is_what_is_logged_and_passed_on(site: Site, forwarder: Running) -> None:
    answer = site.client(UNTOUCHED, "get", f"{ADDRESS}:{HTTP}", *said(CLIENT))
    seen = json.loads(answer["got"].partition("\r\n\r\n")[2])
    assert seen["headers"]["x-forwarded-for"] == CLIENT
    logged = eventually("it is logged", lambda: [each for each in log(forwarder) if each.get("response_code") == 200])
    assert logged[-1]["downstream_remote_address"] == f"{CLIENT}:1234"
    assert logged[-1]["downstream_direct_remote_address"].startswith(f"{UNTOUCHED_ADDRESS}:")


def test_who_is_no_balancer_is_logged_with_its_own_address(site: Site, forwarder: Running) -> None:
    assert site.client(STRANGER, "echo", f"{ADDRESS}:{TCP}", *said("192.0.2.99"))["got"] == ""

    def refused() -> list[Any]:
        claims = [each for each in log(forwarder) if each["downstream_remote_address"] == "192.0.2.99:1234"]
        return [each for each in claims if each["response_flags"] == "NR"]

    [entry] = eventually("the refusal is logged", refused)
    assert entry["downstream_direct_remote_address"].startswith(f"{STRANGER_ADDRESS}:")


def test_a_balancer_that_says_nothing_is_counted(site: Site, forwarder: Running) -> None:
    before = forwarder.stats("proxy_proto.not_found_disallowed")
    assert site.client(UNTOUCHED, "get", f"{ADDRESS}:{HTTP}")["got"] == ""
    [(name, count)] = before.items()
    assert forwarder.stats(name) == {name: count + 1}


@pytest.mark.parametrize(("what", "port", "got"), WAYS)
def test_a_certificate_opens_through_a_balancer_only(
    site: Site, forwarder: Running, what: str, port: int, got: str
) -> None:
    certificate = ["--certificates", str(site.certificates("billing"))]
    answer = site.client(UNTOUCHED, what, f"{ADDRESS}:{port}", *said(ELSEWHERE), *certificate)
    assert got in answer["got"], answer
    for machine, first in ((STRANGER, said(ELSEWHERE)), (STRANGER, []), (UNTOUCHED, [])):
        assert site.client(machine, what, f"{ADDRESS}:{port}", *first, *certificate)["got"] == ""
    foreign = ["--certificates", str(site.certificates("reviews.bookinfo"))]
    if what != "greeting":
        assert site.client(UNTOUCHED, what, f"{ADDRESS}:{port}", *said(ELSEWHERE), *foreign)["got"] == ""
    known = [each for each in log(forwarder) if each.get("downstream_peer_uri_san") == IDENTITY]
    assert all(each["downstream_remote_address"].startswith(ELSEWHERE) for each in known)


@pytest.mark.usefixtures("forwarder")
@pytest.mark.parametrize("machine", [UNTOUCHED, STRANGER])
def test_health_is_asked_without_a_header(site: Site, machine: str) -> None:
    assert site.curl(machine, f"http://{ADDRESS}:{HEALTH}/healthz/ready")[0] == "200"


@pytest.mark.usefixtures("forwarder")
@pytest.mark.parametrize("version", [1, 2])
def test_through_a_balancer(site: Site, version: int) -> None:
    targets = [f"{ADDRESS}:{HTTP}", "--health", str(HEALTH), "--proxy-protocol", str(version)]
    url = f"http://{UNTOUCHED_ADDRESS}:8000/"
    with site.program(UNTOUCHED, "balancer", f"{UNTOUCHED_ADDRESS}:8000", *targets):
        status, body, _ = site.curl(STRANGER, "-H", f"x-forwarded-for: {CLIENT}", url)
        assert status == "200", body
        forwarded = json.loads(body)["headers"]["x-forwarded-for"].replace(" ", "")
        assert forwarded == f"{CLIENT},{STRANGER_ADDRESS}"
        assert site.curl(UNTOUCHED, url)[0] == "000", "the balancer's own host is none of the clients"


def test_the_rate_is_the_clients_and_not_the_balancers(site: Site, tmp_path: Any) -> None:
    limits = {"requestsPerSecond": 1}
    with site.forwarder(tmp_path, ANOTHER, clients=CLIENTS, limits=limits):
        ask = ["get", f"{ANOTHER}:{HTTP}"]
        eventually("too much is asked", lambda: "429" in site.client(UNTOUCHED, *ask, *said("192.0.2.1"))["got"])
        assert "200 OK" in site.client(UNTOUCHED, *ask, *said("192.0.2.2"))["got"]


def test_a_tunnel_keeps_its_clients_address(site: Site, forwarder: Running) -> None:
    url = f"http://{REVIEWS}:{HTTP}/through-both"
    targets = [f"{ADDRESS}:{PROXY}", "--health", str(HEALTH), "--proxy-protocol", "2"]
    with site.program(UNTOUCHED, "balancer", f"{UNTOUCHED_ADDRESS}:8001", *targets):
        status, body, _ = site.curl(STRANGER, "-p", "-x", f"http://{UNTOUCHED_ADDRESS}:8001", url)
    assert (status, json.loads(body)["headers"]["x-forwarded-for"]) == ("200", STRANGER_ADDRESS)
    [call] = eventually(
        "it is logged", lambda: [each for each in log(forwarder) if each.get("path") == "/through-both"]
    )
    assert call["downstream_remote_address"].startswith(f"{STRANGER_ADDRESS}:")
    assert call["downstream_direct_remote_address"].startswith(f"{UNTOUCHED_ADDRESS}:")

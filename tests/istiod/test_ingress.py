"""Pods of a mesh that the real istiod runs call machines, by the objects that docs/ingress.md shows."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import pytest

from sidestep.proxy.admin import Admin
from tests.envoys import eventually

from . import called, clients
from .apps import GREETING
from .certificates import spiffe_id
from .manifests import ARCHIVE, ARCHIVE_MACHINE, BILLING, BILLING_MACHINE, EXTERNAL, UNNAMED

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from concurrent.futures import ProcessPoolExecutor

    from .called import CalledMachine
    from .machine import Machines
    from .mesh import Mesh

pytestmark = pytest.mark.xdist_group("istiod")
OPEN, OTHER = "open.strict", "open.perm"
"""The pod that the machines admit, and one that they do not."""


class Caller:
    """An application in a pod: what it calls goes by its sidecar."""

    def __init__(self, pool: ProcessPoolExecutor) -> None:
        self._pool = pool

    def __call__(self, function: Callable[..., Any], *args: Any, **options: Any) -> Any:
        return self._pool.submit(function, *args, **options).result()


@pytest.fixture(scope="module")
def machines_called(istio: Mesh) -> Iterator[dict[str, CalledMachine]]:
    """`billing` in the mesh's own trust domain, `archive` in one of its own."""
    billing = istio.authorities.machine(spiffe_id("billing"))
    archive = istio.authorities.machine(spiffe_id("archive", trust_domain="vms.example"))
    with (
        called.machine(istio, "billing", BILLING_MACHINE, billing) as first,
        called.machine(istio, "archive", ARCHIVE_MACHINE, archive) as second,
    ):
        yield {"billing": first, "archive": second}


@pytest.fixture(scope="module")
def pods(istio: Mesh, machines_called: dict[str, CalledMachine]) -> Iterator[dict[str, Caller]]:
    with contextlib.ExitStack() as stack:
        yield {name: Caller(stack.enter_context(clients.inside(istio.network.pods[name]))) for name in (OPEN, OTHER)}


def caller(header: str) -> str:
    return dict(part.split("=", 1) for part in header.split(";"))["URI"]


MACHINES = pytest.mark.parametrize("address", [BILLING, ARCHIVE], ids=["own-trust-domain", "another-trust-domain"])


@MACHINES
def test_http_arrives_with_the_pods_identity(pods: dict[str, Caller], istio: Mesh, address: str) -> None:
    forged = {"x-forwarded-client-cert": f"URI={spiffe_id('admin')}"}
    response = pods[OPEN](clients.http_call, (address, 8080), path="/public/a?b=c", headers=forged)
    assert response.status == 200, response
    assert (response.heard["version"], response.heard["path"]) == ("1.1", "/public/a")
    (xfcc,) = response.request_headers("x-forwarded-client-cert")
    assert caller(xfcc) == istio.services[OPEN].spiffe_id
    assert not any(name.startswith("x-envoy-peer-metadata") for name, _ in response.heard["headers"])


@MACHINES
def test_grpc_arrives_with_the_pods_identity(pods: dict[str, Caller], istio: Mesh, address: str) -> None:
    rpc = pods[OPEN](clients.grpc_unary, (address, 50051), "hello")
    assert rpc.code == "OK", rpc
    assert caller(rpc.heard["metadata"]["x-forwarded-client-cert"]) == istio.services[OPEN].spiffe_id
    stream = pods[OPEN](clients.grpc_stream, (address, 50051), ["a", "b"])
    assert stream.replies == ("heard a", "heard b")


@MACHINES
def test_tcp_where_the_machine_speaks_first(pods: dict[str, Caller], address: str) -> None:
    assert pods[OPEN](clients.exchange, (address, 2525), b"ping", len(GREETING)) == GREETING + b"ping"


def test_websocket(pods: dict[str, Caller]) -> None:
    assert pods[OPEN](clients.websocket, (BILLING, 8080), ["one", "two"]) == ["one", "two"]


@MACHINES
def test_another_pod_is_refused_and_sees_no_greeting(
    pods: dict[str, Caller], istio: Mesh, machines_called: dict[str, CalledMachine], address: str
) -> None:
    other = pods[OTHER]
    assert other(clients.http_call, (address, 8080)).status == 503
    assert other(clients.grpc_unary, (address, 50051), "hello").code == "UNAVAILABLE"
    assert other(clients.exchange, (address, 2525), b"ping", len(GREETING)) == b""
    machine = machines_called["billing" if address == BILLING else "archive"]
    reasons = eventually("three refusals", lambda: refusals(machine, istio.services[OTHER].spiffe_id))
    assert all("SAN_matcher" in reason for reason in reasons)


def refusals(machine: CalledMachine, spiffe: str) -> list[str]:
    """Why this caller's handshakes failed, once all three have."""
    reasons = [str(line.get("downstream_transport_failure_reason")) for line in machine.log()]
    named = [reason for reason in reasons if f"[{spiffe}]" in reason]
    return named if len(named) >= 3 else []


def test_a_request_that_no_rule_allows_is_refused(pods: dict[str, Caller]) -> None:
    for method, path, status in [("GET", "/admin", 403), ("POST", "/", 403), ("GET", "/public/..%2fadmin", 400)]:
        assert pods[OPEN](clients.http_call, (BILLING, 8080), method, path).status == status
    assert pods[OPEN](clients.http_call, (BILLING, 8080), "GET", "/").status == 200


def test_a_machine_of_another_trust_domain_is_refused_by_the_pod_unless_named(
    pods: dict[str, Caller], istio: Mesh
) -> None:
    assert pods[OPEN](clients.http_call, (UNNAMED, 8080)).status == 503
    lines = istio.proxies[OPEN].access_log(upstream_cluster="outbound|8080||unnamed.vms.svc.cluster.local")
    assert "SAN_matcher" in lines[0]["upstream_transport_failure_reason"]
    assert pods[OPEN](clients.exchange, (UNNAMED, 2525), b"ping", len(GREETING)) == b""


def test_nobody_gets_in_past_the_mesh(machines_called: dict[str, CalledMachine], machines: Machines) -> None:
    with pytest.raises(OSError, match=r"reset|closed"):
        machines.call(clients.http_call, (BILLING_MACHINE, 18080))
    assert b"220" not in machines.call(clients.exchange, (BILLING_MACHINE, 12525), b"plain text")


@pytest.fixture(scope="module")
def balancer(istio: Mesh, machines_called: dict[str, CalledMachine]) -> Iterator[None]:
    identity = istio.authorities.machine(spiffe_id("load-balancer", namespace="edge"))
    with called.load_balancer(istio, [BILLING_MACHINE, ARCHIVE_MACHINE], identity):
        yield


def through(pods: dict[str, Caller]) -> Any:
    return pods[OTHER](clients.http_call, (EXTERNAL, 80), headers={"host": called.NAME})


def test_an_https_load_balancer_is_one_external_endpoint(
    pods: dict[str, Caller], balancer: None, machines_called: dict[str, CalledMachine]
) -> None:
    response = eventually("an answer", lambda: answered(through(pods)))
    (xfcc,) = response.request_headers("x-forwarded-client-cert")
    assert caller(xfcc) == spiffe_id("load-balancer", namespace="edge"), "the caller's own identity ends there"
    eventually("both machines answer", lambda: answered(through(pods)) and all(map(served, machines_called.values())))


def test_a_machine_that_drains_is_taken_out_of_the_load_balancer(
    pods: dict[str, Caller], balancer: None, machines_called: dict[str, CalledMachine]
) -> None:
    admins = [Admin(machine.bundle / "admin.sock") for machine in machines_called.values()]
    eventually("an answer", lambda: answered(through(pods)))
    admins[0].request("/healthcheck/fail", "POST")
    try:
        assert {through(pods).status for _ in range(20)} == {200}
        admins[1].request("/healthcheck/fail", "POST")
        eventually("nobody is left", lambda: through(pods).body == "no healthy upstream")
    finally:
        for admin in admins:
            admin.request("/healthcheck/ok", "POST")
    eventually("both are back in", lambda: answered(through(pods)))


def served(machine: CalledMachine) -> bool:
    """Whether it has answered a request that came by the load balancer."""
    return any(line.get("upstream_cluster") == "inbound|8443||" and line["path"] == "/" for line in machine.log())


def answered(response: Any) -> Any:
    return response if response.status == 200 else None


def test_only_the_load_balancer_reaches_its_listener(
    balancer: None, machines_called: dict[str, CalledMachine], machines: Machines
) -> None:
    before = len(machines_called["billing"].log())
    assert machines.call(clients.exchange, (BILLING_MACHINE, called.BALANCED), b"anything") == b""
    eventually(
        "it is logged", lambda: "NR" in [line["response_flags"] for line in machines_called["billing"].log()[before:]]
    )

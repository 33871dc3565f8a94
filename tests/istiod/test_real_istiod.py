"""What a machine can call in a mesh that the real istiod runs, and what its policy keeps from it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from sidestep.pki.pem import encode

from . import clients
from .apps import GREETING, GRPC_SERVICE
from .certificates import spiffe_id

if TYPE_CHECKING:
    from .machine import Machine, Machines
    from .mesh import Mesh

pytestmark = pytest.mark.xdist_group("istiod")
MODES = pytest.mark.parametrize("service", ["open.strict", "open.perm"])
GUARDED = pytest.mark.parametrize("guarded", ["guarded.strict", "guarded.perm"])
DENIED = "rbac_access_denied_matched_policy[none]"


def caller(headers: list[str]) -> str:
    """The caller's SPIFFE ID in the one ``x-forwarded-client-cert`` header that the application heard."""
    (xfcc,) = headers
    return dict(part.split("=", 1) for part in xfcc.split(";"))["URI"]


def test_strict_sidecars_refuse_plaintext_and_permissive_ones_take_it(istio: Mesh, machines: Machines) -> None:
    strict, permissive = (istio.services[name].address for name in ("open.strict", "open.perm"))
    assert machines.call(clients.http_call, (permissive, 9080)).status == 200
    assert machines.call(clients.exchange, (permissive, 9000), b"no TLS here") == b"no TLS here"
    with pytest.raises(OSError, match=r"reset|closed"):
        machines.call(clients.http_call, (strict, 9080))
    assert machines.call(clients.exchange, (strict, 9000), b"no TLS here") == b""


@MODES
@pytest.mark.parametrize("port", [9080, 9081], ids=["declared", "undeclared"])
def test_http_arrives_whole_and_with_the_machines_identity(billing: Machine, service: str, port: int) -> None:
    response = billing[service].http(port, method="POST", path="/a?b=c", body="text", headers={"x-mine": "1"})
    assert response.status == 200
    assert (response.heard["version"], response.heard["path"], response.heard["body"]) == ("1.1", "/a", "text")
    assert response.request_headers("x-mine") == ["1"]
    assert caller(response.request_headers("x-forwarded-client-cert")) == spiffe_id("billing")


@MODES
def test_the_host_is_what_a_caller_in_the_mesh_would_say(billing: Machine, istio: Mesh, service: str) -> None:
    heard = billing[service].http(headers={"host": "localhost"}).request_headers("host")
    assert heard == [f"{istio.services[service].host}:9080"]


@MODES
def test_http2_is_spoken_all_the_way(billing: Machine, service: str) -> None:
    version, response = billing[service].http2()
    assert (version, response.status, response.heard["version"]) == ("HTTP/2", 200, "2")
    assert caller(response.request_headers("x-forwarded-client-cert")) == spiffe_id("billing")


@MODES
def test_an_application_cannot_speak_in_another_name(billing: Machine, service: str) -> None:
    forged = {"x-forwarded-client-cert": f"URI={spiffe_id('admin')}", "x-envoy-peer-metadata-id": "forged"}
    response = billing[service].http(headers=forged)
    assert caller(response.request_headers("x-forwarded-client-cert")) == spiffe_id("billing")
    assert "forged" not in response.body


@MODES
def test_a_websocket_carries_messages_both_ways(billing: Machine, service: str) -> None:
    assert billing[service].websocket(["one", "two"]) == ["one", "two"]


@MODES
def test_grpc_unary(billing: Machine, service: str) -> None:
    rpc = billing[service].unary("hello")
    assert rpc.code == "OK", rpc
    assert rpc.heard["request"] == "hello"
    assert caller([rpc.heard["metadata"]["x-forwarded-client-cert"]]) == spiffe_id("billing")


@MODES
def test_grpc_streams_both_ways_at_once(billing: Machine, service: str) -> None:
    rpc = billing[service].stream(["a", "b", "c"])
    assert (rpc.code, rpc.replies) == ("OK", ("heard a", "heard b", "heard c"))


@MODES
def test_many_grpc_calls_at_once_do_not_share_one_connection(istio: Mesh, machines: Machines, service: str) -> None:
    """The gateway balances connections: one for all would put every call on one pod."""
    connections = "0.0.0.0_15006.downstream_cx_total"
    before = istio.proxies[service].counter(connections)
    identity = istio.authorities.machine(spiffe_id("billing"))
    with machines.running("billing", identity, [(istio.services[service], 50051, "")]) as machine:
        rpcs = machine[service].start(clients.grpc_streams_at_once, 50051, 60).result()
    assert {(rpc.code, len(rpc.replies)) for rpc in rpcs} == {("OK", 5)}
    assert istio.proxies[service].counter(connections) - before > 1


@MODES
@pytest.mark.parametrize("port", [9000, 9082], ids=["declared", "undeclared"])
def test_tcp_carries_bytes_both_ways(billing: Machine, service: str, port: int) -> None:
    message = bytes(range(256)) * 4096
    assert billing[service].exchange(b"p", port=port) == b"p"
    assert billing[service].exchange(message, port=port) == message


@MODES
def test_one_direction_of_a_connection_may_end_first(billing: Machine, service: str) -> None:
    message = b"all of it" * 10_000
    assert billing[service].start(clients.send_and_end, 9000, message).result() == message


@MODES
def test_a_server_may_speak_first(billing: Machine, service: str) -> None:
    assert billing[service].exchange(b"ping", port=9001, greeting=GREETING) == GREETING + b"ping"


@MODES
def test_an_applications_own_tls_passes_inside(billing: Machine, istio: Mesh, service: str) -> None:
    root = encode([istio.authorities.root.certificate]).decode()
    assert billing[service].tls_exchange(b"ping", root=root) == b"ping"


@GUARDED
def test_policy_admits_the_principal_it_names(billing: Machine, guarded: str) -> None:
    service = billing[guarded]
    assert service.http().status == 200
    assert service.unary().code == "OK"
    assert service.stream(["a", "b"]).replies == ("heard a", "heard b")
    assert service.exchange(b"ping") == b"ping"
    assert service.exchange(b"ping", port=9001, greeting=GREETING) == GREETING + b"ping"


@GUARDED
def test_policy_refuses_another_principal_over_http(stranger: Machine, istio: Mesh, guarded: str) -> None:
    assert stranger["open.strict"].http().status == 200
    response = stranger[guarded].http(path="/denied")
    assert (response.status, response.body) == (403, "RBAC: access denied")
    (line,) = istio.proxies[guarded].access_log(path="/denied")
    assert line["response_code_details"] == DENIED


@GUARDED
def test_policy_refuses_another_principal_over_grpc(stranger: Machine, istio: Mesh, guarded: str) -> None:
    assert stranger["open.strict"].unary().code == "OK"
    for rpc in (stranger[guarded].unary(), stranger[guarded].stream(["a"])):
        assert (rpc.code, rpc.details, rpc.replies) == ("PERMISSION_DENIED", "RBAC: access denied", ())
    for method in ("Say", "Chat"):
        assert istio.proxies[guarded].access_log(path=f"/{GRPC_SERVICE}/{method}", response_code_details=DENIED)


@GUARDED
@pytest.mark.parametrize(("port", "greeting"), [(9000, b""), (9001, GREETING)], ids=["tcp", "server-first"])
def test_policy_cuts_another_principal_off_after_its_first_byte(
    stranger: Machine, istio: Mesh, guarded: str, port: int, greeting: bytes
) -> None:
    """A server that speaks first is heard until then: Istio's RBAC waits for the client's first byte."""
    assert stranger["open.strict"].exchange(b"ping", port=port, greeting=greeting) == greeting + b"ping"
    assert stranger[guarded].exchange(b"ping", port=port, greeting=greeting) == greeting
    sni = f"outbound_.{port}_._.{istio.services[guarded].host}"
    assert istio.proxies[guarded].access_log(requested_server_name=sni, connection_termination_details=DENIED)

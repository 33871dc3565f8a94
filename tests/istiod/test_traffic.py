"""Subsets, and HTTP/1.1 carried over HTTP/2, through a gateway and to sidecars that the real istiod configures."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from .certificates import spiffe_id

if TYPE_CHECKING:
    from .machine import Machines
    from .mesh import Mesh

pytestmark = pytest.mark.xdist_group("istiod")
UPGRADE = {"trafficPolicy": {"connectionPool": {"http": {"h2UpgradePolicy": "UPGRADE"}}}}


def test_a_subset_that_a_destination_rule_defines_answers(istio: Mesh, machines: Machines) -> None:
    service = istio.services["open.strict"]
    identity = istio.authorities.machine(spiffe_id("billing"))
    with machines.running("billing", identity, [(service, 9080, "")], traffic={"subset": "defined"}) as machine:
        assert machine["open.strict"].http().status == 200
        [call] = machine.access_log(1)
    assert call["upstream_cluster"] == f"outbound|9080|defined|{service.host}"


def test_one_that_none_defines_is_refused_by_the_gateway(istio: Mesh, machines: Machines) -> None:
    identity = istio.authorities.machine(spiffe_id("billing"))
    egress = [(istio.services["open.strict"], 9080, "")]
    with machines.running("billing", identity, egress, traffic={"subset": "unheard-of"}) as machine:
        assert machine["open.strict"].http().status == 503
        [call] = machine.access_log(1)
    assert "Connection_reset_by_peer" in call["upstream_transport_failure_reason"]


@pytest.mark.parametrize("service", ["open.strict", "open.perm"])
def test_http1_callers_are_carried_over_http2(istio: Mesh, machines: Machines, service: str) -> None:
    identity = istio.authorities.machine(spiffe_id("billing"))
    with machines.running("billing", identity, [(istio.services[service], 9080, "")], traffic=UPGRADE) as machine:
        response = machine[service].http()
        assert (response.status, response.heard["version"]) == (200, "1.1")
        assert machine[service].websocket(["one", "two"]) == ["one", "two"]
        clusters = [call["upstream_cluster"] for call in machine.access_log(2)]
    host = istio.services[service].host
    assert clusters == [f"outbound|9080||{host}", f"outbound-upgrade|9080||{host}"]

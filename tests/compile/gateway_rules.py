"""What must hold for the gateways of every cluster, so that one may be lost."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tests.compile.made import spoken, tunnels

if TYPE_CHECKING:
    from tests.compile.made import Made


def gateways_are_those_of_the_spec_in_order(made: Made) -> None:
    here = made.machine.workload.spec.locality
    for cluster in made.clusters:
        localities = cluster["load_assignment"]["endpoints"]
        assert [locality["priority"] for locality in localities] == [*range(len(localities))]
        order = [
            (-_shared(here, gateway.locality), index if gateway.priority is None else gateway.priority)
            for index, gateway in enumerate(made.machine.mesh.spec.gateways)
        ]
        by_preference: dict[tuple[int, int], list[tuple[str, int]]] = {}
        for preference, gateway in zip(order, made.machine.mesh.spec.gateways, strict=True):
            by_preference.setdefault(preference, []).append((gateway.address, gateway.port))
        wanted = [by_preference[preference] for preference in sorted(by_preference)]
        assert [[address_of(each) for each in locality["lb_endpoints"]] for locality in localities] == wanted


def _shared(here: str | None, there: str | None) -> int:
    """How much of region, zone and sub-zone two places have in common."""
    pairs = zip((here or "").split("/"), (there or "").split("/"), strict=False)
    same = [bool(own) and own == its for own, its in pairs]
    return same.index(False) if False in same else len(same)


def address_of(endpoint: Any) -> tuple[str, int]:
    """Where an endpoint is."""
    address = endpoint["endpoint"]["address"]["socket_address"]
    return address["address"], address["port_value"]


def a_lost_gateway_is_noticed(made: Made) -> None:
    several = len(made.machine.mesh.spec.gateways) > 1
    for port, cluster in made.calls():
        policy = port.traffic.policy
        assert ("outlier_detection" in cluster) == (several or policy.outlier_detection is not None)
        assert ("health_checks" in cluster) == (several or port.traffic.health_check is not None)
        retries = cluster["circuit_breakers"]["thresholds"][0]["max_retries"]
        assert retries == (policy.http.max_retries or 1024)
        for check in cluster.get("health_checks", []):
            assert check["no_traffic_interval"] == check["interval"], "a minute by default: far too late"
            in_plain = "transport_socket_match_criteria" in check
            assert in_plain == bool(cluster.get("transport_socket_matches")) == (port.traffic.health_check is None)


def a_second_try_goes_to_another_gateway(made: Made) -> None:
    several = len(made.machine.mesh.spec.gateways) > 1
    clusters = {cluster["name"]: cluster for cluster in made.clusters}
    for route in (route for route in made.routes() if not tunnels(route)):
        cluster, retry_policy = clusters[route["route"]["cluster"]], route["route"].get("retry_policy", {})
        localities = cluster["load_assignment"]["endpoints"]
        equals = cluster.get("type") != "STATIC" or any(len(each["lb_endpoints"]) > 1 for each in localities)
        wanted = {"retry_host_predicate": several and equals, "retry_priority": len(localities) > 1}
        for field, is_wanted in wanted.items():
            assert bool(retry_policy.get(field)) == (is_wanted and bool(retry_policy))


def http2_connections_are_spread(made: Made) -> None:
    for port, cluster in made.calls():
        policy = port.traffic.policy
        age = policy.connection_pool.tcp.max_connection_duration
        for options in cluster.get("typed_extension_protocol_options", {}).values():
            assert options["common_http_protocol_options"]["max_connection_duration"] == str(age or "60s")
            if spoken(port, cluster) in {"HTTP2", "GRPC"}:
                http2 = options["explicit_http_config"]["http2_protocol_options"]
                assert http2["max_concurrent_streams"] == (policy.http.max_concurrent_streams or 4)
                assert http2["connection_keepalive"], "nothing else notices a gateway that hangs"

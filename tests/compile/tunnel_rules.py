"""What must hold for tunnels through the proxy, whatever the documents say: a function a rule.

What carries HTTP is read before it goes on, so that every rule for requests holds for those in tunnels, too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tests.compile.made import TUNNEL, tunnels

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.compile.made import Made


ADDRESS = "envoy.filters.listener.original_dst.remote_ip"
APART = "envoy.network.upstream_server_name"
"""What tells connections to the tunnel's end apart, beside the client's address."""


def ends(made: Made, file: str) -> list[Any]:
    """The listener or cluster of that name, where there is one."""
    return [each for each in made.files[file]["resources"] if each["name"] == TUNNEL]


def manager(chain: Any) -> Any:
    """The connection manager of a filter chain."""
    [only] = chain["filters"]
    return only["typed_config"]


def entrances(made: Made) -> Iterator[tuple[Any, Any]]:
    """Every filter chain of the proxy, with its connection manager."""
    for listener in (each for each in made.listeners if each["name"].startswith("proxy|")):
        for chain in listener["filter_chains"]:
            yield chain, manager(chain)


def connect(config: Any) -> Any:
    """What a connection manager says of CONNECT."""
    [found] = [each for each in config["upgrade_configs"] if each["upgrade_type"] == "CONNECT"]
    return found


def what_carries_http_is_read_here(made: Made) -> None:
    # A name says nothing of subsets: it stands for the first egress to a port.
    ports = {f"{port.service.host}:{port.number}": port for port in reversed(made.machine.egress)}
    route_configs = made.files.get("rds.json", {"resources": []})["resources"]
    for host in (host for config in route_configs for host in config["virtual_hosts"]):
        for route in (route for route in host["routes"] if tunnels(route) and "route" in route):
            name, _, number = host["name"].rpartition(":")
            is_http = ports[host["name"]].protocol in {"HTTP", "HTTP2", "GRPC"}
            subset = ports[host["name"]].traffic.subset
            assert route["route"]["cluster"] == (TUNNEL if is_http else f"outbound|{number}|{subset}|{name}")


def nobody_gets_there_but_through_the_proxy(made: Made) -> None:
    wanted = 1 if made.machine.workload.spec.proxy else 0
    listeners, clusters = ends(made, "lds.json"), ends(made, "cds.json")
    assert (len(listeners), len(clusters)) == (wanted, wanted)
    assert "envoy.bootstrap.internal_listener" in {each["name"] for each in made.bootstrap["bootstrap_extensions"]}
    for listener, cluster in zip(listeners, clusters, strict=True):
        assert listener["internal_listener"] == {}
        assert "address" not in listener
        [locality] = cluster["load_assignment"]["endpoints"]
        [endpoint] = locality["lb_endpoints"]
        assert endpoint == {"endpoint": {"address": {"envoy_internal_address": {"server_listener_name": TUNNEL}}}}
        assert cluster["transport_socket"]["name"] == "envoy.transport_sockets.internal_upstream"


def requests_go_where_they_would_go_outside(made: Made) -> None:
    for listener in ends(made, "lds.json"):
        [chain] = listener["filter_chains"]
        for _, outside in entrances(made):
            for field in ("rds", "normalize_path", "path_with_escaped_slashes_action", "strip_trailing_host_dot"):
                assert manager(chain)[field] == outside[field]


def no_tunnel_opens_another(made: Made) -> None:
    """The routes allow CONNECT, so a filter must refuse it."""
    for listener in ends(made, "lds.json"):
        [chain] = listener["filter_chains"]
        assert all("filters" not in each for each in manager(chain)["upgrade_configs"]), "they would go around it"
        [refusal] = [each for each in manager(chain)["http_filters"] if each["name"] == "envoy.filters.http.rbac"]
        rules = refusal["typed_config"]["rules"]
        [policy] = rules["policies"].values()
        method = {"header": {"name": ":method", "string_match": {"exact": "CONNECT"}}}
        assert (rules["action"], policy) == ("DENY", {"permissions": [method], "principals": [{"any": True}]})


def what_is_asked_of_requests_is_asked_of_tunnels(made: Made) -> None:
    for _, config in entrances(made):
        *of_requests, _router = config["http_filters"]
        assert connect(config)["filters"][: len(of_requests)] == of_requests


def who_asks_is_known_within(made: Made) -> None:
    for listener in ends(made, "lds.json"):
        assert [each["name"] for each in listener["listener_filters"]] == ["envoy.filters.listener.original_dst"]
        [chain] = listener["filter_chains"]
        within = logged(manager(chain))
        for _, config in entrances(made):
            handed, outside = dict(remembered(config)), logged(config)
            assert handed.pop(ADDRESS) == "%DOWNSTREAM_REMOTE_ADDRESS%"
            for name in {"downstream_peer_uri_san", "user", "downstream_direct_remote_address"} & set(outside):
                assert handed.pop(f"sidestep.{name}") == outside[name]
                assert within[name] == f"%FILTER_STATE(sidestep.{name}:PLAIN)%"
            assert handed.pop(APART, None) == outside.get("user"), "or one user's tunnel is taken for another's"
            assert handed == {}


def logged(config: Any) -> Any:
    """The fields of a connection manager's access log."""
    [log] = config["access_log"]
    return log["typed_config"]["log_format"]["json_format"]


def remembered(config: Any) -> Iterator[tuple[str, str]]:
    """What is handed on of the client of a tunnel, and to nothing that comes after the tunnel."""
    for each in connect(config)["filters"]:
        if each["name"] == "envoy.filters.http.set_filter_state":
            for value in each["typed_config"]["on_request_headers"]:
                shared = "NONE" if value["object_key"] == APART else "ONCE"
                assert value["shared_with_upstream"] == shared, "or each client has connections to the mesh of its own"
                yield value["object_key"], value["format_string"]["text_format_source"]["inline_string"]
    assert "envoy.filters.http.set_filter_state" not in {each["name"] for each in config["http_filters"]}


RULES: list[Callable[[Made], None]] = [
    what_carries_http_is_read_here,
    nobody_gets_there_but_through_the_proxy,
    requests_go_where_they_would_go_outside,
    no_tunnel_opens_another,
    what_is_asked_of_requests_is_asked_of_tunnels,
    who_asks_is_known_within,
]

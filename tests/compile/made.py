"""A bundle as its reader finds it: what the rules look at."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from tests.contents import contents

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sidestep.files import FileTree
    from sidestep.spec import EgressPort, Machine

HTTP = "envoy.filters.network.http_connection_manager"
TCP = "envoy.filters.network.tcp_proxy"
TUNNEL = "internal|tunnel"
"""The listener where tunnels of requests end, and the cluster that leads there."""


@dataclass(frozen=True)
class Made:
    """A bundle as its reader finds it, and the machine that it is for."""

    machine: Machine
    tree: FileTree

    @cached_property
    def contents(self) -> dict[str, bytes]:
        """What every file holds."""
        return contents(self.tree)

    @cached_property
    def files(self) -> dict[str, Any]:
        """The JSON files, read."""
        return {name: json.loads(content) for name, content in self.contents.items() if name.endswith(".json")}

    @property
    def bootstrap(self) -> Any:
        return self.files["envoy.json"]

    @property
    def all_clusters(self) -> list[Any]:
        """All that lead out of this Envoy."""
        return [each for each in self.files["cds.json"]["resources"] if each["name"] != TUNNEL]

    @property
    def all_listeners(self) -> list[Any]:
        """All that somebody can connect to."""
        return [each for each in self.files["lds.json"]["resources"] if each["name"] != TUNNEL]

    @property
    def clusters(self) -> list[Any]:
        """Those that lead to the mesh: all but the machine's own applications."""
        return [cluster for cluster in self.all_clusters if not cluster["name"].startswith("inbound|")]

    @property
    def listeners(self) -> list[Any]:
        """Those for local applications: all but those that the mesh calls."""
        return [listener for listener in self.all_listeners if not listener["name"].startswith(("ingress|", "health|"))]

    def calls(self) -> Iterator[tuple[EgressPort, Any]]:
        """Every port that the machine calls, with each cluster that stands for it."""
        clusters = {cluster["name"]: cluster for cluster in self.clusters}
        for port in self.machine.egress:
            rest = f"{port.number}|{port.traffic.subset}|{port.service.host}"
            yield port, clusters[f"outbound|{rest}"]
            if is_upgraded(port):
                yield port, clusters[f"outbound-upgrade|{rest}"]

    def managers(self) -> list[Any]:
        """The configuration of every HTTP connection manager."""
        return [filter_["typed_config"] for filter_ in self._filters() if filter_["name"] == HTTP]

    def _filters(self) -> list[Any]:
        ends = [each for each in self.files["lds.json"]["resources"] if each["name"] == TUNNEL]
        chains = [chain for listener in [*self.listeners, *ends] for chain in listener["filter_chains"]]
        return [filter_ for chain in chains for filter_ in chain["filters"]]

    def route_configs(self) -> list[Any]:
        """What every HTTP connection manager routes by: its own, or one of those in a file."""
        by_name = {each["name"]: each for each in self.files.get("rds.json", {"resources": []})["resources"]}
        managers = self.managers()
        assert {each["rds"]["route_config_name"] for each in managers if "rds" in each} == set(by_name)
        return [each.get("route_config") or by_name[each["rds"]["route_config_name"]] for each in managers]

    def routes(self) -> list[Any]:
        """Every HTTP route to a service."""
        hosts = [host for config in self.route_configs() for host in config["virtual_hosts"]]
        routes = [route for host in hosts for route in host["routes"] if "route" in route]
        return [route for route in routes if route["route"]["cluster"] != TUNNEL]

    def listens(self) -> list[str]:
        """Every address that the spec says, as it is written."""
        proxy = self.machine.workload.spec.proxy
        own = [port.address for port in self.machine.egress if port.address] + ([str(proxy.listen)] if proxy else [])
        health = self.machine.workload.spec.health
        own += [str(health.listen)] if health else []
        return own + [str(port.listen) for port in self.machine.ingress]


def is_upgraded(port: EgressPort) -> bool:
    """Whether the user asked to carry HTTP/1.1 callers over HTTP/2."""
    return port.protocol == "HTTP" and port.traffic.policy.http.h2_upgrade_policy == "UPGRADE"


def spoken(port: EgressPort, cluster: Any) -> str:
    """The protocol of a cluster: that of its port, but for what is carried over HTTP/2."""
    return "HTTP2" if is_upgraded(port) and cluster["name"].startswith("outbound|") else port.protocol


def tunnels(route: Any) -> bool:
    """Whether a route is for CONNECT."""
    return bool(route["match"] == {"connect_matcher": {}})


def written(address: Any) -> str:
    """A listener's address as it stands in a spec."""
    if "pipe" in address:
        return f"unix:{address['pipe']['path']}"
    host, port = address["socket_address"]["address"], address["socket_address"]["port_value"]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def tls(cluster: Any) -> Any:
    """A cluster's TLS settings."""
    assert cluster["transport_socket"]["name"] == "envoy.transport_sockets.tls"
    return cluster["transport_socket"]["typed_config"]


def endpoints(cluster: Any) -> list[Any]:
    """A cluster's endpoints, in order of preference."""
    localities = cluster["load_assignment"]["endpoints"]
    ordered = sorted(localities, key=lambda locality: int(locality.get("priority", 0)))
    return [endpoint for locality in ordered for endpoint in locality["lb_endpoints"]]

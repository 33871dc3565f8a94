"""Routes: how a request goes on to a service."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sidestep.compile.envoy import retries
from sidestep.compile.envoy.resources import cluster_name, upgrade_cluster_name

if TYPE_CHECKING:
    from sidestep.compile.envoy.gateways import Others
    from sidestep.compile.envoy.resources import Resource
    from sidestep.spec import EgressPort


def to_service(port: EgressPort, others: Others) -> list[Resource]:
    """The routes of a virtual host that stands for one port of a service."""
    action = {"cluster": cluster_name(port), "host_rewrite_literal": authority(port), **_time(port)}
    methods = retries.by_method(port, others)
    requests: list[Resource] = [{"match": each.match, "route": {**action, **each.action}} for each in methods]
    if for_upgrades := upgrade_cluster_name(port):
        # A WebSocket needs HTTP/1.1 up to the application (facts/istio.md §13.8).
        upgrade = {**action, "cluster": for_upgrades, **methods[-1].action}
        return [{"match": _UPGRADE, "route": upgrade}, *requests]
    return requests


def authority(port: EgressPort) -> str:
    """What a caller inside the mesh would put into ``Host``."""
    return port.service.host if port.number == 80 else f"{port.service.host}:{port.number}"


def _time(port: EgressPort) -> Resource:
    """The time limit. Beside a ``max_stream_duration`` Envoy would not heed it."""
    limit = port.traffic.timeout
    return {"timeout": str(limit)} if limit else _NO_TIME_LIMIT


_NO_TIME_LIMIT: Final[Resource] = {
    "timeout": "0s",
    "max_stream_duration": {"grpc_timeout_header_max": "0s"},
}
_UPGRADE: Final[Resource] = {"prefix": "/", "headers": [{"name": "upgrade", "present_match": True}]}

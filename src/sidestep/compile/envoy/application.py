"""The local application as a cluster: what it speaks, and whether it is well."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sidestep.compile.envoy.clusters import HTTP_OPTIONS
from sidestep.compile.envoy.gateways import THRESHOLDS, UNLIMITED
from sidestep.compile.envoy.resources import CLUSTER, TYPE, typed

if TYPE_CHECKING:
    from sidestep.compile.envoy.resources import Resource
    from sidestep.spec import IngressPort, Listen, Machine
    from sidestep.spec.ingress import HealthCheck


def name(port: IngressPort) -> str:
    """Istio's name for the cluster of a workload's own port."""
    return f"inbound|{port.number}||"


def clusters(machine: Machine) -> list[Resource]:
    """One cluster for each port that the mesh may call, by name."""
    return [_cluster(port) for port in sorted(machine.ingress, key=name)]


def _cluster(port: IngressPort) -> Resource:
    check = port.spec.health_check
    endpoint: Resource = {"address": _address(port.application)}
    if check and check.port:
        endpoint["health_check_config"] = {"port_value": check.port}
    cluster: Resource = {
        TYPE: CLUSTER,
        "name": name(port),
        "type": "STATIC",
        "connect_timeout": "5s",
        # As at a sidecar: limits are the callers' matter.
        "circuit_breakers": {"thresholds": [_THRESHOLDS]},
        "load_assignment": {"cluster_name": name(port), "endpoints": [{"lb_endpoints": [{"endpoint": endpoint}]}]},
    }
    if port.protocol.is_http:
        cluster["typed_extension_protocol_options"] = {HTTP_OPTIONS: _HTTP2 if port.protocol.is_http2 else _HTTP1}
    return {**cluster, **(_health(port, check) if check else {})}


def _address(listen: Listen) -> Resource:
    return {"socket_address": {"address": listen.address, "port_value": listen.port}}


def _health(port: IngressPort, check: HealthCheck) -> Resource:
    interval = f"{check.period_seconds}s"
    probe: Resource = {
        "timeout": f"{check.timeout_seconds}s",
        "interval": interval,
        "no_traffic_interval": interval,
        "no_traffic_healthy_interval": interval,
        "unhealthy_threshold": check.failure_threshold,
        "healthy_threshold": check.success_threshold,
        **_probe(port, check),
    }
    return {
        "health_checks": [probe],
        "common_lb_config": _AT_ONCE,
        # Connections that stay open would hold callers at an application that is not well.
        "close_connections_on_host_health_failure": True,
    }


def _probe(port: IngressPort, check: HealthCheck) -> Resource:
    if check.grpc:
        asked: Resource = {"service_name": check.grpc.service} if check.grpc.service else {}
        return {"grpc_health_check": asked}
    if check.http_get is None:
        return {"tcp_health_check": {}}
    get = check.http_get
    # A port of its own for probes speaks HTTP/1.1, as Kubernetes' probes do.
    codec = "HTTP2" if port.protocol.is_http2 and get.port is None else "HTTP1"
    succeeds: Resource = {"start": 200, "end": 400}
    return {
        "http_health_check": {
            "path": get.path,
            "host": str(port.application._replace(port=get.port or port.application.port)),
            "expected_statuses": [succeeds],
            "codec_client_type": codec,
        }
    }


_AT_ONCE: Final[Resource] = {
    # Envoy calls an unhealthy host all the same where more than half are unhealthy, and here that is the only one.
    "healthy_panic_threshold": {"value": 0},
    # By default it takes up to a second until requests follow a change of health.
    "update_merge_window": "0s",
}
_THRESHOLDS: Final[Resource] = {**THRESHOLDS, "max_retries": UNLIMITED}
_HTTP1: Final = typed("upstreams.http.v3.HttpProtocolOptions", explicit_http_config={"http_protocol_options": {}})
_HTTP2: Final = typed("upstreams.http.v3.HttpProtocolOptions", explicit_http_config={"http2_protocol_options": {}})

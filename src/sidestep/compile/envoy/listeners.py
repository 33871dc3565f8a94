"""Listeners: where local applications call, and how their calls go on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sidestep.compile.envoy.access_log import HTTP_LOG, TCP_LOG
from sidestep.compile.envoy.peer_metadata import METADATA, METADATA_ID
from sidestep.compile.envoy.resources import LISTENER, TYPE, cluster_name, extension

if TYPE_CHECKING:
    from sidestep.compile.envoy.peer_metadata import PeerMetadata
    from sidestep.compile.envoy.resources import Json, Resource
    from sidestep.spec import EgressPort, Machine

HTTP_STAT_PREFIX: Final = "egress_http"
TCP_STAT_PREFIX: Final = "egress_tcp"


def egress(machine: Machine, metadata: PeerMetadata) -> list[Resource]:
    """One listener for each egress port, by address."""
    headers: Json = [_header(METADATA, metadata.value), _header(METADATA_ID, metadata.node_id)]
    several = len(machine.mesh.spec.gateways) > 1
    ports = sorted(machine.egress, key=lambda port: (port.listen, port.service.host))
    return [_listener(port, _http(port, headers, several) if port.protocol.is_http else _tcp(port)) for port in ports]


def _listener(port: EgressPort, filter_: Resource) -> Resource:
    address, number = port.listen
    return {
        TYPE: LISTENER,
        "name": f"egress|{port.listen}",
        "stat_prefix": f"{address.replace('.', '_')}_{number}",
        "traffic_direction": "OUTBOUND",
        "address": {"socket_address": {"address": address, "port_value": number}},
        # With it, a second process could listen on the same port and take a part of the calls, unnoticed (facts c).
        "enable_reuse_port": False,
        "filter_chains": [{"filters": [filter_]}],
    }


def _tcp(port: EgressPort) -> Resource:
    return extension(
        "envoy.filters.network.tcp_proxy",
        "filters.network.tcp_proxy.v3.TcpProxy",
        stat_prefix=TCP_STAT_PREFIX,
        cluster=cluster_name(port),
        max_connect_attempts=3,
        access_log=TCP_LOG,
    )


def _http(port: EgressPort, headers: Json, several_gateways: bool) -> Resource:
    return extension(
        "envoy.filters.network.http_connection_manager",
        "filters.network.http_connection_manager.v3.HttpConnectionManager",
        stat_prefix=HTTP_STAT_PREFIX,
        route_config=_routes(port, headers, several_gateways),
        http_filters=_HTTP_FILTERS,
        access_log=HTTP_LOG,
        # As Istio's own sidecars have it: no time-outs that the application did not ask for, paths normalised.
        stream_idle_timeout="0s",
        normalize_path=True,
        path_with_escaped_slashes_action="KEEP_UNCHANGED",
        server_header_transformation="PASS_THROUGH",
        proxy_100_continue=True,
        http_protocol_options={"accept_http_10": True, "default_host_for_http_10": _authority(port)},
        upgrade_configs=[] if port.protocol.is_http2 else _WEBSOCKET,
    )


def _routes(port: EgressPort, headers: Json, several_gateways: bool) -> Resource:
    idempotent, other = _RETRIES[several_gateways]
    action: Resource = {
        "cluster": cluster_name(port),
        "host_rewrite_literal": _authority(port),
        "timeout": "0s",
        "max_stream_duration": _AS_LONG_AS_ASKED,
    }
    routes: list[Json] = [
        {"match": _IDEMPOTENT, "route": {**action, "retry_policy": idempotent}},
        {"match": {"prefix": "/"}, "route": {**action, "retry_policy": other}},
    ]
    return {
        "name": port.service.host,
        "virtual_hosts": [{"name": "service", "domains": ["*"], "routes": routes}],
        # Overwritten, so that no local application can pass for another (facts i).
        "request_headers_to_add": headers,
        "response_headers_to_remove": [METADATA, METADATA_ID],
        "validate_clusters": False,
    }


def _authority(port: EgressPort) -> str:
    """What a caller inside the mesh would put into ``Host``."""
    return port.service.host if port.number == 80 else f"{port.service.host}:{port.number}"


def _header(name: str, value: str) -> Resource:
    return {"header": {"key": name, "value": value}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}


def _retry(retry_on: str, several_gateways: bool) -> Resource:
    policy: Resource = {
        "retry_on": retry_on,
        "num_retries": 2,
        "retry_back_off": {"base_interval": "0.005s", "max_interval": "0.1s"},
    }
    if several_gateways:
        policy |= {
            "retry_host_predicate": [_PREVIOUS_HOSTS],
            "host_selection_retry_max_attempts": 3,
            "retry_priority": _PREVIOUS_PRIORITIES,
        }
    return policy


_HTTP_FILTERS: Final[list[Resource]] = [extension("envoy.filters.http.router", "filters.http.router.v3.Router")]
_WEBSOCKET: Final[list[Resource]] = [{"upgrade_type": "websocket"}]
# A gRPC call's own deadline is kept, whatever it is.
_AS_LONG_AS_ASKED: Final[Resource] = {"max_stream_duration": "0s", "grpc_timeout_header_max": "0s"}
_PREVIOUS_HOSTS: Final = extension(
    "envoy.retry_host_predicates.previous_hosts", "retry.host.previous_hosts.v3.PreviousHostsPredicate"
)
_PREVIOUS_PRIORITIES: Final = extension(
    "envoy.retry_priorities.previous_priorities",
    "retry.priority.previous_priorities.v3.PreviousPrioritiesConfig",
    update_frequency=1,
)
# RFC 9110 §9.2.2. Only these may be sent twice once a byte of them has left.
_IDEMPOTENT: Final[Resource] = {
    "prefix": "/",
    "headers": [{"name": ":method", "string_match": {"safe_regex": {"regex": "GET|HEAD|OPTIONS|TRACE|PUT|DELETE"}}}],
}
_NOTHING_SENT: Final = "connect-failure,refused-stream,reset-before-request"
_RETRIES: Final = {
    several: (_retry(f"{_NOTHING_SENT},reset", several), _retry(_NOTHING_SENT, several)) for several in (False, True)
}

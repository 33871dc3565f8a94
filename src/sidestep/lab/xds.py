"""The parts of an Envoy configuration that the gateway's and the sidecars' builders share. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

Json: TypeAlias = Mapping[str, "Json"] | Sequence["Json"] | str | int | float | bool | None
Config: TypeAlias = dict[str, Json]

HTTP_PROTOCOL_OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
MESH_ALPNS = ("istio", "istio-peer-exchange", "istio-http/1.0", "istio-http/1.1", "istio-h2")
"""What Istio's mTLS clients offer; whoever offers none of them is not one."""
UNLIMITED = 4294967295

BOOTSTRAP_FILE, ADMIN_SOCKET, ACCESS_LOG_FILE = "envoy.json", "admin.sock", "access.log"
"""An Envoy of the lab runs in a directory of its own, and every path in its configuration is relative to it."""

ACCESS_LOG: Mapping[str, str] = {
    "authority": "%REQ(:AUTHORITY)%",
    "bytes_received": "%BYTES_RECEIVED%",
    "bytes_sent": "%BYTES_SENT%",
    "connection_termination_details": "%CONNECTION_TERMINATION_DETAILS%",
    "downstream_local_address": "%DOWNSTREAM_LOCAL_ADDRESS%",
    "downstream_remote_address": "%DOWNSTREAM_REMOTE_ADDRESS%",
    "duration": "%DURATION%",
    "method": "%REQ(:METHOD)%",
    "path": "%REQ(X-ENVOY-ORIGINAL-PATH?:PATH)%",
    "protocol": "%PROTOCOL%",
    "request_id": "%REQ(X-REQUEST-ID)%",
    "requested_server_name": "%REQUESTED_SERVER_NAME%",
    "response_code": "%RESPONSE_CODE%",
    "response_code_details": "%RESPONSE_CODE_DETAILS%",
    "response_flags": "%RESPONSE_FLAGS%",
    "route_name": "%ROUTE_NAME%",
    "start_time": "%START_TIME%",
    "upstream_cluster": "%UPSTREAM_CLUSTER_RAW%",
    "upstream_host": "%UPSTREAM_HOST%",
    "upstream_local_address": "%UPSTREAM_LOCAL_ADDRESS%",
    "upstream_service_time": "%RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)%",
    "upstream_transport_failure_reason": "%UPSTREAM_TRANSPORT_FAILURE_REASON%",
    "user_agent": "%REQ(USER-AGENT)%",
    "x_forwarded_for": "%REQ(X-FORWARDED-FOR)%",
}
"""Istio's JSON access log, field by field."""

EXPLANATION: Mapping[str, str] = {
    "access_log_type": "%ACCESS_LOG_TYPE%",
    "downstream_peer_uri_san": "%DOWNSTREAM_PEER_URI_SAN%",
    "downstream_transport_failure_reason": "%DOWNSTREAM_TRANSPORT_FAILURE_REASON%",
    "filter_chain_name": "%FILTER_CHAIN_NAME%",
    "grpc_status": "%GRPC_STATUS%",
}
"""What the lab logs besides: which principal called, and why a handshake failed."""


def typed(type_name: str, **fields: Json) -> Config:
    """A message inside an ``Any``."""
    return {"@type": f"type.googleapis.com/{type_name}", **fields}


def extension(name: str, type_name: str, **fields: Json) -> Config:
    """An extension by name, with its configuration."""
    return {"name": name, "typed_config": typed(type_name, **fields)}


def address(port: int) -> Config:
    """A port on loopback."""
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


def file_access_log() -> Config:
    """Istio's access log as JSON, with the lab's explanation of who called and what failed."""
    return extension(
        "envoy.access_loggers.file",
        "envoy.extensions.access_loggers.file.v3.FileAccessLog",
        log_format={"json_format": {**ACCESS_LOG, **EXPLANATION}, "json_format_options": {}},
        path=ACCESS_LOG_FILE,
    )


def tls_inspector() -> Config:
    """Reads SNI and ALPN off the ClientHello."""
    return extension(
        "envoy.filters.listener.tls_inspector",
        "envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector",
        initial_read_buffer_size=512,
    )


def tcp_proxy(cluster: str) -> Config:
    """Forwards bytes to a cluster."""
    return extension(
        "envoy.filters.network.tcp_proxy",
        "envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
        access_log=[file_access_log()],
        cluster=cluster,
        stat_prefix=cluster,
    )


def service_cluster(name: str, host: str, endpoints: Sequence[Config]) -> Config:
    """A cluster for one port of one Service, with the limits and the metadata that istiod gives it."""
    service: Config = {"host": host, "name": host, "namespace": host.split(".")[1]}
    return {
        "name": name,
        "alt_stat_name": f"{name};",
        "type": "STATIC",
        "connect_timeout": "10s",
        "common_lb_config": {},
        "circuit_breakers": {
            "thresholds": [
                {
                    "max_connections": UNLIMITED,
                    "max_pending_requests": UNLIMITED,
                    "max_requests": UNLIMITED,
                    "max_retries": UNLIMITED,
                }
            ]
        },
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": endpoints}] if endpoints else []},
        "metadata": {"filter_metadata": {"istio": {"services": [service]}}},
    }


def endpoint(port: int) -> Config:
    """An endpoint on loopback."""
    return {"endpoint": {"address": address(port)}}


def http_protocol_options(**choice: Json) -> Config:
    """The cluster's field that says which HTTP version the application hears."""
    return {"typed_extension_protocol_options": {HTTP_PROTOCOL_OPTIONS: typed(HTTP_PROTOCOL_OPTIONS, **choice)}}


def bootstrap(node: str, *, listeners: Sequence[Config], clusters: Sequence[Config]) -> Config:
    """A whole static configuration, with the admin interface on a unix socket that only its owner may open."""
    return {
        "node": {"id": node, "cluster": "sidestep-lab"},
        "admin": {"address": {"pipe": {"path": ADMIN_SOCKET, "mode": 0o600}}},
        "static_resources": {"listeners": listeners, "clusters": clusters},
    }

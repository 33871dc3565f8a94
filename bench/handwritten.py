"""The peer: what a person who knows Envoy would write by hand for the same services, one static file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias

import measure

Config: TypeAlias = dict[str, Any]

_EXTENSIONS: Final = "type.googleapis.com/envoy.extensions"
_HTTP_OPTIONS: Final = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
_LOG_FIELDS: Final = {
    "start_time": "%START_TIME%",
    "duration": "%DURATION%",
    "bytes_received": "%BYTES_RECEIVED%",
    "bytes_sent": "%BYTES_SENT%",
    "response_flags": "%RESPONSE_FLAGS%",
    "upstream_cluster": "%UPSTREAM_CLUSTER_RAW%",
    "upstream_host": "%UPSTREAM_HOST%",
    "upstream_transport_failure_reason": "%UPSTREAM_TRANSPORT_FAILURE_REASON%",
    "downstream_remote_address": "%DOWNSTREAM_REMOTE_ADDRESS%",
    "downstream_local_address": "%DOWNSTREAM_LOCAL_ADDRESS%",
    "connection_termination_details": "%CONNECTION_TERMINATION_DETAILS%",
    "method": "%REQ(:METHOD)%",
    "path": "%REQ(X-ENVOY-ORIGINAL-PATH?:PATH)%",
    "authority": "%REQ(:AUTHORITY)%",
    "protocol": "%PROTOCOL%",
    "response_code": "%RESPONSE_CODE%",
    "response_code_details": "%RESPONSE_CODE_DETAILS%",
    "grpc_status": "%GRPC_STATUS%",
    "request_id": "%REQ(X-REQUEST-ID)%",
    "user_agent": "%REQ(USER-AGENT)%",
}
_METADATA: Final = [
    {"header": {"key": key, "value": value}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}
    for key, value in {
        "x-envoy-peer-metadata": "A" * 200,
        "x-envoy-peer-metadata-id": "sidecar~10.0.0.1~vm1.vms~vms",
    }.items()
]


@dataclass(frozen=True)
class Style:
    """How it is written. Every one has a listener and a cluster for each service."""

    shared_secret: bool = True
    """One SDS secret for all clusters; else each names the certificate's files."""
    few_stats: bool = True
    """An inclusion list for statistics; else everything that Envoy counts."""
    access_log: bool = True
    """JSON to a file, with the fields that a bundle logs."""
    by_name: bool = False
    """A proxy that knows every service by its names, too, and statistics of its own for each listener."""
    streams: int | None = None
    """Requests at once on an HTTP/2 connection, so that several connections reach several pods; else there is one."""


@dataclass(frozen=True)
class Call:
    """One service that is called, and the local address that stands for it."""

    host: str
    service_account: str
    listen: tuple[str, int]
    http2: bool = False

    @property
    def cluster(self) -> str:
        """The cluster's name."""
        return f"outbound|{measure.SERVICE_PORT}||{self.host}"


@dataclass(frozen=True)
class Served:
    """One port of the machine that a workload of the mesh may call, and the application behind it."""

    listen: int
    application: int
    caller: str
    """Its SPIFFE ID."""
    http: bool = True
    http2: bool = False

    @property
    def cluster(self) -> str:
        """The cluster's name."""
        return f"inbound|{self.listen}||"


def calls(services: int) -> list[Call]:
    """The services of `measure.documents`."""
    return [
        Call(measure.host(index), f"service-{index}", (measure.address(index), measure.SERVICE_PORT))
        for index in range(services)
    ]


def write(directory: Path, gateways: Sequence[int], called: Sequence[Call], style: Style) -> None:
    """Writes ``envoy.json`` and the secrets. The certificate's files are expected in ``certs/``."""
    listeners = [_listener(call, style) for call in called] + ([_proxy(called)] if style.by_name else [])
    _write(directory, _bootstrap(listeners, [_cluster(call, gateways, style) for call in called], style))


def write_inbound(directory: Path, served: Sequence[Served]) -> None:
    """The same for a machine that the mesh calls."""
    listeners = [_inbound_listener(each) for each in served]
    _write(directory, _bootstrap(listeners, [_application(each) for each in served], Style()))


def _write(directory: Path, bootstrap: Config) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "envoy.json").write_text(json.dumps(bootstrap))
    certificate = {"certificate_chain": _file("cert-chain.pem"), "private_key": _file("key.pem")}
    _write_secret(directory / "identity.json", {"name": "identity", "tls_certificate": certificate})
    context = {"trusted_ca": _file("root-cert.pem")}
    _write_secret(directory / "roots.json", {"name": "roots", "validation_context": context})


def _write_secret(path: Path, secret: Config) -> None:
    typed = {"@type": f"{_EXTENSIONS}.transport_sockets.tls.v3.Secret", **secret}
    path.write_text(json.dumps({"resources": [typed]}))


def _bootstrap(listeners: Sequence[Config], clusters: Sequence[Config], style: Style) -> Config:
    prefixes = ["cluster_manager.", "listener_manager.", "server."]
    suffixes = ["upstream_rq_total", "upstream_rq_5xx", "upstream_cx_active", "upstream_cx_connect_fail"]
    patterns = [{"prefix": prefix} for prefix in prefixes] + [{"suffix": suffix} for suffix in suffixes]
    few: Config = {"stats_config": {"stats_matcher": {"inclusion_list": {"patterns": patterns}}}}
    return {
        "node": {"id": "vm1", "cluster": "vm"},
        "admin": {"address": {"pipe": {"path": "./admin.sock", "mode": 0o600}}},
        "static_resources": {"listeners": listeners, "clusters": clusters},
        **(few if style.few_stats else {}),
    }


def _listener(call: Call, style: Style) -> Config:
    address, port = call.listen
    log = [_access_log()] if style.access_log else []
    prefix = f"egress_{call.host}" if style.by_name else "egress"
    filters = [_manager(prefix, route_config=_routes(call), access_log=log)]
    return {
        "name": f"{address}:{port}",
        "address": _address(address, port),
        "enable_reuse_port": False,
        "filter_chains": [{"filters": filters}],
    }


def _proxy(called: Sequence[Call]) -> Config:
    unknown = {"match": {"prefix": "/"}, "direct_response": {"status": 404}}
    hosts = [*map(_by_name, called), {"name": "unknown", "domains": ["*"], "routes": [unknown]}]
    manager = _manager(
        "proxy",
        route_config={"virtual_hosts": hosts, "request_headers_to_add": _METADATA},
        upgrade_configs=[{"upgrade_type": "CONNECT"}, {"upgrade_type": "websocket"}],
        http2_protocol_options={"allow_connect": True},
    )
    return {
        "name": "proxy",
        "address": _address("127.63.0.1", 3128),
        "enable_reuse_port": False,
        "filter_chains": [{"filters": [manager]}],
    }


def _by_name(call: Call) -> Config:
    short, port = ".".join(call.host.split(".")[:2]), measure.SERVICE_PORT
    tunnel = {"cluster": call.cluster, "upgrade_configs": [{"upgrade_type": "CONNECT", "connect_config": {}}]}
    return {
        "name": call.host,
        "domains": [f"{call.host}:{port}", f"{short}.svc:{port}", f"{short}:{port}", call.host, short],
        "routes": [
            {"match": {"connect_matcher": {}}, "route": tunnel},
            {"match": {"prefix": "/"}, "route": {"cluster": call.cluster}},
        ],
    }


def _manager(prefix: str, **config: Any) -> Config:  # noqa: ANN401 (Envoy's JSON)
    return _extension(
        "envoy.filters.network.http_connection_manager",
        "filters.network.http_connection_manager.v3.HttpConnectionManager",
        stat_prefix=prefix,
        http_filters=[_extension("envoy.filters.http.router", "filters.http.router.v3.Router")],
        **config,
    )


def _routes(call: Call) -> Config:
    route = {
        "cluster": call.cluster,
        "host_rewrite_literal": f"{call.host}:{measure.SERVICE_PORT}",
        "timeout": "0s",
        "retry_policy": {"retry_on": "connect-failure,refused-stream,reset", "num_retries": 2},
    }
    return {
        "virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [{"match": {"prefix": "/"}, "route": route}]}],
        "request_headers_to_add": _METADATA,
    }


def _access_log(**more: str) -> Config:
    config = {"path": "access.log", "log_format": {"json_format": {**_LOG_FIELDS, **more}}}
    return _extension("envoy.access_loggers.file", "access_loggers.file.v3.FileAccessLog", **config)


def _cluster(call: Call, gateways: Sequence[int], style: Style) -> Config:
    endpoints = [
        {"priority": index, "lb_endpoints": [{"endpoint": {"address": _address("127.0.0.1", port)}}]}
        for index, port in enumerate(gateways)
    ]
    version = "http2_protocol_options" if call.http2 else "http_protocol_options"
    streams = {"max_concurrent_streams": style.streams} if call.http2 and style.streams else {}
    options = {"@type": f"type.googleapis.com/{_HTTP_OPTIONS}", "explicit_http_config": {version: streams}}
    return {
        "name": call.cluster,
        "type": "STATIC",
        "connect_timeout": "1s",
        "circuit_breakers": {"thresholds": [{"max_retries": 1024}]},
        "load_assignment": {"cluster_name": call.cluster, "endpoints": endpoints},
        "typed_extension_protocol_options": {_HTTP_OPTIONS: options},
        "transport_socket": _mutual_tls(call, style),
    }


def _mutual_tls(call: Call, style: Style) -> Config:
    namespace = call.host.split(".")[1]
    name = f"spiffe://cluster.local/ns/{namespace}/sa/{call.service_account}"
    names = {"match_typed_subject_alt_names": [{"san_type": "URI", "matcher": {"exact": name}}]}
    common: Config = {
        "alpn_protocols": ["istio-h2", "istio", "h2"] if call.http2 else ["istio-http/1.1", "istio", "http/1.1"],
        "tls_params": {"tls_maximum_protocol_version": "TLSv1_3"},
    }
    if style.shared_secret:
        common["tls_certificate_sds_secret_configs"] = [_sds("identity")]
        roots = {"default_validation_context": names, "validation_context_sds_secret_config": _sds("roots")}
        common["combined_validation_context"] = roots
    else:
        pair = {"certificate_chain": _file("cert-chain.pem"), "private_key": _file("key.pem")}
        common["tls_certificates"] = [pair]
        common["validation_context"] = {"trusted_ca": _file("root-cert.pem"), **names}
    return _extension(
        "envoy.transport_sockets.tls",
        "transport_sockets.tls.v3.UpstreamTlsContext",
        sni=f"outbound_.{measure.SERVICE_PORT}_._.{call.host}",
        common_tls_context=common,
    )


def _inbound_listener(served: Served) -> Config:
    names = {"match_typed_subject_alt_names": [{"san_type": "URI", "matcher": {"exact": served.caller}}]}
    common = {
        "alpn_protocols": ["h2", "http/1.1"] if served.http else [],
        "tls_certificate_sds_secret_configs": [_sds("identity")],
        "combined_validation_context": {
            "default_validation_context": names,
            "validation_context_sds_secret_config": _sds("roots"),
        },
    }
    context = _extension(
        "envoy.transport_sockets.tls",
        "transport_sockets.tls.v3.DownstreamTlsContext",
        require_client_certificate=True,
        common_tls_context=common,
    )
    filters = [_to_application(served) if served.http else _bytes_to_application(served)]
    return {
        "name": served.cluster,
        "address": _address("127.0.0.1", served.listen),
        "enable_reuse_port": False,
        "filter_chains": [{"filters": filters, "transport_socket": context}],
    }


def _to_application(served: Served) -> Config:
    route = {"match": {"prefix": "/"}, "route": {"cluster": served.cluster, "timeout": "0s"}}
    return _manager(
        "ingress",
        route_config={
            "virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route]}],
            "response_headers_to_add": _METADATA,
        },
        forward_client_cert_details="SANITIZE_SET",
        set_current_client_cert_details={"uri": True},
        access_log=[_access_log(downstream_peer_uri_san="%DOWNSTREAM_PEER_URI_SAN%")],
    )


def _bytes_to_application(served: Served) -> Config:
    return _extension(
        "envoy.filters.network.tcp_proxy",
        "filters.network.tcp_proxy.v3.TcpProxy",
        stat_prefix="ingress",
        cluster=served.cluster,
        access_log=[_access_log(downstream_peer_uri_san="%DOWNSTREAM_PEER_URI_SAN%")],
    )


def _application(served: Served) -> Config:
    version = "http2_protocol_options" if served.http2 else "http_protocol_options"
    options = {"@type": f"type.googleapis.com/{_HTTP_OPTIONS}", "explicit_http_config": {version: {}}}
    endpoint = {"endpoint": {"address": _address("127.0.0.1", served.application)}}
    return {
        "name": served.cluster,
        "type": "STATIC",
        "load_assignment": {"cluster_name": served.cluster, "endpoints": [{"lb_endpoints": [endpoint]}]},
        "typed_extension_protocol_options": {_HTTP_OPTIONS: options},
    }


def _sds(name: str) -> Config:
    return {
        "name": name,
        "sds_config": {"path_config_source": {"path": f"./{name}.json"}, "resource_api_version": "V3"},
    }


def _file(name: str) -> Config:
    return {"filename": f"certs/{name}"}


def _address(address: str, port: int) -> Config:
    return {"socket_address": {"address": address, "port_value": port}}


def _extension(name: str, message: str, **config: Any) -> Config:  # noqa: ANN401 (Envoy's JSON)
    return {"name": name, "typed_config": {"@type": f"{_EXTENSIONS}.{message}", **config}}

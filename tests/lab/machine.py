"""A machine for the tests of the mesh side: a static Envoy, written by hand and by no code of ours."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sidestep.lab.envoys import LabEnvoy

if TYPE_CHECKING:
    from pathlib import Path

    from sidestep.lab.envoys import Runtime
    from sidestep.pki.identity import Identity

HTTP1_ALPNS = ("istio-http/1.1", "istio", "http/1.1")
HTTP2_ALPNS = ("istio-h2", "istio", "h2")
TCP_ALPNS = ("istio",)
_TLS = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext"
_OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
_HCM = "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
_ROUTER = "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"
_TCP_PROXY = "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy"


@dataclass(frozen=True)
class Egress:
    listen: int
    gateway: int
    sni: str
    server: str
    """The SPIFFE ID that the server must present."""
    alpns: tuple[str, ...] = HTTP1_ALPNS


def machine(directory: Path, egresses: list[Egress], identity: Identity, runtime: Runtime, **tls: bool) -> LabEnvoy:
    bootstrap = {
        "admin": {"address": {"pipe": {"path": "admin.sock", "mode": 384}}},
        "static_resources": {
            "listeners": [_listener(egress) for egress in egresses],
            "clusters": [_cluster(egress, **tls) for egress in egresses],
        },
    }
    return LabEnvoy(directory, {"envoy.json": json.dumps(bootstrap).encode(), **identity.files()}, runtime)


def _address(port: int) -> dict[str, Any]:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


def _listener(egress: Egress) -> dict[str, Any]:
    name = f"to-{egress.listen}"
    route = {"match": {"prefix": "/"}, "route": {"cluster": name, "timeout": "0s"}}
    http = {
        "@type": _HCM,
        "stat_prefix": name,
        "upgrade_configs": [{"upgrade_type": "websocket"}],
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route]}]},
        "http_filters": [{"name": "envoy.filters.http.router", "typed_config": {"@type": _ROUTER}}],
    }
    tcp = {"@type": _TCP_PROXY, "stat_prefix": name, "cluster": name}
    config = tcp if egress.alpns == TCP_ALPNS else http
    filters = [{"name": "filter", "typed_config": config}]
    return {"name": name, "address": _address(egress.listen), "filter_chains": [{"filters": filters}]}


def _cluster(egress: Egress, *, certificate: bool = True) -> dict[str, Any]:
    name = f"to-{egress.listen}"
    own = {"certificate_chain": {"filename": "cert-chain.pem"}, "private_key": {"filename": "key.pem"}}
    common = {
        "alpn_protocols": egress.alpns,
        "tls_params": {"tls_maximum_protocol_version": "TLSv1_3"},
        "tls_certificates": [own] if certificate else [],
        "validation_context": {
            "trusted_ca": {"filename": "root-cert.pem"},
            "match_typed_subject_alt_names": [{"san_type": "URI", "matcher": {"exact": egress.server}}],
        },
    }
    tls = {"@type": _TLS, "sni": egress.sni, "common_tls_context": common}
    http2 = {"@type": f"type.googleapis.com/{_OPTIONS}", "explicit_http_config": {"http2_protocol_options": {}}}
    endpoint = {"endpoint": {"address": _address(egress.gateway)}}
    return {
        "name": name,
        "connect_timeout": "5s",
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [endpoint]}]},
        "transport_socket": {"name": "envoy.transport_sockets.tls", "typed_config": tls},
        **({"typed_extension_protocol_options": {_OPTIONS: http2}} if egress.alpns == HTTP2_ALPNS else {}),
    }

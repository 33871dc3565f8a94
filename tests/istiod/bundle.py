"""A stand-in for `sidestep render`: the same layout, written by hand."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

T = "type.googleapis.com/envoy."
HTTP_OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
ALPN = {"HTTP": ["istio-http/1.1", "istio", "http/1.1"], "GRPC": ["istio-h2", "istio", "h2"], "TCP": ["istio"]}


def render(documents: list[dict[str, Any]], folder: Path) -> Path:
    mesh, workload = (document["spec"] for document in documents)
    services = {service["host"].split(".svc")[0]: service for service in mesh["services"]}
    listeners, clusters = [], []
    for egress in workload["egress"]:
        service = services[egress["host"]]
        declared = {port["number"]: port.get("protocol") for port in service["ports"]}[egress["port"]]
        protocol = egress.get("protocol") or declared
        protocol = "TCP" if protocol == "TLS" else protocol
        name = f"outbound|{egress['port']}||{service['host']}"
        clusters.append(cluster(name, service, egress["port"], protocol, mesh))
        listeners.append(listener(name, egress["listen"], protocol))
    folder.mkdir()
    (folder / "sds").mkdir()
    (folder / "certs").mkdir()
    files = {
        "envoy.json": {
            "node": {"id": "vm", "cluster": "vm"},
            "admin": {"address": {"pipe": {"path": "admin.sock"}}},
            "dynamic_resources": {"lds_config": path("lds.json", "."), "cds_config": path("cds.json", ".")},
        },
        "lds.json": {"resources": listeners},
        "cds.json": {"resources": clusters},
        "sds/identity.json": {"resources": [secret("identity", tls_certificate={
            "certificate_chain": {"filename": "certs/cert-chain.pem"},
            "private_key": {"filename": "certs/key.pem"},
            "watched_directory": {"path": "certs"}})]},
        "sds/roots.json": {"resources": [secret("roots", validation_context={
            "trusted_ca": {"filename": "certs/root-cert.pem"},
            "watched_directory": {"path": "certs"}})]},
    }
    for file, content in files.items():
        (folder / file).write_text(json.dumps(content, indent=1))
    return folder


def secret(name: str, **content: Any) -> dict[str, Any]:
    return {"@type": T + "extensions.transport_sockets.tls.v3.Secret", "name": name, **content}


def path(file: str, watched: str) -> dict[str, Any]:
    return {"resource_api_version": "V3", "path_config_source": {"path": file, "watched_directory": {"path": watched}}}


def cluster(name: str, service: Any, port: int, protocol: str, mesh: Any) -> dict[str, Any]:
    namespace = service["host"].split(".")[1]
    sans = [f"spiffe://{mesh['trustDomain']}/ns/{namespace}/sa/{sa}" for sa in service["serviceAccounts"]]
    explicit = {"HTTP": "http_protocol_options", "GRPC": "http2_protocol_options"}.get(protocol)
    result = {
        "@type": T + "config.cluster.v3.Cluster",
        "name": name,
        "type": "STRICT_DNS",
        "connect_timeout": "2s",
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [
            {"endpoint": {"address": {"socket_address": {"address": g["address"], "port_value": g["port"]}}}}
            for g in mesh["gateways"]]}]},
        "transport_socket": {"name": "envoy.transport_sockets.tls", "typed_config": {
            "@type": T + "extensions.transport_sockets.tls.v3.UpstreamTlsContext",
            "sni": f"outbound_.{port}_._.{service['host']}",
            "common_tls_context": {
                "alpn_protocols": ALPN[protocol],
                "tls_params": {"tls_minimum_protocol_version": "TLSv1_2", "tls_maximum_protocol_version": "TLSv1_3"},
                "tls_certificate_sds_secret_configs": [{"name": "identity", "sds_config": path("sds/identity.json", "sds")}],
                "combined_validation_context": {
                    "default_validation_context": {"match_typed_subject_alt_names": [
                        {"san_type": "URI", "matcher": {"exact": san}} for san in sans]},
                    "validation_context_sds_secret_config": {"name": "roots", "sds_config": path("sds/roots.json", "sds")},
                }}}},
    }
    if explicit:
        options: dict[str, Any] = {"@type": "type.googleapis.com/" + HTTP_OPTIONS, "explicit_http_config": {explicit: {}}}
        if protocol == "GRPC":
            options["explicit_http_config"][explicit] = {"max_concurrent_streams": 16}
        result["typed_extension_protocol_options"] = {HTTP_OPTIONS: options}
    return result


def listener(name: str, listen: str, protocol: str) -> dict[str, Any]:
    host, port = listen.split(":")
    log = [{"name": "log", "typed_config": {
        "@type": T + "extensions.access_loggers.file.v3.FileAccessLog", "path": "/dev/stdout",
        "log_format": {"json_format": {
            "response_code": "%RESPONSE_CODE%", "response_flags": "%RESPONSE_FLAGS%",
            "response_code_details": "%RESPONSE_CODE_DETAILS%", "upstream_cluster": "%UPSTREAM_CLUSTER%",
            "upstream_transport_failure_reason": "%UPSTREAM_TRANSPORT_FAILURE_REASON%"}}}}]
    if protocol == "TCP":
        network = {"name": "tcp", "typed_config": {
            "@type": T + "extensions.filters.network.tcp_proxy.v3.TcpProxy",
            "stat_prefix": name, "cluster": name, "access_log": log}}
    else:
        network = {"name": "http", "typed_config": {
            "@type": T + "extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
            "stat_prefix": name, "access_log": log, "upgrade_configs": [{"upgrade_type": "websocket"}],
            "route_config": {
                "request_headers_to_add": [
                    {"header": {"key": "x-envoy-peer-metadata-id", "value": "sidecar~10.9.8.7~vm.vms~vms.svc.cluster.local"},
                     "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"},
                    {"header": {"key": "x-envoy-peer-metadata", "value": "CgA="},
                     "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}],
                "virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [
                    {"match": {"prefix": "/"}, "route": {"cluster": name}}]}]},
            "http_filters": [{"name": "router", "typed_config": {
                "@type": T + "extensions.filters.http.router.v3.Router"}}]}}
    return {
        "@type": T + "config.listener.v3.Listener", "name": name, "enable_reuse_port": False,
        "address": {"socket_address": {"address": host, "port_value": int(port)}},
        "filter_chains": [{"filters": [network]}]}

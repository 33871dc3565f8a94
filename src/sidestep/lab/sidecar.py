"""The inbound side of one pod's sidecar, as istiod configures it. Pure.

In a pod, iptables redirects every port to one listener (``virtualInbound`` on 15006), whose filter chains then match on
the original destination port. The lab redirects nothing, so each port has a listener of its own; what else the chains
match on, and everything behind the match, is istiod's.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from sidestep.lab import xds
from sidestep.lab.authorization import http_rbac, network_rbac
from sidestep.lab.topology import MTLSMode, Protocol
from sidestep.pki.identity import CHAIN_FILE, KEY_FILE, ROOTS_FILE

if TYPE_CHECKING:
    from sidestep.lab.topology import Service, ServicePort
    from sidestep.lab.xds import Config, Json

_HTTP_ALPNS = ("istio-http/1.0", "istio-http/1.1", "istio-h2")
_TCP_ALPNS = ("istio-peer-exchange", "istio")
_PLAINTEXT_HTTP = ("http/1.1", "h2c")
_CIPHER_SUITES = (
    "ECDHE-ECDSA-AES256-GCM-SHA384",
    "ECDHE-RSA-AES256-GCM-SHA384",
    "ECDHE-ECDSA-AES128-GCM-SHA256",
    "ECDHE-RSA-AES128-GCM-SHA256",
    "AES256-GCM-SHA384",
    "AES128-GCM-SHA256",
)


class Transport(Enum):
    """What arrives at a filter chain, and what the chain does with TLS."""

    MTLS = "tls"
    PASSTHROUGH = "tls, not terminated"
    PLAINTEXT = "raw_buffer"


@dataclass(frozen=True)
class Chain:
    """One row of istiod's table of inbound filter chains."""

    transport: Transport
    http: bool
    alpns: tuple[str, ...] = ()


_HTTP_STRICT = (Chain(Transport.MTLS, http=True),)
_TCP_STRICT = (Chain(Transport.MTLS, http=False),)
_UNDECLARED_STRICT = (Chain(Transport.MTLS, http=True, alpns=_HTTP_ALPNS), Chain(Transport.MTLS, http=False))
_HTTP_PERMISSIVE = (
    Chain(Transport.MTLS, http=True, alpns=xds.MESH_ALPNS),
    Chain(Transport.PLAINTEXT, http=True),
)
_TCP_PERMISSIVE = (
    Chain(Transport.MTLS, http=False, alpns=xds.MESH_ALPNS),
    Chain(Transport.PASSTHROUGH, http=False),
    Chain(Transport.PLAINTEXT, http=False),
)
_UNDECLARED_PERMISSIVE = (
    Chain(Transport.MTLS, http=True, alpns=_HTTP_ALPNS),
    Chain(Transport.PLAINTEXT, http=True, alpns=_PLAINTEXT_HTTP),
    Chain(Transport.MTLS, http=False, alpns=_TCP_ALPNS),
    Chain(Transport.PLAINTEXT, http=False),
    Chain(Transport.PASSTHROUGH, http=False),
)


@dataclass(frozen=True)
class Inbound:
    """One port of the pod: where its sidecar listens and where its application does, both on loopback."""

    port: ServicePort
    listen: int
    application: int

    @property
    def cluster(self) -> str:
        """The name that istiod gives the application's cluster."""
        return f"inbound|{self.port.number}||"


@dataclass(frozen=True)
class Sidecar:
    """One pod's sidecar."""

    service: Service
    inbound: tuple[Inbound, ...]
    trust_domains: tuple[str, ...]


def sidecar_bootstrap(sidecar: Sidecar) -> Config:
    """The whole configuration of one sidecar Envoy."""
    return xds.bootstrap(
        f"sidecar~127.0.0.1~{sidecar.service.name}.{sidecar.service.namespace}",
        listeners=[inbound_listener(sidecar, inbound) for inbound in sidecar.inbound],
        clusters=[inbound_cluster(sidecar, inbound) for inbound in sidecar.inbound],
    )


def secrets() -> dict[str, Config]:
    """The SDS files of a sidecar: its certificate (``default``) and the roots (``ROOTCA``), by Istio's names."""
    certificate: Config = {
        "certificate_chain": {"filename": f"./{CHAIN_FILE}"},
        "private_key": {"filename": f"./{KEY_FILE}"},
    }
    roots: Config = {"trusted_ca": {"filename": f"./{ROOTS_FILE}"}}
    return {
        "default.json": _secret("default", tls_certificate=certificate),
        "ROOTCA.json": _secret("ROOTCA", validation_context=roots),
    }


def inbound_listener(sidecar: Sidecar, inbound: Inbound) -> Config:
    """The listener that stands for one port of ``virtualInbound``."""
    chains = filter_chains(sidecar.service.mtls, inbound.port.protocol)
    return {
        "name": f"127.0.0.1_{inbound.listen}",
        "address": xds.address(inbound.listen),
        "enable_reuse_port": False,
        "traffic_direction": "INBOUND",
        "max_connections_to_accept_per_socket_event": 1,
        "continue_on_listener_filters_timeout": True,
        "listener_filters_timeout": "0s",
        "access_log": [xds.file_access_log()],
        "listener_filters": _listener_filters(chains),
        "filter_chains": [_filter_chain(sidecar, inbound, chain) for chain in chains],
    }


def filter_chains(mtls: MTLSMode, protocol: Protocol) -> tuple[Chain, ...]:
    """Which chains istiod builds for a port, in its order."""
    strict = mtls is MTLSMode.STRICT
    if protocol is Protocol.UNDECLARED:
        return _UNDECLARED_STRICT if strict else _UNDECLARED_PERMISSIVE
    if protocol.is_tcp:
        return _TCP_STRICT if strict else _TCP_PERMISSIVE
    return _HTTP_STRICT if strict else _HTTP_PERMISSIVE


def inbound_cluster(sidecar: Sidecar, inbound: Inbound) -> Config:
    """The application's cluster. Its options decide which HTTP version the application hears."""
    host = sidecar.service.host
    cluster = xds.service_cluster(inbound.cluster, host, [xds.endpoint(inbound.application)])
    return {**cluster, **_application_protocol(inbound.port.protocol)}


def _application_protocol(protocol: Protocol) -> Config:
    if protocol is Protocol.UNDECLARED:
        as_it_arrived: Config = {"http2_protocol_options": {}, "http_protocol_options": {}}
        return xds.http_protocol_options(use_downstream_protocol_config=as_it_arrived)
    if protocol.is_http2:
        return xds.http_protocol_options(explicit_http_config={"http2_protocol_options": {}})
    return {}


def _listener_filters(chains: tuple[Chain, ...]) -> list[Config]:
    http_inspector = xds.extension(
        "envoy.filters.listener.http_inspector",
        "envoy.extensions.filters.listener.http_inspector.v3.HttpInspector",
    )
    sniffs = any(chain.alpns == _PLAINTEXT_HTTP for chain in chains)
    return [xds.tls_inspector(), *([http_inspector] if sniffs else [])]


def _filter_chain(sidecar: Sidecar, inbound: Inbound, chain: Chain) -> Config:
    transport = "raw_buffer" if chain.transport is Transport.PLAINTEXT else "tls"
    alpns: Config = {"application_protocols": chain.alpns} if chain.alpns else {}
    policy = sidecar.service.policy
    tcp = [*network_rbac(policy), xds.tcp_proxy(inbound.cluster)]
    return {
        "name": f"0.0.0.0_{inbound.port.number}",
        "filter_chain_match": {"transport_protocol": transport, **alpns},
        "filters": [_http_connection_manager(sidecar.service, inbound)] if chain.http else tcp,
        **(_mtls(sidecar) if chain.transport is Transport.MTLS else {}),
    }


def _mtls(sidecar: Sidecar) -> Config:
    context = xds.extension(
        "envoy.transport_sockets.tls",
        "envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
        require_client_certificate=True,
        common_tls_context=_common_tls_context(sidecar),
    )
    return {"transport_socket": context}


def _common_tls_context(sidecar: Sidecar) -> Config:
    names: list[Config] = [{"prefix": f"spiffe://{domain}/"} for domain in sidecar.trust_domains]
    return {
        "alpn_protocols": ["h2", "http/1.1"],
        "tls_params": {
            "tls_minimum_protocol_version": "TLSv1_2",
            "tls_maximum_protocol_version": "TLSv1_3",
            "cipher_suites": _CIPHER_SUITES,
        },
        "tls_certificate_sds_secret_configs": [sds("default")],
        "combined_validation_context": {
            "default_validation_context": {"match_subject_alt_names": names},
            "validation_context_sds_secret_config": sds("ROOTCA"),
        },
    }


def sds(name: str) -> Config:
    """Where a secret is read from: a file by its name."""
    source: Config = {"path_config_source": {"path": f"./{name}.json"}, "resource_api_version": "V3"}
    return {"name": name, "sds_config": source}


def _secret(name: str, **content: Json) -> Config:
    type_name = "envoy.extensions.transport_sockets.tls.v3.Secret"
    return {"resources": [xds.typed(type_name, name=name, **content)]}


def _http_connection_manager(service: Service, inbound: Inbound) -> Config:
    request_id = xds.typed(
        "envoy.extensions.request_id.uuid.v3.UuidRequestIdConfig", use_request_id_for_trace_sampling=True
    )
    http2: Config = {"http2_protocol_options": {}} if inbound.port.protocol.is_http2 else {}
    return xds.extension(
        "envoy.filters.network.http_connection_manager",
        "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        access_log=[xds.file_access_log()],
        forward_client_cert_details="APPEND_FORWARD",
        set_current_client_cert_details={"dns": True, "subject": True, "uri": True},
        http_filters=_http_filters(service),
        normalize_path=True,
        path_with_escaped_slashes_action="KEEP_UNCHANGED",
        proxy_100_continue=True,
        request_id_extension={"typed_config": request_id},
        route_config=_route_config(service, inbound),
        server_name="istio-envoy",
        stat_prefix=f"inbound_0.0.0.0_{inbound.port.number};",
        stream_idle_timeout="0s",
        upgrade_configs=[{"upgrade_type": "websocket"}],
        use_remote_address=False,
        **http2,
    )


def _http_filters(service: Service) -> list[Config]:
    grpc_stats = xds.extension(
        "envoy.filters.http.grpc_stats",
        "envoy.extensions.filters.http.grpc_stats.v3.FilterConfig",
        emit_filter_state=True,
        stats_for_all_methods=False,
    )
    return [
        *http_rbac(service.policy),
        grpc_stats,
        xds.extension("envoy.filters.http.fault", "envoy.extensions.filters.http.fault.v3.HTTPFault"),
        xds.extension("envoy.filters.http.cors", "envoy.extensions.filters.http.cors.v3.Cors"),
        xds.extension("envoy.filters.http.router", "envoy.extensions.filters.http.router.v3.Router"),
    ]


def _route_config(service: Service, inbound: Inbound) -> Config:
    number = inbound.port.number
    route: Config = {
        "name": "default",
        "match": {"prefix": "/"},
        "decorator": {"operation": f"{service.host}:{number}/*"},
        "route": _route_action(inbound),
    }
    virtual_host: Config = {"name": f"inbound|http|{number}", "domains": ["*"], "routes": [route]}
    return {"name": inbound.cluster, "validate_clusters": False, "virtual_hosts": [virtual_host]}


def _route_action(inbound: Inbound) -> Config:
    grpc = inbound.port.protocol is Protocol.GRPC
    retry: Config = {"retry_policy": {"num_retries": 2, "retry_on": "reset-before-request"}}
    return {
        "cluster": inbound.cluster,
        "timeout": "0s",
        "max_stream_duration": {"grpc_timeout_header_max": "0s", "max_stream_duration": "0s"},
        **({} if grpc else retry),
    }

"""Clusters: how the machine reaches one port of one service, through the mesh's east-west gateways.

The path is SNI passthrough: TLS ends at the destination's sidecar, the gateway picks the destination by SNI and lets
nothing pass without one of Istio's ALPN names (facts/istio.md §1.1).
"""

from __future__ import annotations

from ipaddress import ip_address
from typing import TYPE_CHECKING, Final

from sidestep.compile.envoy import secrets
from sidestep.compile.envoy.resources import CLUSTER, TYPE, cluster_name, extension, typed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sidestep.compile.envoy.resources import Json, Resource
    from sidestep.spec import EgressPort, Gateway, Machine, Service

HTTP_OPTIONS: Final = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"

# One list a protocol, because the gateway and the sidecar both choose by it (facts/envoy.md a, facts/istio.md §2.3).
# Never istio-peer-exchange: the sidecar would answer with bytes that a stock Envoy hands to the application.
_ALPN_HTTP1: Final = ("istio-http/1.1", "istio", "http/1.1")
_ALPN_HTTP2: Final = ("istio-h2", "istio", "h2")
_ALPN_TCP: Final = ("istio",)

# The gateway balances connections, not requests: one that lives for ever stays on one pod (facts/istio.md §13.8).
_MAX_CONNECTION_AGE: Final = "60s"
_STREAMS_PER_CONNECTION: Final = 16

_UNLIMITED: Final = 4294967295
_RETRIES_AT_ONCE: Final = 1024
"""Envoy's default of 3 makes most requests fail when a gateway dies (facts h)."""

_PROBES_PER_SECOND: Final = 20
"""What all health checks of one machine may add up to."""
_RAREST_PROBE: Final = 30
"""Seconds, as long as outlier detection keeps a gateway out. Health checks that would have to be rarer are left out."""


def egress(machine: Machine) -> list[Resource]:
    """One cluster for each (service, port) that the machine calls, by name."""
    ports = {cluster_name(port): port for port in machine.egress}
    gateways = machine.mesh.spec.gateways
    reach = _reach(gateways, len(ports))
    return [_cluster(name, port, machine.mesh.spec.trust_domain, reach) for name, port in sorted(ports.items())]


def _cluster(name: str, port: EgressPort, trust_domain: str, reach: Resource) -> Resource:
    endpoints: Json = reach["endpoints"]
    cluster: Resource = {
        TYPE: CLUSTER,
        "name": name,
        "alt_stat_name": name.replace(".", "_"),
        **{key: value for key, value in reach.items() if key != "endpoints"},
        "load_assignment": {"cluster_name": name, "endpoints": endpoints},
        "transport_socket": _mutual_tls(port, trust_domain),
    }
    if port.protocol.is_http:
        cluster["typed_extension_protocol_options"] = {HTTP_OPTIONS: _HTTP2 if port.protocol.is_http2 else _HTTP1}
    return cluster


def _mutual_tls(port: EgressPort, trust_domain: str) -> Resource:
    alpn = _ALPN_TCP if not port.protocol.is_http else _ALPN_HTTP2 if port.protocol.is_http2 else _ALPN_HTTP1
    validation: Resource = {
        "default_validation_context": {"match_typed_subject_alt_names": _servers(port.service, trust_domain)},
        "validation_context_sds_secret_config": secrets.ROOTS_SOURCE,
    }
    common: Resource = {
        "tls_params": _TLS_VERSIONS,
        "alpn_protocols": alpn,
        "tls_certificate_sds_secret_configs": _IDENTITY,
        "combined_validation_context": validation,
    }
    context = typed(
        "transport_sockets.tls.v3.UpstreamTlsContext",
        sni=port.service.sni(port.number),
        # A resumed session is not asked for its certificate: an expired one would go on working (run on a real istiod).
        max_session_keys=0,
        common_tls_context=common,
    )
    return {"name": "envoy.transport_sockets.tls", "typed_config": context}


def _servers(service: Service, trust_domain: str) -> list[Resource]:
    """Who may answer. Without any matcher Envoy would take every certificate of the mesh (facts/istio.md §3.1)."""
    anyone = service.unsafe_any_workload_of
    if anyone is None:
        return [_uri("exact", identity) for identity in service.server_identities(trust_domain)]
    if anyone.namespace is not None:
        return [_uri("prefix", f"spiffe://{trust_domain}/ns/{anyone.namespace}/")]
    return [_uri("prefix", f"spiffe://{anyone.trust_domain}/")]


def _uri(how: str, value: str) -> Resource:
    return {"san_type": "URI", "matcher": {how: value}}


def _reach(gateways: Sequence[Gateway], clusters: int) -> Resource:
    """How to get to the gateways: what is the same in every cluster."""
    named = any(not _is_ip(gateway.address) for gateway in gateways)
    return {
        **({"cluster_type": _DNS} if named else {"type": "STATIC"}),
        "connect_timeout": "5s" if len(gateways) == 1 else "1s",
        "lb_policy": "LEAST_REQUEST",
        "circuit_breakers": {"thresholds": [_THRESHOLDS]},
        "upstream_connection_options": {"tcp_keepalive": _KEEPALIVE},
        "endpoints": [_locality(priority, gateway) for priority, gateway in enumerate(gateways)],
        **(_failover(len(gateways), clusters) if len(gateways) > 1 else {}),
    }


def _is_ip(address: str) -> bool:
    try:
        ip_address(address)
    except ValueError:
        return False
    return True


def _locality(priority: int, gateway: Gateway) -> Resource:
    address: Resource = {"socket_address": {"address": gateway.address, "port_value": gateway.port}}
    return {"priority": priority, "lb_endpoints": [{"endpoint": {"address": address}}]}


def _failover(gateways: int, clusters: int) -> Resource:
    """Noticing that a gateway is gone, by requests that fail and by asking (facts h)."""
    seconds = max(1, gateways * clusters // _PROBES_PER_SECOND)
    return {
        **(_health_checks(f"{seconds}s") if seconds <= _RAREST_PROBE else {}),
        "outlier_detection": _OUTLIERS,
        "ignore_health_on_host_removal": True,
        "close_connections_on_host_health_failure": True,
    }


def _health_checks(interval: str) -> Resource:
    """Plain TCP connections: one through TLS would go all the way to the destination's pods.

    Every cluster asks every gateway, so the interval grows with the number of clusters. With thousands of them the
    answers come too late to be of use, while the first round, for which Envoy's start waits, opens thousands of
    connections at once and costs a seventh of the memory (bench/memory.py).
    """
    check: Resource = {
        "timeout": "1s",
        "interval": interval,
        "no_traffic_interval": interval,
        "no_traffic_healthy_interval": interval,
        "unhealthy_threshold": 2,
        "healthy_threshold": 1,
        "tcp_health_check": {},
        "transport_socket_match_criteria": {"healthCheck": True},
    }
    plain = extension("envoy.transport_sockets.raw_buffer", "transport_sockets.raw_buffer.v3.RawBuffer")
    return {
        "health_checks": [check],
        "transport_socket_matches": [
            {"name": "health-check", "match": {"healthCheck": True}, "transport_socket": plain}
        ],
    }


_IDENTITY: Final[list[Resource]] = [secrets.IDENTITY_SOURCE]
_TLS_VERSIONS: Final[Resource] = {
    "tls_minimum_protocol_version": "TLSv1_2",
    # Envoy's upstream default ends at 1.2.
    "tls_maximum_protocol_version": "TLSv1_3",
}
_THRESHOLDS: Final[Resource] = {
    "max_connections": _UNLIMITED,
    "max_pending_requests": _UNLIMITED,
    "max_requests": _UNLIMITED,
    "max_retries": _RETRIES_AT_ONCE,
}
# Load balancers in front of gateways forget idle connections without a word, the earliest after four minutes.
_KEEPALIVE: Final[Resource] = {"keepalive_time": 60, "keepalive_interval": 10, "keepalive_probes": 3}
# The same as type STRICT_DNS, whose own fields for this are deprecated.
_DNS: Final = extension(
    "envoy.cluster.dns",
    "clusters.dns.v3.DnsCluster",
    dns_lookup_family="V4_PREFERRED",
    respect_dns_ttl=True,
    dns_refresh_rate="60s",
    dns_failure_refresh_rate={"base_interval": "2s", "max_interval": "10s"},
)
# Only what happens between here and the gateway counts: an application's own 5xx says nothing about the gateway.
_OUTLIERS: Final[Resource] = {
    "split_external_local_origin_errors": True,
    "consecutive_local_origin_failure": 3,
    "enforcing_consecutive_5xx": 0,
    "enforcing_consecutive_gateway_failure": 0,
    "enforcing_success_rate": 0,
    "enforcing_local_origin_success_rate": 0,
    "interval": "1s",
    "base_ejection_time": "5s",
    "max_ejection_time": "30s",
    "max_ejection_percent": 50,
}
_HTTP1: Final = typed(
    "upstreams.http.v3.HttpProtocolOptions",
    common_http_protocol_options={"max_connection_duration": _MAX_CONNECTION_AGE},
    explicit_http_config={"http_protocol_options": {}},
)
_HTTP2: Final = typed(
    "upstreams.http.v3.HttpProtocolOptions",
    common_http_protocol_options={"max_connection_duration": _MAX_CONNECTION_AGE},
    explicit_http_config={
        "http2_protocol_options": {
            "max_concurrent_streams": _STREAMS_PER_CONNECTION,
            "connection_keepalive": {"interval": "5s", "timeout": "3s"},
        }
    },
)

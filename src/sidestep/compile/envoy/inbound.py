"""Listeners for calls from the mesh: mutual TLS in front of the local application, as a sidecar has it.

What differs from a sidecar (facts/istio.md §2, §7.3): who may call is settled in the handshake; XFCC is set, never
appended to; istio-peer-exchange is not offered, since a stock Envoy would hand its bytes to the application.
"""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING, Final

from sidestep.compile.envoy import application, tls
from sidestep.compile.envoy.access_log import INBOUND_HTTP_LOG, INBOUND_TCP_LOG, REFUSED_LOG
from sidestep.compile.envoy.authorization import http_rbac, looks_at_paths, subject_alt_names
from sidestep.compile.envoy.peer_metadata import METADATA, METADATA_ID
from sidestep.compile.envoy.resources import LISTENER, TYPE, cidr_range, extension

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sidestep.compile.envoy.peer_metadata import PeerMetadata
    from sidestep.compile.envoy.resources import Resource
    from sidestep.spec import IngressPort, Machine
    from sidestep.spec.ingress import LoadBalancer

HTTP_STAT_PREFIX: Final = "ingress_http"
TCP_STAT_PREFIX: Final = "ingress_tcp"


def ingress(machine: Machine, metadata: PeerMetadata) -> list[Resource]:
    """One listener for each port that the mesh may call, by address."""
    trust_domain = machine.mesh.spec.trust_domain
    return [_listener(port, trust_domain, metadata) for port in sorted(machine.ingress, key=lambda port: port.listen)]


def _listener(port: IngressPort, trust_domain: str, metadata: PeerMetadata) -> Resource:
    address, number = port.listen
    chain: Resource = {
        **_match(port.spec.load_balancer),
        "filters": [_http(port, trust_domain, metadata) if port.protocol.is_http else _tcp(port)],
        **_transport(port, trust_domain),
    }
    return {
        TYPE: LISTENER,
        "name": f"ingress|{port.listen}",
        "stat_prefix": f"{address.replace('.', '_')}_{number}",
        "traffic_direction": "INBOUND",
        "address": {"socket_address": {"address": address, "port_value": number}},
        "enable_reuse_port": False,
        "access_log": REFUSED_LOG.to_stdout(),
        "filter_chains": [chain],
    }


def _match(balancer: LoadBalancer | None) -> Resource:
    """Whoever calls from elsewhere matches no chain: the connection is closed before a handshake."""
    if balancer is None:
        return {}
    return {"filter_chain_match": {"source_prefix_ranges": [cidr_range(network) for network in balancer.sources]}}


def _transport(port: IngressPort, trust_domain: str) -> Resource:
    balancer = port.spec.load_balancer
    if balancer and balancer.unsafe_tls_mode == "DISABLE":
        return {}
    callers = None if port.spec.allow is None else subject_alt_names(port.spec.allow, trust_domain)
    return {
        "transport_socket": tls.from_callers(callers, http=port.protocol.is_http),
        "transport_socket_connect_timeout": "15s",
    }


def _tcp(port: IngressPort) -> Resource:
    return extension(
        "envoy.filters.network.tcp_proxy",
        "filters.network.tcp_proxy.v3.TcpProxy",
        stat_prefix=TCP_STAT_PREFIX,
        cluster=application.name(port),
        access_log=INBOUND_TCP_LOG.to_stdout(),
    )


def _http(port: IngressPort, trust_domain: str, metadata: PeerMetadata) -> Resource:
    balancer = port.spec.load_balancer
    return extension(
        "envoy.filters.network.http_connection_manager",
        "filters.network.http_connection_manager.v3.HttpConnectionManager",
        stat_prefix=HTTP_STAT_PREFIX,
        route_config=_route_config(port, metadata),
        http_filters=[*_health(port, balancer), *http_rbac(port.spec, trust_domain), _ROUTER],
        access_log=INBOUND_HTTP_LOG.to_stdout(),
        **_client_certificate(port),
        **(_BEHIND_A_BALANCER if balancer else _FROM_THE_MESH),
        # As Istio's own sidecars have it: no time-outs that the caller did not ask for.
        stream_idle_timeout="0s",
        normalize_path=True,
        **_path_handling(port),
        server_header_transformation="PASS_THROUGH",
        proxy_100_continue=True,
        # A WebSocket needs HTTP/1.1 up to the application.
        upgrade_configs=[] if port.protocol.is_http2 else [{"upgrade_type": "websocket"}],
    )


def _client_certificate(port: IngressPort) -> Resource:
    """What the application learns of the caller, in XFCC. What a caller says of others is never passed on."""
    if port.spec.without_client_certificate:
        return {"forward_client_cert_details": "SANITIZE"}
    return {
        "forward_client_cert_details": "SANITIZE_SET",
        # A sidecar adds DNS names, too. No workload has any, and Envoy looks for them anew at every request.
        "set_current_client_cert_details": {"subject": True, "uri": True},
    }


def _path_handling(port: IngressPort) -> Resource:
    """Where rules look at paths, what an application could read as another path than they do is no request."""
    if looks_at_paths(port.spec):
        return {"merge_slashes": True, "path_with_escaped_slashes_action": "REJECT_REQUEST"}
    return {"path_with_escaped_slashes_action": "KEEP_UNCHANGED"}


def _health(port: IngressPort, balancer: LoadBalancer | None) -> Sequence[Resource]:
    """What a load balancer asks: answered by Envoy itself, by the application's health and its own.

    Envoy takes the former from the statistics ``membership_healthy`` and ``membership_total``, which must be kept.
    """
    if balancer is None:
        return []
    healthy: Resource = {application.name(port): {"value": 100}}
    return [
        extension(
            "envoy.filters.http.health_check",
            "filters.http.health_check.v3.HealthCheck",
            pass_through_mode=False,
            headers=[{"name": ":path", "string_match": {"exact": balancer.health_path}}],
            cluster_min_healthy_percentages=healthy,
        )
    ]


def _route_config(port: IngressPort, metadata: PeerMetadata) -> Resource:
    retry: Resource = {"num_retries": 2, "retry_on": "reset-before-request"}
    action: Resource = {
        "cluster": application.name(port),
        "timeout": "0s",
        "max_stream_duration": {"max_stream_duration": "0s", "grpc_timeout_header_max": "0s"},
        **({} if port.protocol == "GRPC" else {"retry_policy": retry}),
    }
    host: Resource = {"name": "application", "domains": ["*"], "routes": [{"match": {"prefix": "/"}, "route": action}]}
    return {
        "name": application.name(port),
        "virtual_hosts": [host],
        "request_headers_to_remove": [METADATA, METADATA_ID, *_LIKE_XFCC],
        **_telemetry(metadata, outside=port.spec.load_balancer is not None),
        "validate_clusters": False,
    }


def _telemetry(metadata: PeerMetadata, *, outside: bool) -> Resource:
    """The machine's name, for the telemetry of the caller's sidecar; not for whoever else comes by a balancer."""
    if outside:
        return {"response_headers_to_remove": [METADATA, METADATA_ID]}
    return {"response_headers_to_add": metadata.headers}


# Under CGI, WSGI and the like these are the same variable as x-forwarded-client-cert, which Envoy alone writes.
_LIKE_XFCC: Final = ["x{}forwarded{}client{}cert".format(*each) for each in product("-_", repeat=3) if "_" in each]
# As at a sidecar: X-Forwarded-For is the caller's own affair.
_FROM_THE_MESH: Final[Resource] = {"use_remote_address": False}
# The balancer alone gets here, and what it adds to X-Forwarded-For is true.
_BEHIND_A_BALANCER: Final[Resource] = {"use_remote_address": True, "xff_num_trusted_hops": 1}
_ROUTER: Final = extension("envoy.filters.http.router", "filters.http.router.v3.Router", suppress_envoy_headers=True)

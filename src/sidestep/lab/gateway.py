"""The east-west gateway: a ``Gateway`` server with ``tls.mode: AUTO_PASSTHROUGH``, as istiod configures it. Pure.

It forwards TLS by SNI and Istio's ALPN, and terminates nothing: one filter chain for each port of each exported
Service, and no chain for anything else, so whatever matches none is closed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sidestep.lab import xds

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sidestep.lab.topology import ServicePort
    from sidestep.lab.xds import Config


@dataclass(frozen=True)
class Export:
    """One port of a Service that the gateway forwards to, and where its sidecars listen on loopback.

    A Service without sidecars has no endpoints here: istiod leaves out whoever does not speak Istio's mTLS.
    """

    host: str
    port: ServicePort
    endpoints: tuple[int, ...]
    subset: str = ""
    """A DestinationRule's; it has a chain and a cluster of its own."""

    @property
    def sni(self) -> str:
        """What callers send as SNI; istiod names the cluster the same."""
        return f"outbound_.{self.port.number}_.{self.subset}_.{self.host}"


def gateway_bootstrap(name: str, *, listen: int, exports: Sequence[Export], status: int | None = None) -> Config:
    """The whole configuration of one gateway Envoy. On the port ``status`` it says that it is ready."""
    return xds.bootstrap(
        name,
        listeners=[gateway_listener(listen, exports), *([status_listener(status)] if status else [])],
        clusters=[gateway_cluster(export) for export in exports],
    )


def status_listener(port: int) -> Config:
    """What stands for port 15021, where Istio's agent answers for its Envoy."""
    ready: Config = {"match": {"path": "/healthz/ready"}, "direct_response": {"status": 200}}
    manager = xds.extension(
        "envoy.filters.network.http_connection_manager",
        "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        stat_prefix="status",
        route_config={"virtual_hosts": [{"name": "status", "domains": ["*"], "routes": [ready]}]},
        http_filters=[xds.extension("envoy.filters.http.router", "envoy.extensions.filters.http.router.v3.Router")],
    )
    return {
        "name": f"status_{port}",
        "address": xds.address(port),
        "enable_reuse_port": False,
        "filter_chains": [{"filters": [manager]}],
    }


def gateway_listener(listen: int, exports: Sequence[Export]) -> Config:
    """The listener that stands for port 15443."""
    return {
        "name": f"127.0.0.1_{listen}",
        "address": xds.address(listen),
        "enable_reuse_port": False,
        "traffic_direction": "OUTBOUND",
        "max_connections_to_accept_per_socket_event": 1,
        "access_log": [xds.file_access_log()],
        "listener_filters": [xds.tls_inspector()],
        "filter_chains": [_filter_chain(export) for export in exports],
    }


def gateway_cluster(export: Export) -> Config:
    """The cluster of one exported port. It has no TLS of its own: the caller's TLS passes through."""
    cluster = xds.service_cluster(export.sni, export.host, [xds.endpoint(port) for port in export.endpoints])
    options = xds.http_protocol_options(explicit_http_config={"http2_protocol_options": {}})
    return {**cluster, "lb_policy": "LEAST_REQUEST", **(options if export.port.protocol.is_http2 else {})}


def _filter_chain(export: Export) -> Config:
    return {
        "filter_chain_match": {"server_names": [export.sni], "application_protocols": xds.MESH_ALPNS},
        "filters": [xds.tcp_proxy(export.sni)],
        "transport_socket_connect_timeout": "15s",
    }

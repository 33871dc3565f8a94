"""Listeners: where local applications call a service, one address a port of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sidestep.compile.envoy import http, routes, traffic
from sidestep.compile.envoy.access_log import TCP_LOG
from sidestep.compile.envoy.resources import LISTENER, TYPE, cluster_name, extension

if TYPE_CHECKING:
    from sidestep.compile.envoy.peer_metadata import PeerMetadata
    from sidestep.compile.envoy.resources import Resource
    from sidestep.spec import EgressPort, Listen, Machine

TCP_STAT_PREFIX: Final = "egress_tcp"


def egress(machine: Machine, metadata: PeerMetadata) -> list[Resource]:
    """One listener for each egress port, by address."""
    several = len(machine.mesh.spec.gateways) > 1
    ports = sorted(machine.egress, key=lambda port: (port.listen, port.service.host))
    return [
        listener(
            f"egress|{port.listen}",
            port.listen,
            _http(port, metadata, several_gateways=several) if port.protocol.is_http else tcp_proxy(port),
        )
        for port in ports
    ]


def listener(name: str, listen: Listen, network_filter: Resource) -> Resource:
    """A listener for calls to the mesh."""
    address, number = listen
    return {
        TYPE: LISTENER,
        "name": name,
        "stat_prefix": f"{address.replace('.', '_')}_{number}",
        "traffic_direction": "OUTBOUND",
        "address": {"socket_address": {"address": address, "port_value": number}},
        # With it, a second process could listen on the same port and take a part of the calls, unnoticed (facts c).
        "enable_reuse_port": False,
        "filter_chains": [{"filters": [network_filter]}],
    }


def tcp_proxy(port: EgressPort) -> Resource:
    """The network filter that passes a connection's bytes to a service."""
    return extension(
        "envoy.filters.network.tcp_proxy",
        "filters.network.tcp_proxy.v3.TcpProxy",
        stat_prefix=TCP_STAT_PREFIX,
        cluster=cluster_name(port),
        # Long enough for a gateway that refuses connections to be left out, and the next one to be taken.
        max_connect_attempts=5,
        backoff_options={"base_interval": "0.025s", "max_interval": "0.250s"},
        **traffic.tcp_proxy_options(port),
        access_log=TCP_LOG,
    )


def _http(port: EgressPort, metadata: PeerMetadata, *, several_gateways: bool) -> Resource:
    to_service = routes.to_service(port, several_gateways=several_gateways)
    host: Resource = {"name": "service", "domains": ["*"], "routes": to_service}
    return http.connection_manager(
        route_config=http.route_config(port.service.host, [host], metadata),
        default_host=routes.authority(port),
        # A WebSocket needs HTTP/1.1 up to the application (facts/istio.md §13.8).
        upgrades=() if port.protocol.is_http2 else http.WEBSOCKET,
    )

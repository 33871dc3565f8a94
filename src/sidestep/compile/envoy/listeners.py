"""Listeners: where local applications call a service, one address a port of it."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

from sidestep.compile.envoy import http, routes, traffic, transcoding
from sidestep.compile.envoy.access_log import HTTP_LOG, REST_LOG, TCP_LOG
from sidestep.compile.envoy.gateways import Others
from sidestep.compile.envoy.resources import LISTENER, TYPE, cluster_name, extension
from sidestep.spec.sockets import UnixSocket

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sidestep.compile.envoy.downstream import Downstream, FilterChains
    from sidestep.compile.envoy.peer_metadata import PeerMetadata
    from sidestep.compile.envoy.resources import Resource
    from sidestep.spec import EgressPort, LocalAddress, Machine

TCP_STAT_PREFIX: Final = "egress_tcp"


def egress(machine: Machine, metadata: PeerMetadata, chains: FilterChains) -> Iterator[Resource]:
    """One listener for each egress port that has an address of its own, by address."""
    others = Others.of(machine)
    ports = [(port.listen, port) for port in machine.egress if port.listen]
    ports.sort(key=lambda port: (isinstance(port[0], UnixSocket), port[0], port[1].service.host))
    for listen, port in ports:
        http = port.protocol.is_http
        make = partial(_http, port, metadata, others) if http else partial(tcp_proxy, port)
        yield listener(f"egress|{listen}", listen, chains.around(listen, make, http=http))


def listener(name: str, listen: LocalAddress, chains: Resource) -> Resource:
    """A listener for calls to the mesh; ``chains`` are the fields that `FilterChains.around` makes."""
    return {
        TYPE: LISTENER,
        "name": name,
        "stat_prefix": _stat_prefix(listen),
        "traffic_direction": "OUTBOUND",
        "address": _address(listen),
        # With it, a second process could listen on the same port and take a part of the calls, unnoticed (facts c).
        "enable_reuse_port": False,
        **chains,
    }


def _stat_prefix(listen: LocalAddress) -> str:
    if isinstance(listen, UnixSocket):
        return listen.path.replace(".", "_")
    return f"{listen.address.replace('.', '_')}_{listen.port}"


def _address(listen: LocalAddress) -> Resource:
    if isinstance(listen, UnixSocket):
        return {"pipe": {"path": listen.path, "mode": listen.mode}}
    return {"socket_address": {"address": listen.address, "port_value": listen.port}}


def tcp_proxy(port: EgressPort, downstream: Downstream) -> Resource:
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
        access_log=TCP_LOG.to_stdout(downstream.logged),
    )


def _http(port: EgressPort, metadata: PeerMetadata, others: Others, downstream: Downstream) -> Resource:
    to_service = transcoding.routes(port.transcoding, routes.to_service(port, others))
    host: Resource = {"name": "service", "domains": ["*"], "routes": to_service}
    return http.connection_manager(
        routes={"route_config": http.route_config(port.service.host, [host], metadata)},
        default_host=routes.authority(port),
        # A WebSocket needs HTTP/1.1 up to the application (facts/istio.md §13.8).
        upgrades=() if port.protocol.is_http2 else http.WEBSOCKET,
        downstream=downstream,
        filters=transcoding.filters(port.transcoding),
        log=REST_LOG if port.transcoding else HTTP_LOG,
        more=transcoding.settings(port.transcoding),
    )

"""Clusters: how the machine reaches one port of one service, through the mesh's east-west gateways.

The path is SNI passthrough: TLS ends at the destination's sidecar, the gateway picks the destination by SNI and lets
nothing pass without one of Istio's ALPN names (facts/istio.md §1.1).
"""

from __future__ import annotations

from operator import itemgetter
from typing import TYPE_CHECKING, Final

from sidestep.compile.envoy import gateways, tls, traffic
from sidestep.compile.envoy.resources import CLUSTER, TYPE, cluster_name, upgrade_cluster_name
from sidestep.spec.traffic import NO_TRAFFIC

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sidestep.compile.envoy.resources import Resource
    from sidestep.spec import EgressPort, Machine, Service

HTTP_OPTIONS: Final = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"

# One list a protocol, because the gateway and the sidecar both choose by it (facts/envoy.md a, facts/istio.md §2.3).
# Never istio-peer-exchange: the sidecar would answer with bytes that a stock Envoy hands to the application.
_ALPN_HTTP1: Final = ("istio-http/1.1", "istio", "http/1.1")
_ALPN_HTTP2: Final = ("istio-h2", "istio", "h2")
_ALPN_TCP: Final = ("istio",)


def egress(machine: Machine) -> Iterator[Resource]:
    """The clusters for each (service, port, subset) that the machine calls, by name.

    One for a port; two where upgrades such as WebSocket's have to stay on HTTP/1.1.
    """
    ports = {cluster_name(port): port for port in machine.egress}
    for_upgrades = {name: port for port in ports.values() if (name := upgrade_cluster_name(port))}
    over_http = gateways.reach(machine, len(ports | for_upgrades))
    over_tcp = gateways.reach_for_bytes(machine, sum(not port.protocol.is_http for port in ports.values()))
    for name, port in sorted((ports | for_upgrades).items(), key=itemgetter(0)):
        reach = over_http if port.protocol.is_http else over_tcp
        if port.traffic.to_cluster != NO_TRAFFIC.to_cluster:
            reach = traffic.reach(port, machine, reach)
        yield _cluster(name, port, machine, reach, http2=name in ports and port.is_http2_upstream)


def _cluster(name: str, port: EgressPort, machine: Machine, reach: Resource, *, http2: bool) -> Resource:
    alpn = _ALPN_TCP if not port.protocol.is_http else _ALPN_HTTP2 if http2 else _ALPN_HTTP1
    cluster: Resource = {
        TYPE: CLUSTER,
        "name": name,
        "alt_stat_name": name.replace(".", "_"),
        **reach,
        "transport_socket": tls.to_servers(port.sni, alpn, _servers(port.service, machine.mesh.spec.trust_domain)),
    }
    if port.protocol.is_http:
        cluster["typed_extension_protocol_options"] = {HTTP_OPTIONS: traffic.http_options(port, http2=http2)}
    return cluster


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

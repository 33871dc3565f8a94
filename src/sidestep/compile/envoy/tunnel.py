"""Where tunnels (CONNECT) to services that speak HTTP end: an internal listener, which reads what comes through them.

Requests in a tunnel then are what requests are outside: each is routed by its own ``Host``, named, logged, repeated and
spread over the pods. One listener and one cluster serve all tunnels, however many services there are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sidestep.compile.envoy import http
from sidestep.compile.envoy.gateways import THRESHOLDS
from sidestep.compile.envoy.resources import CLUSTER, LISTENER, TYPE, extension

if TYPE_CHECKING:
    from sidestep.compile.envoy.downstream import Downstream
    from sidestep.compile.envoy.resources import Json, Resource
    from sidestep.spec import Machine

NAME: Final = "internal|tunnel"
"""The listener's and the cluster's. No DNS name, as for all clusters."""
_ADDRESS: Final = "envoy.filters.listener.original_dst.remote_ip"
"""Envoy's own name for the address that its listener filter puts in place of an internal connection's."""

_SERVER_NAME: Final = "envoy.network.upstream_server_name"


def listener(manager: Resource) -> Resource:
    """The listener at the end of every tunnel. It has no address: nobody gets there but by the proxy."""
    return {
        TYPE: LISTENER,
        "name": NAME,
        "stat_prefix": "tunnel",
        "traffic_direction": "OUTBOUND",
        "internal_listener": {},
        "listener_filters": [
            extension("envoy.filters.listener.original_dst", "filters.listener.original_dst.v3.OriginalDst")
        ],
        "filter_chains": [{"filters": [manager]}],
    }


def clusters(machine: Machine) -> list[Resource]:
    """The way to that listener, where the workload has a proxy."""
    if machine.workload.spec.proxy is None:
        return []
    address: Resource = {"envoy_internal_address": {"server_listener_name": NAME}}
    endpoints: Json = [{"lb_endpoints": [{"endpoint": {"address": address}}]}]
    return [
        {
            TYPE: CLUSTER,
            "name": NAME,
            "type": "STATIC",
            "circuit_breakers": {"thresholds": [THRESHOLDS]},
            "load_assignment": {"cluster_name": NAME, "endpoints": endpoints},
            "transport_socket": _PASSING_ON,
        }
    ]


def connect(downstream: Downstream) -> Resource:
    """The upgrade that opens tunnels for those who are ``downstream``. It has HTTP filters of its own."""
    # Only for tunnels: on other requests it would split the connections to the mesh, too.
    address = remembered(remember(_ADDRESS, "%DOWNSTREAM_REMOTE_ADDRESS%", _ADDRESS))
    filters = [*downstream.filters, *downstream.tunnelled, address, http.ROUTER]
    return {"upgrade_type": "CONNECT", "filters": filters}


def remembered(*objects: Resource) -> Resource:
    """The HTTP filter that hands what is known of a tunnel's client to what reads the tunnel."""
    message = "filters.http.set_filter_state.v3.Config"
    return extension("envoy.filters.http.set_filter_state", message, on_request_headers=objects)


def remember(key: str, value: str, factory: str = "envoy.string") -> Resource:
    """One thing to remember: ``value`` as access logs have it, if there is any, made by Envoy's ``factory``.

    Shared once, that is with the tunnel: shared further, every client would have connections to the mesh of its own.
    """
    return {
        "object_key": key,
        "factory_key": factory,
        "format_string": {"text_format_source": {"inline_string": value}, "omit_empty_values": True},
        "skip_if_empty": True,
        "shared_with_upstream": "ONCE",
    }


def apart(value: str) -> Resource:
    """Keeps what is remembered of one tunnel from another with another ``value``, where one client has both.

    Envoy takes what is shared with an upstream connection from the first request of its pool. Pools are told apart by
    the client's address and by this name, of which plain text makes no use. (A hashable string would do as well, but
    Envoy 1.36 makes none.)
    """
    return {**remember(_SERVER_NAME, value, _SERVER_NAME), "shared_with_upstream": "NONE"}


# The routes allow CONNECT wherever they are used, whatever the connection manager says (run, 1.36 and 1.40).
NO_TUNNEL_WITHIN: Final = extension(
    "envoy.filters.http.rbac",
    "filters.http.rbac.v3.RBAC",
    rules={
        "action": "DENY",
        "policies": {
            "tunnel-in-a-tunnel": {
                "permissions": [{"header": {"name": ":method", "string_match": {"exact": "CONNECT"}}}],
                "principals": [{"any": True}],
            }
        },
    },
)
_PASSING_ON: Final = extension(
    "envoy.transport_sockets.internal_upstream",
    "transport_sockets.internal_upstream.v3.InternalUpstreamTransport",
    transport_socket=extension("envoy.transport_sockets.raw_buffer", "transport_sockets.raw_buffer.v3.RawBuffer"),
)

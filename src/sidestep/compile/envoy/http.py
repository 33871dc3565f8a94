"""The HTTP connection manager: what Envoy makes of the requests that local applications send."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sidestep.compile.envoy.access_log import HTTP_LOG, Log
from sidestep.compile.envoy.peer_metadata import METADATA, METADATA_ID
from sidestep.compile.envoy.resources import extension, typed

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sidestep.compile.envoy.downstream import Downstream
    from sidestep.compile.envoy.peer_metadata import PeerMetadata
    from sidestep.compile.envoy.resources import Json, Resource

STAT_PREFIX: Final = "egress_http"
_NOTHING: Final[Mapping[str, Json]] = {}
WEBSOCKET: Final[Sequence[Resource]] = ({"upgrade_type": "websocket"},)


def connection_manager(
    *,
    routes: Resource,
    default_host: str | None,
    upgrades: Sequence[Json],
    downstream: Downstream,
    filters: Sequence[Json] = (),
    log: Log = HTTP_LOG,
    more: Mapping[str, Json] = _NOTHING,
) -> Resource:
    """The network filter for calls to the mesh by those who are ``downstream``.

    ``routes`` is one field: ``route_config``, or ``rds`` for routes that come from elsewhere. ``filters`` come before
    the router; ``default_host`` stands in for the ``Host`` that HTTP/1.0 callers do not send; ``more`` is what only
    this one has, or has otherwise than the others.
    """
    http1: Resource = {"accept_http_10": True}
    if default_host:
        http1["default_host_for_http_10"] = default_host
    manager: Resource = {
        **_FOR_CALLS,
        "access_log": log.to_stdout(downstream.logged),
        **downstream.settings,
        **routes,
        "http_filters": [*downstream.filters, *filters, ROUTER],
        "http_protocol_options": http1,
        "upgrade_configs": upgrades,
        **more,
    }
    return {"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}


def route_config(name: str, virtual_hosts: Sequence[Json], metadata: PeerMetadata) -> Resource:
    """A route configuration whose requests carry the machine's name, whatever the application says of itself."""
    return {
        "name": name,
        "virtual_hosts": virtual_hosts,
        "request_headers_to_add": metadata.headers,
        # What the destination's sidecar tells of itself is no business of the application's.
        "response_headers_to_remove": _OF_THE_SIDECAR,
        "validate_clusters": False,
    }


_OF_THE_SIDECAR: Final = (METADATA, METADATA_ID, "x-envoy-decorator-operation")
_FOR_CALLS: Final = typed(
    "filters.network.http_connection_manager.v3.HttpConnectionManager",
    stat_prefix=STAT_PREFIX,
    # As Istio's own sidecars have it: no time-outs that the application did not ask for, paths normalised.
    stream_idle_timeout="0s",
    normalize_path=True,
    path_with_escaped_slashes_action="KEEP_UNCHANGED",
    server_header_transformation="PASS_THROUGH",
    proxy_100_continue=True,
)
ROUTER: Final = extension("envoy.filters.http.router", "filters.http.router.v3.Router", suppress_envoy_headers=True)

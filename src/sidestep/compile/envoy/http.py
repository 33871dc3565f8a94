"""The HTTP connection manager: what Envoy makes of the requests that local applications send."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sidestep.compile.envoy.access_log import HTTP_LOG
from sidestep.compile.envoy.peer_metadata import METADATA, METADATA_ID
from sidestep.compile.envoy.resources import extension

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

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
    filters: Sequence[Json] = (),
    more: Mapping[str, Json] = _NOTHING,
) -> Resource:
    """The network filter for calls to the mesh.

    ``routes`` is one field: ``route_config``, or ``rds`` for routes that come from elsewhere. ``filters`` come before
    the router; ``default_host`` stands in for the ``Host`` that HTTP/1.0 callers do not send; ``more`` is what only
    this one has, or has otherwise than the others.
    """
    return extension(
        "envoy.filters.network.http_connection_manager",
        "filters.network.http_connection_manager.v3.HttpConnectionManager",
        stat_prefix=STAT_PREFIX,
        **routes,
        http_filters=[*filters, ROUTER],
        # As Istio's own sidecars have it: no time-outs that the application did not ask for, paths normalised.
        stream_idle_timeout="0s",
        normalize_path=True,
        path_with_escaped_slashes_action="KEEP_UNCHANGED",
        server_header_transformation="PASS_THROUGH",
        proxy_100_continue=True,
        http_protocol_options={
            "accept_http_10": True,
            **({"default_host_for_http_10": default_host} if default_host else {}),
        },
        upgrade_configs=upgrades,
        **{"access_log": HTTP_LOG, **more},
    )


def route_config(name: str, virtual_hosts: Sequence[Json], metadata: PeerMetadata) -> Resource:
    """A route configuration whose requests carry the machine's name, whatever the application says of itself."""
    return {
        "name": name,
        "virtual_hosts": virtual_hosts,
        "request_headers_to_add": metadata.headers,
        # What the destination's sidecar tells of itself is no business of the application's.
        "response_headers_to_remove": [METADATA, METADATA_ID, "x-envoy-decorator-operation"],
        "validate_clusters": False,
    }


ROUTER: Final = extension("envoy.filters.http.router", "filters.http.router.v3.Router", suppress_envoy_headers=True)

"""The bootstrap: who this Envoy is, where it reads the rest, what it counts.

It hardly ever changes for a machine, because a change of it needs a restart.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sidestep.compile.envoy.resources import extension, from_file

if TYPE_CHECKING:
    from sidestep.compile.envoy.peer_metadata import PeerMetadata
    from sidestep.compile.envoy.resources import Resource

ADMIN_SOCKET: Final = "./admin.sock"
_OWNER_ONLY: Final = 0o600
_ADMIN: Final[Resource] = {"address": {"pipe": {"path": ADMIN_SOCKET, "mode": _OWNER_ONLY}}}
_INTERNAL_LISTENERS: Final = extension(
    "envoy.bootstrap.internal_listener", "bootstrap.internal_listener.v3.InternalListener"
)

# What tells whether traffic flows and why not. Envoy would keep some 110 figures a service; these are a quarter of its
# memory at 5,000 services (facts k).
_TLS: Final = r"ssl\.(handshake|connection_error|fail_verify_(no_cert|error|san))"
_OF_A_CLUSTER: Final = (
    r"upstream_cx_(total|active|connect_fail|connect_timeout|destroy_with_active_rq|max_duration_reached)",
    r"upstream_rq_(total|active|retry|timeout|[2345]xx|pending_failure_eject|pending_overflow|retry_overflow)",
    r"upstream_(cx_(rx|tx)_bytes_total|rq_time|cx_connect_ms)",
    r"membership_(healthy|total)|outlier_detection\.ejections_(active|enforced_total)|health_check\..*",
    _TLS,
    r"client_ssl_socket_factory\.(ssl_context_update_by_sds|upstream_context_secrets_not_ready)",
)
# One expression, because each is tried on every name, and without `.*` in the middle, because RE2 would go through the
# whole name with it: together a tenth of the start at thousands of services. No name of ours has a dot in it here.
_STATS: Final = "|".join(
    (
        rf"cluster\.[^.]*\.({'|'.join(_OF_A_CLUSTER)})",
        rf"listener\.[^.]*\.(downstream_cx_(total|active)|no_filter_chain_match|{_TLS})",
        r"(http|tcp)\.(egress|ingress)[^.]*\.downstream_(cx|rq)_(total|active|[245]xx)",
        r"http\.ingress[^.]*\.rbac\.(allowed|denied)",
        r"(cluster_manager|listener_manager|server|main_thread|filesystem|proxy_proto|sds)\..*",
    )
)


def dynamic(metadata: PeerMetadata, most_connections: int | None) -> Resource:
    """The bootstrap of a bundle: clusters and listeners come from files beside it.

    Paths are relative to the directory that Envoy is started in, which is the bundle's, so a bundle can be moved.
    """
    sources: Resource = {"cds_config": from_file("./cds.json", "."), "lds_config": from_file("./lds.json", ".")}
    limited = {} if most_connections is None else _limited(most_connections)
    return {**_common(metadata), "dynamic_resources": sources, **limited}


def _limited(connections: int) -> Resource:
    """With a limit of connections. It is the process's, so it bounds open files, too.

    The admin interface and a health endpoint do not count towards it.
    """
    monitor = extension(
        "envoy.resource_monitors.global_downstream_max_connections",
        "resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig",
        max_active_downstream_connections=connections,
    )
    return {
        "admin": {**_ADMIN, "ignore_global_conn_limit": True},
        "overload_manager": {"resource_monitors": [monitor]},
    }


def static(bootstrap: Resource) -> Resource:
    """The same bootstrap without sources for listeners and clusters."""
    return {name: value for name, value in bootstrap.items() if name != "dynamic_resources"}


def _common(metadata: PeerMetadata) -> Resource:
    patterns: list[Resource] = [{"safe_regex": {"regex": _STATS}}]
    return {
        "node": {"id": metadata.node_id, "cluster": f"{metadata.workload}.{metadata.namespace}"},
        "admin": _ADMIN,
        # For the tunnels of a proxy. Always there, so that giving a workload one takes no restart.
        "bootstrap_extensions": [_INTERNAL_LISTENERS],
        "stats_config": {"stats_matcher": {"inclusion_list": {"patterns": patterns}}},
        "deferred_stat_options": {"enable_deferred_creation_stats": True},
    }

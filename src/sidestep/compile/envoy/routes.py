"""Routes: how a request goes on to a service, and when it may be sent again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sidestep.compile.envoy.resources import cluster_name, extension

if TYPE_CHECKING:
    from sidestep.compile.envoy.resources import Resource
    from sidestep.spec import EgressPort


def to_service(port: EgressPort, *, several_gateways: bool) -> list[Resource]:
    """The routes of a virtual host that stands for one port of a service."""
    idempotent, other = _RETRIES[several_gateways]
    action: Resource = {
        "cluster": cluster_name(port),
        "host_rewrite_literal": authority(port),
        "timeout": "0s",
        "max_stream_duration": _AS_LONG_AS_ASKED,
    }
    return [
        {"match": _IDEMPOTENT, "route": {**action, "retry_policy": idempotent}},
        {"match": {"prefix": "/"}, "route": {**action, "retry_policy": other}},
    ]


def authority(port: EgressPort) -> str:
    """What a caller inside the mesh would put into ``Host``."""
    return port.service.host if port.number == 80 else f"{port.service.host}:{port.number}"


def _retry(retry_on: str, several_gateways: bool) -> Resource:
    policy: Resource = {
        "retry_on": retry_on,
        "num_retries": 2,
        "retry_back_off": {"base_interval": "0.005s", "max_interval": "0.1s"},
    }
    if several_gateways:
        policy |= {
            "retry_host_predicate": [_PREVIOUS_HOSTS],
            "host_selection_retry_max_attempts": 3,
            "retry_priority": _PREVIOUS_PRIORITIES,
        }
    return policy


# A gRPC call's own deadline is kept, whatever it is.
_AS_LONG_AS_ASKED: Final[Resource] = {"max_stream_duration": "0s", "grpc_timeout_header_max": "0s"}
_PREVIOUS_HOSTS: Final = extension(
    "envoy.retry_host_predicates.previous_hosts", "retry.host.previous_hosts.v3.PreviousHostsPredicate"
)
_PREVIOUS_PRIORITIES: Final = extension(
    "envoy.retry_priorities.previous_priorities",
    "retry.priority.previous_priorities.v3.PreviousPrioritiesConfig",
    update_frequency=1,
)
# RFC 9110 §9.2.2. Only these may be sent twice once a byte of them has left.
_IDEMPOTENT: Final[Resource] = {
    "prefix": "/",
    "headers": [{"name": ":method", "string_match": {"safe_regex": {"regex": "GET|HEAD|OPTIONS|TRACE|PUT|DELETE"}}}],
}
_NOTHING_SENT: Final = "connect-failure,refused-stream,reset-before-request"
_RETRIES: Final = {
    several: (_retry(f"{_NOTHING_SENT},reset", several), _retry(_NOTHING_SENT, several)) for several in (False, True)
}

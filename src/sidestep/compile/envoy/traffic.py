"""A DestinationRule's traffic policy, as istiod gives it to Envoy (pilot/pkg/networking/core/).

Whatever an egress does not say stays as it is for all of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sidestep.compile.envoy import gateways
from sidestep.compile.envoy.resources import typed
from sidestep.spec.traffic import NO_TRAFFIC

if TYPE_CHECKING:
    from sidestep.compile.envoy.resources import Json, Resource
    from sidestep.spec import EgressPort, Machine
    from sidestep.spec.traffic import OutlierDetection, TcpKeepalive, TrafficPolicy

# The gateway balances connections, not requests: one that lives for ever stays on one pod (facts/istio.md §13.8).
_MAX_CONNECTION_AGE: Final = "60s"
# With 8 or 16 a few dozen callers have so few connections that all of them may end at one pod (bench/h2_upgrade.py).
_STREAMS_PER_CONNECTION: Final = 4
_WHERE_SPLIT: Final = frozenset(
    {
        "split_external_local_origin_errors",
        "consecutive_local_origin_failure",
        "enforcing_local_origin_success_rate",
        "enforcing_consecutive_5xx",
    }
)
"""What holds of outliers where connections that fail are counted apart from answers."""


def reach(port: EgressPort, machine: Machine, base: Resource) -> Resource:
    """How to get to the gateways for a port with a policy of its own; ``base`` is how for the others."""
    policy = port.traffic.policy
    tcp = policy.connection_pool.tcp
    return {
        **base,
        **_said(connect_timeout=tcp.connect_timeout and str(tcp.connect_timeout)),
        "circuit_breakers": {"thresholds": [_thresholds(policy)]},
        "upstream_connection_options": {"tcp_keepalive": _keepalive(tcp.tcp_keepalive)},
        **(_outliers(policy.outlier_detection, machine, base) if policy.outlier_detection else {}),
        **_asked_through(port, machine, base),
    }


def _said(**values: Json) -> Resource:
    """What is not None."""
    return {name: value for name, value in values.items() if value is not None}


def _thresholds(policy: TrafficPolicy) -> Resource:
    http = policy.http
    said = _said(
        max_connections=policy.connection_pool.tcp.max_connections,
        max_pending_requests=http.http1_max_pending_requests,
        max_requests=http.http2_max_requests,
        max_retries=http.max_retries,
    )
    return {**gateways.THRESHOLDS, **said}


def _keepalive(said: TcpKeepalive | None) -> Resource:
    if said is None:
        return gateways.KEEPALIVE
    values = _said(
        keepalive_probes=said.probes,
        keepalive_time=said.time and said.time.seconds,
        keepalive_interval=said.interval and said.interval.seconds,
    )
    return {**gateways.KEEPALIVE, **values}


def _outliers(said: OutlierDetection, machine: Machine, way: Resource) -> Resource:
    """When a gateway is ejected: what is said, over what holds where nothing is.

    As istiod does it, so many errors in a row always eject, and with few gateways left those are used and no others.
    """
    base = way.get("outlier_detection")  # of one gateway alone nobody else keeps count
    if not isinstance(base, dict):
        base = gateways.outliers(machine.mesh.spec.gateways)
    if not said.split_external_local_origin_errors:
        # A connection that fails counts as a 5xx then, so those have to eject.
        base = {key: value for key, value in base.items() if key not in _WHERE_SPLIT}
    values = _said(
        consecutive_5xx=said.consecutive5xx_errors or None,
        enforcing_consecutive_5xx=_enforcing(said.consecutive5xx_errors),
        consecutive_gateway_failure=said.consecutive_gateway_errors or None,
        enforcing_consecutive_gateway_failure=_enforcing(said.consecutive_gateway_errors),
        consecutive_local_origin_failure=said.consecutive_local_origin_failures,
        interval=said.interval and str(said.interval),
        base_ejection_time=said.base_ejection_time and str(said.base_ejection_time),
        max_ejection_time=_longest(said),
        max_ejection_percent=said.max_ejection_percent,
    )
    threshold: Resource = {**gateways.AT_ONCE, "healthy_panic_threshold": {"value": said.min_health_percent or 0}}
    return {"outlier_detection": {**base, **values}, "common_lb_config": threshold}


def _enforcing(count: int | None) -> int | None:
    return None if count is None else 100 if count else 0


def _longest(said: OutlierDetection) -> str | None:
    """Envoy refuses a longest ejection that is shorter than the first, and has 300 s of its own."""
    return f"{max(300, said.base_ejection_time.seconds + 1)}s" if said.base_ejection_time else None


def _asked_through(port: EgressPort, machine: Machine, base: Resource) -> Resource:
    check = port.traffic.health_check
    if check is None:
        return {}
    plain: Resource = {"transport_socket_matches": []} if "transport_socket_matches" in base else {}
    endpoints = gateways.endpoints(machine, with_status_port=False)
    return {**plain, **gateways.asked_through(check), "load_assignment": endpoints}


def http_options(port: EgressPort, *, http2: bool) -> Resource:
    """HTTP over a port's connections."""
    if port.traffic.policy is NO_TRAFFIC.policy:
        return _HTTP2 if http2 else _HTTP1
    pool = port.traffic.policy.connection_pool
    http, tcp = port.traffic.policy.http, pool.tcp
    idle = http.idle_timeout or tcp.idle_timeout
    common = _said(
        idle_timeout=idle and str(idle),
        max_requests_per_connection=http.max_requests_per_connection or None,
        max_connection_duration=str(tcp.max_connection_duration or _MAX_CONNECTION_AGE),
    )
    asked = http.http2_keep_alive
    keepalive: Resource = {"interval": str(asked.interval), "timeout": str(asked.timeout)} if asked else _PINGS
    streams = http.max_concurrent_streams or _STREAMS_PER_CONNECTION
    return _options(common, {"max_concurrent_streams": streams, "connection_keepalive": keepalive} if http2 else None)


def tcp_proxy_options(port: EgressPort) -> Resource:
    """TCP over a port's connections: each of the application's has one of its own."""
    tcp = port.traffic.policy.connection_pool.tcp
    return _said(
        idle_timeout=tcp.idle_timeout and str(tcp.idle_timeout),
        max_downstream_connection_duration=tcp.max_connection_duration and str(tcp.max_connection_duration),
    )


def _options(common: Resource, http2: Resource | None) -> Resource:
    version: Resource = {"http_protocol_options": {}} if http2 is None else {"http2_protocol_options": http2}
    return typed(
        "upstreams.http.v3.HttpProtocolOptions", common_http_protocol_options=common, explicit_http_config=version
    )


_PINGS: Final[Resource] = {"interval": "1s", "timeout": "1.500s"}
_AGE: Final[Resource] = {"max_connection_duration": _MAX_CONNECTION_AGE}
_HTTP1: Final = _options(_AGE, None)
_HTTP2: Final = _options(_AGE, {"max_concurrent_streams": _STREAMS_PER_CONNECTION, "connection_keepalive": _PINGS})

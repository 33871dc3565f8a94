"""How calls to a service are made, in Istio's own fields: of VirtualService and of DestinationRule.

Each means what istiod makes of it. What ends at a pod inside the mesh ends at the east-west gateway here: connections
are counted, and hosts ejected, gateway by gateway. Which pod answers is the gateway's choice.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from functools import cached_property
from http import HTTPStatus
from typing import TYPE_CHECKING, Annotated, Final, NamedTuple

from pydantic import Field

from sidestep.spec.base import Finding, Model
from sidestep.spec.checked import Scalar, checked, one_of, whole

if TYPE_CHECKING:
    from sidestep.spec.model import Egress

_NOTHING_SENT: Final = ("connect-failure", "refused-stream", "reset-before-request")
SAFE_FOR_ANY_METHOD: Final = frozenset(_NOTHING_SENT)
"""Conditions under which the service has not begun with a request, so that any request may be sent again."""
RETRY_CONDITIONS: Final = (
    *_NOTHING_SENT,
    *("5xx", "gateway-error", "reset", "retriable-4xx", "retriable-status-codes", "envoy-ratelimited"),
    *("cancelled", "deadline-exceeded", "internal", "resource-exhausted", "unavailable"),
)
"""Envoy's conditions, as Istio admits them; the last line is gRPC's."""
_LONGEST: Final = 365 * 24 * 3600 * 1000
_MAX_KEEPALIVE: Final = 32767
"""Seconds; and of probes 127: Linux refuses more when a connection is opened (tcp(7); include/net/tcp.h)."""
_UNITS: Final = {"h": 3_600_000, "m": 60_000, "s": 1000, "ms": 1}
_DURATION: Final = re.compile(r"(?:[0-9]{1,9}(?:\.[0-9]{1,9})?(?:ms|[hms]))+")
_PART: Final = re.compile(r"([0-9.]+)(ms|[hms])")


class Duration(NamedTuple):
    """A length of time."""

    milliseconds: int

    def __str__(self) -> str:
        """In the form of protobuf's JSON: seconds."""
        seconds, rest = divmod(self.milliseconds, 1000)
        return f"{seconds}.{rest:03}s" if rest else f"{seconds}s"

    @property
    def seconds(self) -> int:
        """Whole seconds."""
        return self.milliseconds // 1000


class RetryOn(NamedTuple):
    """When to try again: Envoy's conditions, and HTTP statuses."""

    conditions: tuple[str, ...]
    codes: tuple[int, ...] = ()


def _duration(value: object) -> Duration:
    if type(value) is not str or not _DURATION.fullmatch(value):
        raise ValueError
    total = sum(Decimal(number) * _UNITS[unit] for number, unit in _PART.findall(value))
    if total % 1:
        raise ValueError("no whole milliseconds")
    if total > _LONGEST:
        raise ValueError("longer than a year")
    return Duration(int(total))


def _at_least_1ms(value: object) -> Duration:
    duration = _duration(value)
    if not duration.milliseconds:
        raise ValueError
    return duration


def _keepalive_seconds(value: object) -> Duration:
    duration = _at_least_1ms(value)
    if duration.milliseconds % 1000 or duration.seconds > _MAX_KEEPALIVE:
        raise ValueError
    return duration


def _from(lowest: int, highest: int) -> Scalar:
    return whole(lowest, highest, f"a whole number from {lowest:,} to {highest:,}")


def _retry_on(value: object) -> RetryOn:
    words = [word.strip() for word in value.split(",")] if type(value) is str else [""]
    codes = tuple(int(word) for word in words if word in _STATUSES)
    conditions = tuple(word for word in words if word not in _STATUSES)
    if unknown := [word for word in conditions if word not in RETRY_CONDITIONS]:
        raise ValueError(f"unknown condition {unknown[0]!r}" if unknown[0] else "")
    if codes and "retriable-status-codes" not in conditions:
        conditions = (*conditions, "retriable-status-codes")
    if "retriable-status-codes" in conditions and not codes:
        raise ValueError("retriable-status-codes without a status")
    return RetryOn(tuple(dict.fromkeys(conditions)), tuple(dict.fromkeys(codes)))


_STATUSES: Final = frozenset(str(status.value) for status in HTTPStatus if status.value >= 200)
Timespan = Annotated[
    Duration, checked(_at_least_1ms, "a duration of whole milliseconds, from 1ms to a year, such as 500ms, 5s or 1h30m")
]
TimespanOrNone = Annotated[
    Duration,
    checked(_duration, "a duration of whole milliseconds, up to a year, such as 5s or 1h, or 0s for none at all"),
]
KeepaliveTime = Annotated[
    Duration, checked(_keepalive_seconds, f"a duration in whole seconds, 1s to {_MAX_KEEPALIVE}s")
]
Probes = Annotated[int, _from(1, 127)]
Count = Annotated[int, _from(1, 2**31 - 1)]
CountOrNone = Annotated[int, _from(0, 2**31 - 1)]
Attempts = Annotated[int, _from(0, 100)]
Percent = Annotated[int, _from(0, 100)]
Conditions = Annotated[
    RetryOn, checked(_retry_on, f"{', '.join(RETRY_CONDITIONS)}, HTTP statuses; separated by commas")
]
UpgradePolicy = Annotated[str, one_of(("DEFAULT", "DO_NOT_UPGRADE", "UPGRADE"))]


class Retries(Model):
    """When a request is sent again: `http[].retries` of a VirtualService."""

    attempts: Attempts
    """How often at most; 0 for never."""
    per_try_timeout: Timespan | None = None
    """How long one try may take, the first included."""
    retry_on: Conditions | None = None
    """Envoy's conditions and HTTP statuses. All but those that say that nothing was sent are for idempotent methods."""
    backoff: Timespan | None = None
    """The shortest pause between two tries."""
    hedge_on_per_try_timeout: bool | None = None
    """A GET, HEAD, OPTIONS or TRACE that outlasts perTryTimeout is asked once more instead of being cut."""
    unsafe_any_method: bool = False
    """Sends requests of every method again under every condition of retryOn, although they may take effect twice."""

    def _there_are_some(self) -> Iterator[Finding]:
        if not self.attempts and self.model_fields_set - {"attempts"}:
            allowed = "attempts of 1 or more, or nothing beside attempts: 0"
            yield Finding(("attempts",), "turns retries off", "0", allowed)

    def _says_when(self) -> Iterator[Finding]:
        if self.attempts and self.unsafe_any_method and not self.says("retry_on"):
            yield Finding(("unsafeAnyMethod",), "does not say when", allowed="retryOn beside it")

    checks = (_there_are_some, _says_when)


class TcpKeepalive(Model):
    """`connectionPool.tcp.tcpKeepalive`: probes on connections that are silent."""

    probes: Probes | None = None
    """Probes without an answer before the connection is given up."""
    time: KeepaliveTime | None = None
    """How long a connection is silent before the first probe."""
    interval: KeepaliveTime | None = None
    """Time between two probes."""


class TcpSettings(Model):
    """`connectionPool.tcp`."""

    max_connections: Count | None = None
    """Connections at the same time, for this service, to all gateways together."""
    connect_timeout: Timespan | None = None
    """How long opening a connection may take, TLS included."""
    max_connection_duration: Timespan | None = None
    """How long a connection is used; then another takes its place, and the gateway chooses a pod anew."""
    idle_timeout: TimespanOrNone | None = None
    """How long an unused connection is kept."""
    tcp_keepalive: TcpKeepalive | None = None
    """Probes on connections that are silent."""


class Http2KeepAlive(Model):
    """`connectionPool.http.http2KeepAlive`: PINGs that notice a peer that hangs."""

    interval: Timespan
    """Time between two PINGs."""
    timeout: Timespan
    """How long an answer may take before the connection is given up."""


class HttpSettings(Model):
    """`connectionPool.http`."""

    http1_max_pending_requests: Count | None = None
    """Requests that may wait for a connection."""
    http2_max_requests: Count | None = None
    """Requests at the same time, over HTTP/1.1 as over HTTP/2."""
    max_requests_per_connection: CountOrNone | None = None
    """Requests before a connection is replaced; 0 for any number."""
    max_retries: Count | None = None
    """Retries at the same time."""
    idle_timeout: Timespan | None = None
    """How long a connection without requests is kept."""
    h2_upgrade_policy: UpgradePolicy = "DEFAULT"
    """UPGRADE carries HTTP/1.1 callers over few HTTP/2 connections. Only where the Mesh declares the port as HTTP."""
    max_concurrent_streams: Count | None = None
    """Requests at the same time on one HTTP/2 connection; more open another, and so reach other pods."""
    http2_keep_alive: Http2KeepAlive | None = None
    """PINGs on HTTP/2 connections."""


class ConnectionPool(Model):
    """`trafficPolicy.connectionPool`."""

    tcp: TcpSettings = Field(default_factory=TcpSettings.model_construct)
    """What holds for every connection."""
    http: HttpSettings | None = None
    """What holds for HTTP."""


class OutlierDetection(Model):
    """`trafficPolicy.outlierDetection`: when a gateway is left out for a while, for this service."""

    consecutive5xx_errors: CountOrNone | None = Field(default=None, alias="consecutive5xxErrors")
    """Answers with 5xx in a row; 0 for any number."""
    consecutive_gateway_errors: CountOrNone | None = None
    """Answers with 502, 503 or 504 in a row; 0 for any number."""
    consecutive_local_origin_failures: Count | None = None
    """Connections in a row that could not be opened or broke."""
    split_external_local_origin_errors: bool = True
    """Whether failed connections are counted apart from answers."""
    interval: Timespan | None = None
    """How often the counts are looked at."""
    base_ejection_time: Timespan | None = None
    """How long a gateway is left out; longer each time."""
    max_ejection_percent: Percent | None = None
    """How many of the gateways may be left out."""
    min_health_percent: Percent | None = None
    """With fewer gateways than this left, all are used again."""

    def _counts_what_is_split(self) -> Iterator[Finding]:
        if self.says("consecutive_local_origin_failures") and not self.split_external_local_origin_errors:
            message = "it counts what splitExternalLocalOriginErrors: false does not tell apart"
            yield Finding(("consecutiveLocalOriginFailures",), message, allowed="one of the two")

    checks = (_counts_what_is_split,)


class TrafficPolicy(Model):
    """`trafficPolicy` of a DestinationRule."""

    connection_pool: ConnectionPool = Field(default_factory=ConnectionPool.model_construct)
    """Connections to the gateways, and what they carry."""
    outlier_detection: OutlierDetection | None = None
    """When a gateway is left out for a while."""

    @property
    def http(self) -> HttpSettings:
        """Settings for HTTP, none of them set where there are none."""
        return self.connection_pool.http or _NO_HTTP


class HealthCheck(Model):
    """Asks the service itself whether the way to it works, from time to time."""

    interval: Timespan = Duration(10_000)
    """Time between two questions, to each gateway."""
    timeout: Timespan = Duration(1000)
    """How long an answer may take."""


# Not checked: there is nothing in them, and the first check of a model makes its validator.
_NO_HTTP: Final = HttpSettings.model_construct()
_NO_POLICY: Final = TrafficPolicy.model_construct()


@dataclass(frozen=True)
class Traffic:
    """What an egress says of how its calls are made."""

    subset: str = ""
    timeout: Duration | None = None
    retries: Retries | None = None
    policy: TrafficPolicy = _NO_POLICY
    health_check: HealthCheck | None = None

    @classmethod
    def of(cls, egress: Egress) -> Traffic:
        """The part of an egress that is about traffic."""
        if not egress.model_fields_set & _TRAFFIC_FIELDS:
            return NO_TRAFFIC
        policy = egress.traffic_policy or _NO_POLICY
        return cls(egress.subset or "", egress.timeout, egress.retries, policy, egress.health_check)

    @cached_property
    def upgraded(self) -> bool:
        """Whether HTTP/1.1 callers are carried over HTTP/2."""
        return self.policy.http.h2_upgrade_policy == "UPGRADE"

    @property
    def to_cluster(self) -> tuple[TrafficPolicy, HealthCheck | None]:
        """The part that belongs to connections, and not to requests."""
        return self.policy, self.health_check


NO_TRAFFIC: Final = Traffic()
_TRAFFIC_FIELDS: Final = frozenset(("subset", "timeout", "retries", "traffic_policy", "health_check"))


def to_cluster(egress: Egress) -> tuple[TrafficPolicy, HealthCheck | None]:
    """What must be the same in every egress to one subset of a port: connections are shared."""
    return egress.traffic_policy or _NO_POLICY, egress.health_check

"""What an egress may say of its traffic, given what the port carries."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final, NamedTuple

from sidestep.spec.base import Finding, Unknown, known
from sidestep.spec.documents import shown
from sidestep.spec.scalars import MAX_SNI, Protocol
from sidestep.spec.traffic import SAFE_FOR_ANY_METHOD, to_cluster

if TYPE_CHECKING:
    from sidestep.spec.base import Check
    from sidestep.spec.documents import Path
    from sidestep.spec.model import Egress, Port, Service

CHECKED_FIELDS: Final = frozenset(("protocol", "subset", "timeout", "retries", "traffic_policy"))
"""What `findings` looks at in an egress to a port whose protocol the Mesh declares."""
_HTTP: Final[Path] = ("trafficPolicy", "connectionPool", "http")


class Call(NamedTuple):
    """An egress brought together with one port of the service that it names."""

    service: Service
    port: Port
    egress: Egress

    @property
    def place(self) -> str:
        """The port, as messages name it."""
        return f"port {self.port.number} of {self.service.host}"

    @property
    def protocol(self) -> Protocol:
        """What to speak. Raises `Unknown` where Mesh and egress say different things, or nothing."""
        declared, wanted = self.port.protocol, self.egress.protocol
        protocol = declared or wanted
        if protocol is None or wanted not in {None, protocol}:
            raise Unknown
        return protocol

    @property
    def is_http2(self) -> bool:
        """Whether requests travel over HTTP/2."""
        return self.protocol.is_http2 or (self.protocol.is_http and self.is_upgraded)

    @property
    def is_upgraded(self) -> bool:
        """Whether HTTP/1.1 callers are to be carried over HTTP/2."""
        policy = self.egress.traffic_policy
        return bool(policy and policy.http.h2_upgrade_policy == "UPGRADE")


def findings(call: Call) -> Iterator[Finding]:
    """What is wrong with what an egress says of a port, by itself. Paths begin at the egress."""
    for check in _CHECKS:
        yield from known(check(call))


def _says_protocol(call: Call) -> Iterator[Finding]:
    declared, wanted = call.port.protocol, call.egress.protocol
    if declared is None and wanted is None:
        message = f"the Mesh gives no protocol for {call.place}, so say what to speak"
        allowed = "protocol: HTTP or TCP (HTTP2 or GRPC where the service speaks it)"
        yield Finding(("protocol",), message, "nothing", allowed)
    elif declared and wanted and declared is not wanted:
        message = f"the Mesh declares {call.place} as {declared}"
        yield Finding(("protocol",), message, wanted, f"{declared}, or leave it out")


def _fits(call: Call) -> Iterator[Finding]:
    subset = call.egress.subset or ""
    if subset and len(call.service.sni(call.port.number, subset)) > MAX_SNI >= len(call.service.sni(call.port.number)):
        allowed = f"a server name (SNI) of at most {MAX_SNI} bytes"
        yield Finding(("subset",), "host and subset together are too long", shown(subset), allowed)


def _read_by_somebody(call: Call) -> Iterator[Finding]:
    if call.protocol.is_http:
        return
    message = f"{call.place} carries {call.protocol}, whose requests nobody reads"
    allowed = "an HTTP port (add `port` to choose one), or only what is for TCP"
    for name in ("timeout", "retries"):
        if call.egress.says(name):
            yield Finding((name,), message, name, allowed)
    if call.egress.traffic_policy and call.egress.traffic_policy.connection_pool.says("http"):
        yield Finding(_HTTP, message, "connectionPool.http", allowed)


def _upgrades_what_is_declared(call: Call) -> Iterator[Finding]:
    if call.is_upgraded and call.port.protocol is None and call.protocol.is_http:
        message = f"the Mesh declares no protocol for {call.place}, so its application would hear HTTP/2"
        allowed = "UPGRADE for a port that the Mesh declares as HTTP"
        yield Finding((*_HTTP, "h2UpgradePolicy"), message, '"UPGRADE"', allowed)


def _is_for_http2(call: Call) -> Iterator[Finding]:
    http = call.egress.traffic_policy and call.egress.traffic_policy.connection_pool.http
    if not http or not call.protocol.is_http or call.is_http2:
        return
    for field, name in (("max_concurrent_streams", "maxConcurrentStreams"), ("http2_keep_alive", "http2KeepAlive")):
        if http.says(field):
            allowed = "h2UpgradePolicy: UPGRADE beside it, or an HTTP2 or GRPC port"
            yield Finding((*_HTTP, name), f"{call.place} is called over HTTP/1.1", name, allowed)


def _repeats_what_is_safe(call: Call) -> Iterator[Finding]:
    retries = call.egress.retries
    if call.protocol is not Protocol.GRPC or not retries or not retries.retry_on or retries.unsafe_any_method:
        return
    if unsafe := [word for word in retries.retry_on.conditions if word not in SAFE_FOR_ANY_METHOD]:
        message = (
            f"every gRPC call is a POST, and is not repeated once the service may have begun with it ({unsafe[0]})"
        )
        allowed = f"{', '.join(sorted(SAFE_FOR_ANY_METHOD))}; or unsafeAnyMethod: true"
        yield Finding(("retries", "retryOn"), message, ", ".join(unsafe), allowed)


_CHECKS: Final[tuple[Check, ...]] = (
    _says_protocol,
    _fits,
    _read_by_somebody,
    _upgrades_what_is_declared,
    _is_for_http2,
    _repeats_what_is_safe,
)


def together(call: Call, other: Egress) -> Iterator[Finding]:
    """What is wrong beside an egress before it to the same subset of the port: they share a cluster."""
    another = call._replace(egress=other)
    yield from known(_one_protocol(call, another))
    yield from known(_one_policy(call, another))


def _one_protocol(call: Call, other: Call) -> Iterator[Finding]:
    if other.protocol is not call.protocol:
        message = f"another egress speaks {other.protocol} to {call.place}"
        yield Finding(("protocol",), message, call.protocol, "one protocol for every egress to a port")


def _one_policy(call: Call, other: Call) -> Iterator[Finding]:
    policy, check = to_cluster(call.egress)
    its_policy, its_check = to_cluster(other.egress)
    if policy != its_policy or check != its_check:
        message = f"another egress to {call.place} says something else, and they share their connections"
        allowed = "the same trafficPolicy and healthCheck in both, or another subset"
        yield Finding(("trafficPolicy" if policy != its_policy else "healthCheck",), message, allowed=allowed)

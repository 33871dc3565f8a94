"""What an egress may say of its traffic, given what the port carries."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final, TypeAlias

from sidestep.spec.documents import shown
from sidestep.spec.scalars import Protocol
from sidestep.spec.traffic import SAFE_FOR_ANY_METHOD

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sidestep.spec.documents import Path
    from sidestep.spec.resolve import EgressPort

Finding: TypeAlias = "tuple[Path, str, str, str]"
"""Where in the egress, what is wrong, what was found, what is allowed."""

MAX_SNI: Final = 255
_HTTP_FIELDS: Final[dict[str, Path]] = {
    "timeout": ("timeout",),
    "retries": ("retries",),
    "connectionPool.http": ("trafficPolicy", "connectionPool", "http"),
}
_HTTP: Final[Path] = ("trafficPolicy", "connectionPool", "http")


def findings(port: EgressPort, same: Sequence[EgressPort]) -> Iterator[Finding]:
    """What is wrong with the traffic of ``port``; ``same`` are the egresses before it to the same destination."""
    if len(port.sni.encode()) > MAX_SNI:
        allowed = f"a server name (SNI) of at most {MAX_SNI} bytes"
        yield ("subset",), "host and subset together are too long", shown(port.traffic.subset), allowed
    if port.protocol.is_http:
        yield from _upgrade(port)
        yield from _http2(port)
        yield from _grpc(port)
    else:
        yield from _no_http(port)
    if same:
        yield from _one_policy(port, same[0])


def _place(port: EgressPort) -> str:
    return f"port {port.number} of {port.service.host}"


def _no_http(port: EgressPort) -> Iterator[Finding]:
    traffic = port.traffic
    said = {
        "timeout": traffic.timeout,
        "retries": traffic.retries,
        "connectionPool.http": traffic.policy.connection_pool.http,
    }
    for name, path in _HTTP_FIELDS.items():
        if said[name] is not None:
            message = f"{_place(port)} carries {port.protocol}, whose requests nobody reads"
            yield path, message, name, "an HTTP port (add `port` to choose one), or only what is for TCP"


def _upgrade(port: EgressPort) -> Iterator[Finding]:
    if port.traffic.upgraded and not port.declared:
        message = f"the Mesh declares no protocol for {_place(port)}, so its application would hear HTTP/2"
        yield (*_HTTP, "h2UpgradePolicy"), message, '"UPGRADE"', "UPGRADE for a port that the Mesh declares as HTTP"


def _http2(port: EgressPort) -> Iterator[Finding]:
    http = port.traffic.policy.http
    said = {"maxConcurrentStreams": http.max_concurrent_streams, "http2KeepAlive": http.http2_keep_alive}
    for name, value in said.items():
        if value is not None and not port.is_http2_upstream:
            message = f"{_place(port)} is called over HTTP/1.1"
            yield (*_HTTP, name), message, name, "h2UpgradePolicy: UPGRADE beside it, or an HTTP2 or GRPC port"


def _grpc(port: EgressPort) -> Iterator[Finding]:
    retries = port.traffic.retries
    if port.protocol is not Protocol.GRPC or retries is None or retries.retry_on is None or retries.unsafe_any_method:
        return
    if unsafe := [word for word in retries.retry_on.conditions if word not in SAFE_FOR_ANY_METHOD]:
        message = (
            f"every gRPC call is a POST, and is not repeated once the service may have begun with it ({unsafe[0]})"
        )
        allowed = f"{', '.join(sorted(SAFE_FOR_ANY_METHOD))}; or unsafeAnyMethod: true"
        yield ("retries", "retryOn"), message, ", ".join(unsafe), allowed


def _one_policy(port: EgressPort, other: EgressPort) -> Iterator[Finding]:
    if other.protocol is not port.protocol and not port.declared:
        message = f"another egress speaks {other.protocol} to {_place(port)}"
        yield ("protocol",), message, str(port.protocol), "one protocol for every egress to a port"
    elif other.traffic.to_cluster != port.traffic.to_cluster:
        message = f"another egress to {_place(port)} says something else, and they share their connections"
        yield ("trafficPolicy",), message, "", "the same trafficPolicy and healthCheck in both, or another subset"

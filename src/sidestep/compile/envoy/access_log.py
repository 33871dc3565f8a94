"""One JSON object a call, on standard output: enough to say who called what, and why it failed.

A failed gRPC call has response code 200: judge it by ``response_flags`` and ``grpc_status`` (facts/istio.md §13.3).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sidestep.compile.envoy.resources import extension

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sidestep.compile.envoy.resources import Resource

_NOTHING: Final[Mapping[str, str]] = {}
_CONNECTION: Final[Resource] = {
    "start_time": "%START_TIME%",
    "duration": "%DURATION%",
    "bytes_received": "%BYTES_RECEIVED%",
    "bytes_sent": "%BYTES_SENT%",
    "response_flags": "%RESPONSE_FLAGS%",
    "upstream_cluster": "%UPSTREAM_CLUSTER_RAW%",
    "upstream_host": "%UPSTREAM_HOST%",
    "upstream_transport_failure_reason": "%UPSTREAM_TRANSPORT_FAILURE_REASON%",
    "downstream_remote_address": "%DOWNSTREAM_REMOTE_ADDRESS%",
    "downstream_local_address": "%DOWNSTREAM_LOCAL_ADDRESS%",
    "connection_termination_details": "%CONNECTION_TERMINATION_DETAILS%",
}
_REQUEST: Final[Resource] = {
    **_CONNECTION,
    "method": "%REQ(:METHOD)%",
    "path": "%REQ(:PATH)%",
    "authority": "%REQ(:AUTHORITY)%",
    "protocol": "%PROTOCOL%",
    "response_code": "%RESPONSE_CODE%",
    "response_code_details": "%RESPONSE_CODE_DETAILS%",
    "grpc_status": "%GRPC_STATUS%",
    "request_id": "%REQ(X-REQUEST-ID)%",
    "user_agent": "%REQ(USER-AGENT)%",
}


class Log:
    """Lines of one kind: their fields, and which connections have one (all, without ``which``)."""

    def __init__(self, fields: Resource, which: Resource | None = None) -> None:
        self._fields = fields
        self._which = which
        self._made = self._with({})

    def to_stdout(self, more: Mapping[str, str] = _NOTHING) -> list[Resource]:
        """As a field ``access_log``, with ``more`` fields in each line."""
        return self._with(more) if more else self._made

    def _with(self, more: Mapping[str, str]) -> list[Resource]:
        logged: Resource = {"json_format": {**self._fields, **more}}
        message = "access_loggers.stream.v3.StdoutAccessLog"
        made = extension("envoy.access_loggers.stdout", message, log_format=logged)
        return [{**made, "filter": self._which} if self._which else made]


_CALLER: Final[Resource] = {
    "downstream_peer_uri_san": "%DOWNSTREAM_PEER_URI_SAN%",
}
_REFUSED: Final[Resource] = {
    "start_time": "%START_TIME%",
    "response_flags": "%RESPONSE_FLAGS%",
    "downstream_remote_address": "%DOWNSTREAM_REMOTE_ADDRESS%",
    "downstream_local_address": "%DOWNSTREAM_LOCAL_ADDRESS%",
    "downstream_transport_failure_reason": "%DOWNSTREAM_TRANSPORT_FAILURE_REASON%",
    **_CALLER,
}
_NOT_LET_IN: Final[Resource] = {
    "or_filter": {
        "filters": [
            {"response_flag_filter": {"flags": ["NR"]}},
            {
                "extension_filter": extension(
                    "envoy.access_loggers.extension_filters.cel",
                    "access_loggers.filters.cel.v3.ExpressionFilter",
                    expression="connection.transport_failure_reason != ''",
                )
            },
        ]
    }
}

HTTP_LOG: Final = Log(_REQUEST)
REST_LOG: Final = Log({**_REQUEST, "path": "%REQ(X-ENVOY-ORIGINAL-PATH?:PATH)%"})
"""Where REST is transcoded: the path before that. Elsewhere that header is a caller's word, and would hide the path."""
TCP_LOG: Final = Log(_CONNECTION)
INBOUND_HTTP_LOG: Final = Log({**_REQUEST, **_CALLER})
INBOUND_TCP_LOG: Final = Log({**_CONNECTION, **_CALLER})
REFUSED_LOG: Final = Log(_REFUSED, _NOT_LET_IN)
"""Connections that got no further than the handshake, or not even there. The rest is logged as what it carried."""

"""TLS with the workload's certificate, towards the mesh and from it. Who the other side is, the certificate tells."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sidestep.compile.envoy import secrets
from sidestep.compile.envoy.resources import typed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sidestep.compile.envoy.resources import Resource


def to_servers(sni: str, alpn: Sequence[str], servers: Sequence[Resource]) -> Resource:
    """The transport socket of a cluster. Without a matcher Envoy takes every certificate (facts/istio.md §3.1)."""
    context = typed(
        "transport_sockets.tls.v3.UpstreamTlsContext",
        sni=sni,
        # A resumed session is not asked for its certificate: an expired one would go on working (run on a real istiod).
        max_session_keys=0,
        common_tls_context={**_common(alpn), **_checked(servers)},
    )
    return {"name": _TLS, "typed_config": context}


def from_callers(callers: Sequence[Resource] | None, *, http: bool) -> Resource:
    """The transport socket of a filter chain. With None for ``callers`` nobody is asked for a certificate."""
    assert callers is None or callers, "without a matcher everybody of the mesh would be let in"
    context = typed(
        "transport_sockets.tls.v3.DownstreamTlsContext",
        require_client_certificate=callers is not None,
        # A resumed session would show no certificate: one that has expired since would go on working.
        disable_stateless_session_resumption=True,
        disable_stateful_session_resumption=True,
        common_tls_context={**_common(_ALPN if http else ()), **({} if callers is None else _checked(callers))},
    )
    return {"name": _TLS, "typed_config": context}


def _common(alpn: Sequence[str]) -> Resource:
    return {
        "tls_params": _VERSIONS,
        **({"alpn_protocols": alpn} if alpn else {}),
        "tls_certificate_sds_secret_configs": _IDENTITY,
    }


def _checked(names: Sequence[Resource]) -> Resource:
    validation: Resource = {
        "default_validation_context": {"match_typed_subject_alt_names": names},
        "validation_context_sds_secret_config": secrets.ROOTS_SOURCE,
    }
    return {"combined_validation_context": validation}


_ALPN: Final = ("h2", "http/1.1")
"""What callers may speak."""
_TLS: Final = "envoy.transport_sockets.tls"
_IDENTITY: Final[list[Resource]] = [secrets.IDENTITY_SOURCE]
_VERSIONS: Final[Resource] = {
    "tls_minimum_protocol_version": "TLSv1_2",
    # Envoy's default for a client ends at 1.2.
    "tls_maximum_protocol_version": "TLSv1_3",
}

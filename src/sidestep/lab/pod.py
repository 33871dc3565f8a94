"""A pod of the mesh that calls a machine: the outbound side of its sidecar, as istiod configures it for a ServiceEntry.

In a pod, iptables redirects calls to one listener. The lab redirects nothing: each port of the machine has a listener
of its own on loopback, for the pod's application to call.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import orjson

from sidestep.lab import xds
from sidestep.lab.envoys import LabEnvoy
from sidestep.lab.sidecar import sds, secrets
from sidestep.lab.xds import BOOTSTRAP_FILE

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from sidestep.lab.envoys import Runtime
    from sidestep.lab.topology import Protocol
    from sidestep.lab.xds import Config
    from sidestep.pki.identity import Identity

HTTP1_ALPNS = ("istio-http/1.1", "istio", "http/1.1")
HTTP2_ALPNS = ("istio-h2", "istio", "h2")
TCP_ALPNS = ("istio-peer-exchange", "istio")
_TLS = "envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext"
_RAW = "envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer"
_PREVIOUS_HOSTS = "envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate"


@dataclass(frozen=True)
class Outbound:
    """One port of a machine, as a pod calls it."""

    host: str
    """The ServiceEntry's."""
    number: int
    """The ServiceEntry's port."""
    protocol: Protocol
    endpoint: int
    """Where the machine's Envoy listens, on loopback."""
    server: str
    """The SPIFFE ID that the ServiceEntry says the machine has."""
    listen: int = 0
    """Where the pod's application calls."""
    mtls: bool = True
    """Whether the endpoint has a service account: without one istiod lets the pod speak plain text."""

    certificate: bool = True
    """Whether the pod shows its certificate."""

    @property
    def cluster(self) -> str:
        """Istio's name for the cluster."""
        return f"outbound|{self.number}||{self.host}"


class Pod:
    """A pod: what it calls, and its Envoy, which is not started yet."""

    def __init__(self, directory: Path, outbound: Sequence[Outbound], identity: Identity, runtime: Runtime) -> None:
        contents = {name: _as_json(secret) for name, secret in secrets().items()}
        contents |= {BOOTSTRAP_FILE: _as_json(pod_bootstrap(outbound)), **identity.files()}
        self.outbound = tuple(outbound)
        self.envoy = LabEnvoy(directory, contents, runtime)

    def listen(self, number: int) -> int:
        """Where the pod's application calls a port of the machine."""
        return next(outbound.listen for outbound in self.outbound if outbound.number == number)


def pod_bootstrap(outbound: Sequence[Outbound]) -> Config:
    """The whole configuration of the pod's Envoy, as far as it calls machines."""
    return xds.bootstrap(
        "sidecar~127.0.0.1~pod.bookinfo",
        listeners=[outbound_listener(each) for each in outbound],
        clusters=[outbound_cluster(each) for each in outbound],
    )


def outbound_listener(outbound: Outbound) -> Config:
    """The listener that stands for an address of the ServiceEntry."""
    network_filter = xds.tcp_proxy(outbound.cluster) if outbound.protocol.is_tcp else _http(outbound)
    return {
        "name": f"127.0.0.1_{outbound.listen}",
        "address": xds.address(outbound.listen),
        "enable_reuse_port": False,
        "traffic_direction": "OUTBOUND",
        "continue_on_listener_filters_timeout": True,
        "listener_filters_timeout": "0s",
        "filter_chains": [{"filters": [network_filter], "transport_socket_connect_timeout": "15s"}],
    }


def outbound_cluster(outbound: Outbound) -> Config:
    """The machine's cluster: mutual TLS where the endpoint's metadata says so, else plain text."""
    endpoint = xds.endpoint(outbound.endpoint)
    if outbound.mtls:
        endpoint["metadata"] = {"filter_metadata": {"envoy.transport_socket_match": {"tlsMode": "istio"}}}
    options = xds.http_protocol_options(explicit_http_config={"http2_protocol_options": {}})
    return {
        **xds.service_cluster(outbound.cluster, outbound.host, [endpoint]),
        "lb_policy": "LEAST_REQUEST",
        "transport_socket_matches": [
            {"name": "tlsMode-istio", "match": {"tlsMode": "istio"}, "transport_socket": _mutual_tls(outbound)},
            {
                "name": "tlsMode-disabled",
                "match": {},
                "transport_socket": xds.extension("envoy.transport_sockets.raw_buffer", _RAW),
            },
        ],
        **(options if outbound.protocol.is_http2 else {}),
    }


def virtual_host(outbound: Outbound) -> Config:
    """What istiod makes of the ServiceEntry in the pod's routes."""
    name, namespace, *_ = outbound.host.split(".")
    short = [f"{name}.{namespace}", f"{name}.{namespace}.svc"]
    retry: Config = {
        "host_selection_retry_max_attempts": "5",
        "num_retries": 2,
        "retry_host_predicate": [xds.extension("envoy.retry_host_predicates.previous_hosts", _PREVIOUS_HOSTS)],
        "retry_on": "connect-failure,refused-stream,unavailable,cancelled,retriable-status-codes",
    }
    route: Config = {
        "name": "default",
        "match": {"prefix": "/"},
        "decorator": {"operation": f"{outbound.host}:{outbound.number}/*"},
        "route": {"cluster": outbound.cluster, "max_grpc_timeout": "0s", "timeout": "0s", "retry_policy": retry},
    }
    return {
        "name": f"{outbound.host}:{outbound.number}",
        "domains": [outbound.host, f"{outbound.host}.", *short, "127.0.0.1"],
        "include_request_attempt_count": True,
        "routes": [route],
    }


def _http(outbound: Outbound) -> Config:
    return xds.extension(
        "envoy.filters.network.http_connection_manager",
        "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        stat_prefix=f"outbound_{outbound.number}",
        access_log=[xds.file_access_log()],
        http_filters=[
            xds.extension("envoy.filters.http.router", "envoy.extensions.filters.http.router.v3.Router"),
        ],
        normalize_path=True,
        route_config={
            "name": str(outbound.number),
            "ignore_port_in_host_matching": True,
            "max_direct_response_body_size_bytes": 1048576,
            "validate_clusters": False,
            "virtual_hosts": [virtual_host(outbound)],
        },
        stream_idle_timeout="0s",
        upgrade_configs=[{"upgrade_type": "websocket"}],
        use_remote_address=False,
    )


def _mutual_tls(outbound: Outbound) -> Config:
    """What Istio's ALPN filter would offer is written down: a stock Envoy has no such filter."""
    alpns = TCP_ALPNS if outbound.protocol.is_tcp else HTTP2_ALPNS if outbound.protocol.is_http2 else HTTP1_ALPNS
    return xds.extension(
        "envoy.transport_sockets.tls",
        _TLS,
        sni=f"outbound_.{outbound.number}_._.{outbound.host}",
        common_tls_context={
            "alpn_protocols": alpns,
            "tls_params": {
                "tls_minimum_protocol_version": "TLSv1_2",
                "tls_maximum_protocol_version": "TLSv1_3",
            },
            "tls_certificate_sds_secret_configs": [sds("default")] if outbound.certificate else [],
            "combined_validation_context": {
                "default_validation_context": {"match_subject_alt_names": [{"exact": outbound.server}]},
                "validation_context_sds_secret_config": sds("ROOTCA"),
            },
        },
    )


def _as_json(config: Config) -> bytes:
    return orjson.dumps(config, option=orjson.OPT_INDENT_2)

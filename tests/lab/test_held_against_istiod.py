"""The lab's gateway and sidecars are what a real istiod configures; whatever differs is listed here, with its reason.

``istiod/`` holds what istiod pushed for the mesh in ``istiod/input/``. Both sides are compared whole, field by field. A
difference that `DIFFERENCES` does not list fails, and so does a listed one that no longer exists.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from tests.lab.against_istiod import (
    ADDED,
    CHANGED,
    MISSING,
    SIDECARS,
    Difference,
    gateway_differences,
    lab_gateway,
    lab_sidecar,
    pushed,
    sidecar_differences,
    sni,
)

if TYPE_CHECKING:
    from collections.abc import Callable

_LOG = "typed_config.access_log[envoy.access_loggers.file].typed_config"
_TCP = f"filters[envoy.filters.network.tcp_proxy].{_LOG}"
_HTTP = f"filters[envoy.filters.network.http_connection_manager].{_LOG}"
_HANDSHAKE = "access_log[envoy.access_loggers.file]"
_TLS = "chain.transport_socket.typed_config.common_tls_context"
_CERTIFICATE = f"{_TLS}.tls_certificate_sds_secret_configs[default].sds_config"
_ROOTS = f"{_TLS}.combined_validation_context.validation_context_sds_secret_config.sds_config"
_EXPLAINED = (
    "access_log_type",
    "downstream_peer_uri_san",
    "downstream_transport_failure_reason",
    "filter_chain_name",
    "grpc_status",
)
_NO_CAPTURE = "nothing is redirected, so each port has a listener of its own instead of virtualInbound on 15006"
_FREE_PORT = "loopback and free ports, so that labs run side by side and nobody else reaches them"
_TO_FILE = "several Envoys write, and each is read by itself"
_EXPLAINS = "the lab shows who called, and why a handshake failed"
_SDS_FILE = "there is no Istio agent: the same secrets, under the same names, come from files"
_STATIC = "there is no control plane: the endpoint is written down"
_NO_SHARING = "by default two Envoys could share a port without an error"

DIFFERENCES: dict[Difference, str] = {
    # gateway and sidecar listeners
    ("listener.address.socket_address.address", CHANGED): _FREE_PORT,
    ("listener.address.socket_address.port_value", CHANGED): _FREE_PORT,
    ("listener.name", CHANGED): _FREE_PORT,
    ("listener.enable_reuse_port", ADDED): _NO_SHARING,
    (
        f"listener.{_HANDSHAKE}.filter",
        MISSING,
    ): "failed handshakes are logged too, not only connections without a chain",
    # sidecar listeners
    ("listener.listener_filters[envoy.filters.listener.original_dst]", MISSING): _NO_CAPTURE,
    ("chain.filter_chain_match.destination_port", MISSING): _NO_CAPTURE,
    ("sidecar.chains[virtualInbound]", MISSING): _NO_CAPTURE + ": a port without listener refuses",
    ("sidecar.chains[virtualInbound-blackhole]", MISSING): _NO_CAPTURE + ": a port without listener refuses",
    ("sidecar.chains[virtualInbound-catchall-http]", MISSING): _NO_CAPTURE + ": a port without listener refuses",
    ("sidecar.clusters[BlackHoleCluster]", MISSING): "it belongs to the chains that catch other ports",
    ("sidecar.clusters[InboundPassthroughCluster]", MISSING): "it belongs to the chains that catch other ports",
    # filters
    ("chain.filters[envoy.filters.network.http_connection_manager].typed_config.tracing", MISSING): (
        "no tracer is configured on either side, so it does nothing"
    ),
    # access logs
    **{
        (f"{place}.typed_config.path" if place.endswith("file]") else f"{place}.path", CHANGED): _TO_FILE
        for place in (f"chain.{_TCP}", f"chain.{_HTTP}", f"listener.{_HANDSHAKE}")
    },
    **{
        (f"{place}.log_format.json_format.{name}", ADDED): _EXPLAINS
        for place in (f"chain.{_TCP}", f"chain.{_HTTP}", f"listener.{_HANDSHAKE}.typed_config")
        for name in _EXPLAINED
    },
    # secrets
    **{(f"{place}.api_config_source", MISSING): _SDS_FILE for place in (_CERTIFICATE, _ROOTS)},
    **{(f"{place}.initial_fetch_timeout", MISSING): _SDS_FILE for place in (_CERTIFICATE, _ROOTS)},
    **{(f"{place}.path_config_source", ADDED): _SDS_FILE for place in (_CERTIFICATE, _ROOTS)},
    # clusters
    ("cluster.type", CHANGED): _STATIC,
    ("cluster.load_assignment", ADDED): _STATIC,
    ("cluster.eds_cluster_config", MISSING): _STATIC,
    ("cluster.lb_policy", MISSING): "CLUSTER_PROVIDED belongs to ORIGINAL_DST: the sidecar has one endpoint",
    ("cluster.cleanup_interval", MISSING): "it belongs to ORIGINAL_DST",
    ("cluster.upstream_bind_config", MISSING): "127.0.0.6 keeps iptables from capturing again, and macOS has none",
}


def unlisted(found: dict[Difference, tuple[Any, Any]]) -> dict[Difference, tuple[Any, Any]]:
    return {key: values for key, values in found.items() if key not in DIFFERENCES}


@pytest.mark.parametrize("name", SIDECARS)
def test_a_sidecar_differs_from_istiods_only_where_listed(name: str) -> None:
    assert unlisted(sidecar_differences(name, lab_sidecar(name))) == {}


def test_the_gateway_differs_from_istiods_only_where_listed() -> None:
    assert unlisted(gateway_differences(lab_gateway())) == {}


def test_every_listed_difference_exists() -> None:
    found = set(gateway_differences(lab_gateway()))
    for name in SIDECARS:
        found |= set(sidecar_differences(name, lab_sidecar(name)))
    assert set(DIFFERENCES) - found == set()


def test_services_without_a_sidecar_have_no_endpoints_behind_the_gateway() -> None:
    istiod = {
        assignment["cluster_name"]: sum(len(group["lb_endpoints"]) for group in assignment.get("endpoints", []))
        for assignment in pushed("gateway.json")["endpoints"]
    }
    lab = {
        cluster["name"]: sum(len(group["lb_endpoints"]) for group in cluster["load_assignment"]["endpoints"])
        for cluster in lab_gateway()["clusters"]
    }
    assert lab == istiod
    assert lab["outbound_.9080_._.plain.perm.svc.cluster.local"] == 0


# The comparison notices what it is there for: each change below makes the lab something that istiod would not push.


def _http(lab: Any, index: int = 0) -> Any:
    return lab["listeners"][index]["filter_chains"][0]["filters"][0]["typed_config"]


def _tls(lab: Any, index: int = 0) -> Any:
    return lab["listeners"][index]["filter_chains"][0]["transport_socket"]["typed_config"]


def no_client_certificate(lab: Any) -> None:
    del _tls(lab)["require_client_certificate"]


def any_trust_domain(lab: Any) -> None:
    del _tls(lab)["common_tls_context"]["combined_validation_context"]["default_validation_context"]


def old_tls(lab: Any) -> None:
    _tls(lab)["common_tls_context"]["tls_params"]["tls_minimum_protocol_version"] = "TLSv1_0"


def other_alpn(lab: Any) -> None:
    _tls(lab)["common_tls_context"]["alpn_protocols"].reverse()


def plaintext_too(lab: Any) -> None:
    chains = lab["listeners"][0]["filter_chains"]
    chains.append({**chains[0], "filter_chain_match": {"transport_protocol": "raw_buffer"}})
    del chains[-1]["transport_socket"]


def plaintext_instead(lab: Any) -> None:
    del lab["listeners"][0]["filter_chains"][0]["transport_socket"]


def no_http_rbac(lab: Any) -> None:
    del _http(lab)["http_filters"][0]


def rbac_after_the_router(lab: Any) -> None:
    filters = _http(lab)["http_filters"]
    filters.append(filters.pop(0))


def no_network_rbac(lab: Any) -> None:
    del lab["listeners"][2]["filter_chains"][0]["filters"][0]


def wider_principal(lab: Any) -> None:
    [policy] = _http(lab)["http_filters"][0]["typed_config"]["rules"]["policies"].values()
    [ids] = policy["principals"][0]["and_ids"]["ids"]
    ids["or_ids"]["ids"][0]["authenticated"]["principal_name"] = {"prefix": "spiffe://"}


def forged_client_certificate_header(lab: Any) -> None:
    _http(lab)["forward_client_cert_details"] = "ALWAYS_FORWARD_ONLY"


def http_version_of_the_application(lab: Any) -> None:
    del lab["clusters"][1]["typed_extension_protocol_options"]


def no_alpn_match(lab: Any) -> None:
    [chain, *_] = lab["listeners"][4]["filter_chains"]
    del chain["filter_chain_match"]["application_protocols"]


SIDECAR_FAULTS = [
    no_client_certificate,
    any_trust_domain,
    old_tls,
    other_alpn,
    plaintext_too,
    plaintext_instead,
    no_http_rbac,
    rbac_after_the_router,
    no_network_rbac,
    wider_principal,
    forged_client_certificate_header,
    http_version_of_the_application,
    no_alpn_match,
]


@pytest.mark.parametrize("fault", SIDECAR_FAULTS)
def test_a_fault_in_a_sidecar_is_noticed(fault: Callable[[Any], None]) -> None:
    lab = lab_sidecar("guarded.strict")
    fault(lab)
    assert unlisted(sidecar_differences("guarded.strict", lab))


def no_gateway_alpn(lab: Any) -> None:
    del lab["listeners"][0]["filter_chains"][0]["filter_chain_match"]["application_protocols"]


def wildcard_sni(lab: Any) -> None:
    lab["listeners"][0]["filter_chains"][0]["filter_chain_match"]["server_names"] = ["*.svc.cluster.local"]


def one_more_export(lab: Any) -> None:
    chains = lab["listeners"][0]["filter_chains"]
    chains.append(
        json.loads(json.dumps(chains[0]).replace(sni(chains[0]), "outbound_.1_._.secret.ns.svc.cluster.local"))
    )


def own_tls_to_the_sidecar(lab: Any) -> None:
    lab["clusters"][0]["transport_socket"] = {"name": "envoy.transport_sockets.tls"}


def no_tls_inspector(lab: Any) -> None:
    del lab["listeners"][0]["listener_filters"][0]


@pytest.mark.parametrize(
    "fault", [no_gateway_alpn, wildcard_sni, one_more_export, own_tls_to_the_sidecar, no_tls_inspector]
)
def test_a_fault_in_the_gateway_is_noticed(fault: Callable[[Any], None]) -> None:
    lab = lab_gateway()
    fault(lab)
    assert unlisted(gateway_differences(lab))

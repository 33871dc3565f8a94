"""The lab's pod calls a machine as a pod under a real istiod does; whatever differs is listed here, with its reason."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from sidestep.lab.pod import Outbound, outbound_cluster, outbound_listener, virtual_host
from sidestep.lab.topology import Protocol

from .against_istiod import ADDED, CHANGED, MISSING, Difference, differences, pushed

if TYPE_CHECKING:
    from collections.abc import Callable

HOST = "billing.vms.svc.cluster.local"
SERVER = "spiffe://cluster.local/ns/vms/sa/billing"
HTTP = Outbound(HOST, 8080, Protocol.HTTP, 18080, SERVER, 20000)
TCP = Outbound(HOST, 9000, Protocol.TCP, 19000, SERVER, 20001)
_TLS = "cluster.transport_socket_matches[tlsMode-istio].transport_socket.typed_config.common_tls_context"
_SECRETS = (
    f"{_TLS}.tls_certificate_sds_secret_configs[default].sds_config",
    f"{_TLS}.combined_validation_context.validation_context_sds_secret_config.sds_config",
)
_PROXY = "listener.filter_chains.filters[envoy.filters.network.tcp_proxy].typed_config"
_LOG = f"{_PROXY}.access_log[envoy.access_loggers.file].typed_config"
_STATIC = "there is no control plane: the endpoint is written down"
_SDS_FILE = "there is no Istio agent: the same secrets, under the same names, come from files"
_NO_CAPTURE = "nothing is redirected: the application calls a port on loopback, which has a listener of its own"

DIFFERENCES: dict[Difference, str] = {
    ("cluster.type", CHANGED): _STATIC,
    ("cluster.eds_cluster_config", MISSING): _STATIC,
    ("cluster.load_assignment", ADDED): _STATIC,
    (f"{_TLS}.alpn_protocols", CHANGED): (
        "stock Envoy has no ALPN filter, so istiod was told to do without; here is what the filter offers, and for TCP "
        "istio-peer-exchange, which the machine must not choose"
    ),
    **{(f"{place}.api_config_source", MISSING): _SDS_FILE for place in _SECRETS},
    **{(f"{place}.initial_fetch_timeout", MISSING): _SDS_FILE for place in _SECRETS},
    **{(f"{place}.path_config_source", ADDED): _SDS_FILE for place in _SECRETS},
    ("route.domains", CHANGED): "the application calls loopback instead of the ServiceEntry's address",
    ("listener.address.socket_address.address", CHANGED): _NO_CAPTURE,
    ("listener.address.socket_address.port_value", CHANGED): _NO_CAPTURE,
    ("listener.name", CHANGED): _NO_CAPTURE,
    ("listener.bind_to_port", MISSING): _NO_CAPTURE,
    ("listener.enable_reuse_port", ADDED): "by default two Envoys could share a port without an error",
    (f"{_LOG}.path", CHANGED): "several Envoys write, and each is read by itself",
    **{
        (f"{_LOG}.log_format.json_format.{name}", ADDED): "the lab shows who called, and why a handshake failed"
        for name in (
            "access_log_type",
            "downstream_peer_uri_san",
            "downstream_transport_failure_reason",
            "filter_chain_name",
            "grpc_status",
        )
    },
}


def lab() -> Any:
    built = {
        "clusters": [outbound_cluster(HTTP), outbound_cluster(TCP)],
        "route": virtual_host(HTTP),
        "listener": outbound_listener(TCP),
    }
    return json.loads(json.dumps(built))


def found(built: Any) -> dict[Difference, tuple[Any, Any]]:
    istiod = pushed("mesh-client-of-a-machine.json")
    clusters = {each["name"]: each for each in istiod["clusters"]}
    different: dict[Difference, tuple[Any, Any]] = {}
    for ours in built["clusters"]:
        theirs = {key: value for key, value in clusters[ours["name"]].items() if key != "@type"}
        different |= differences(theirs, ours, "cluster")
    hosts = {each["name"]: each for each in istiod["routes"][0]["virtual_hosts"]}
    different |= differences(hosts[built["route"]["name"]], built["route"], "route")
    [theirs] = [each for each in istiod["listeners"] if each["name"].endswith("_9000")]
    return different | _listener_differences(theirs, built["listener"])


def _listener_differences(theirs: dict[str, Any], ours: dict[str, Any]) -> dict[Difference, tuple[Any, Any]]:
    """The one filter chain of each is compared field by field."""
    istiod, own = ({**each, "filter_chains": each["filter_chains"][0]} for each in (theirs, ours))
    del istiod["@type"]
    return differences(istiod, own, "listener")


def unlisted(different: dict[Difference, tuple[Any, Any]]) -> dict[Difference, tuple[Any, Any]]:
    return {key: values for key, values in different.items() if key not in DIFFERENCES}


def test_the_pod_differs_from_istiods_only_where_listed() -> None:
    assert unlisted(found(lab())) == {}


def test_every_listed_difference_exists() -> None:
    assert set(DIFFERENCES) - set(found(lab())) == set()


def test_the_machines_endpoint_is_marked_for_mutual_tls_as_istiod_marks_it() -> None:
    theirs = {each["cluster_name"]: each for each in pushed("mesh-client-of-a-machine.json")["endpoints"]}
    for ours in lab()["clusters"]:
        marks = [
            assignment["endpoints"][0]["lb_endpoints"][0]["metadata"]["filter_metadata"]["envoy.transport_socket_match"]
            for assignment in (ours["load_assignment"], theirs[ours["name"]])
        ]
        assert marks == [{"tlsMode": "istio"}] * 2


def _context(built: Any) -> Any:
    return built["clusters"][0]["transport_socket_matches"][0]["transport_socket"]["typed_config"]


def other_sni(built: Any) -> None:
    _context(built)["sni"] = HOST


def any_server(built: Any) -> None:
    del _context(built)["common_tls_context"]["combined_validation_context"]["default_validation_context"]


def old_tls(built: Any) -> None:
    del _context(built)["common_tls_context"]["tls_params"]


def plain_text_first(built: Any) -> None:
    built["clusters"][0]["transport_socket_matches"].reverse()


def other_retries(built: Any) -> None:
    built["route"]["routes"][0]["route"]["retry_policy"]["retry_on"] = "5xx"


@pytest.mark.parametrize("fault", [other_sni, any_server, old_tls, plain_text_first, other_retries])
def test_a_fault_in_the_pod_is_noticed(fault: Callable[[Any], None]) -> None:
    built = lab()
    fault(built)
    assert unlisted(found(built))

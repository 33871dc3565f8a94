"""What must hold for every cluster: who answers there, and what is spoken."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from tests.compile.made import endpoints, spoken, tls

if TYPE_CHECKING:
    from sidestep.spec import EgressPort
    from tests.compile.made import Made

HOST_NAME = re.compile(r"[A-Za-z0-9_]([-A-Za-z0-9_]*[A-Za-z0-9_])?(\.[A-Za-z0-9_]([-A-Za-z0-9_]*[A-Za-z0-9_])?)*\.?")
ALPN = {
    "HTTP": ["istio-http/1.1", "istio", "http/1.1"],
    "HTTP2": ["istio-h2", "istio", "h2"],
    "GRPC": ["istio-h2", "istio", "h2"],
    "TCP": ["istio"],
    "TLS": ["istio"],
    "HTTPS": ["istio"],
}


def every_server_is_pinned(made: Made) -> None:
    for port, cluster in made.calls():
        context = tls(cluster)["common_tls_context"]["combined_validation_context"]["default_validation_context"]
        matchers = context["match_typed_subject_alt_names"]
        assert matchers == _pins(port, made.machine.mesh.spec.trust_domain)
        assert matchers


def _pins(port: EgressPort, trust_domain: str) -> list[Any]:
    """What the user said of who may answer, written down a second time."""
    anyone, namespace = port.service.unsafe_any_workload_of, port.service.host.split(".")[1:2]
    if anyone:
        whom = (
            f"spiffe://{trust_domain}/ns/{anyone.namespace}/"
            if anyone.namespace
            else f"spiffe://{anyone.trust_domain}/"
        )
        return [{"san_type": "URI", "matcher": {"prefix": whom}}]
    identities = []
    for account in port.service.service_accounts:
        own = account if "/" in account else f"{namespace[0]}/{account}"
        whole = own if own.startswith("spiffe://") else f"spiffe://{trust_domain}/ns/{own.replace('/', '/sa/')}"
        identities.append({"san_type": "URI", "matcher": {"exact": whole}})
    return identities


def no_cluster_is_without_mutual_tls(made: Made) -> None:
    for cluster in made.clusters:
        context = tls(cluster)["common_tls_context"]
        assert [each["name"] for each in context["tls_certificate_sds_secret_configs"]] == ["default"]
        assert context["combined_validation_context"]["validation_context_sds_secret_config"]["name"] == "ROOTCA"
        assert "validation_context" not in context
        for match in cluster.get("transport_socket_matches", []):
            assert match["match"] == {"healthCheck": True}, "plain text only for what asks whether a gateway is there"
        for endpoint in endpoints(cluster):
            assert "metadata" not in endpoint, "metadata could select another transport socket"


def alpn_is_that_of_the_protocol(made: Made) -> None:
    for port, cluster in made.calls():
        assert tls(cluster)["common_tls_context"]["alpn_protocols"] == ALPN[spoken(port, cluster)]
    assert b"istio-peer-exchange" not in b"".join(made.contents.values())


def upstream_protocol_is_fixed_by_the_spec(made: Made) -> None:
    """Never negotiated: over ALPN that says one thing, Envoy must not speak the other."""
    for port, cluster in made.calls():
        options = cluster.get("typed_extension_protocol_options", {})
        explicit = [each["explicit_http_config"] for each in options.values()]
        wanted = {
            "HTTP": ["http_protocol_options"],
            "HTTP2": ["http2_protocol_options"],
            "GRPC": ["http2_protocol_options"],
        }
        assert [key for each in explicit for key in each] == wanted.get(spoken(port, cluster), [])


def sni_is_exact(made: Made) -> None:
    for port, cluster in made.calls():
        assert tls(cluster)["sni"] == f"outbound_.{port.number}_.{port.traffic.subset}_.{port.service.host}"
        assert len(tls(cluster)["sni"].encode()) <= 255
        assert "auto_host_sni" not in tls(cluster)


def tls_is_1_2_to_1_3(made: Made) -> None:
    for cluster in made.clusters:
        assert tls(cluster)["common_tls_context"]["tls_params"] == {
            "tls_minimum_protocol_version": "TLSv1_2",
            "tls_maximum_protocol_version": "TLSv1_3",
        }


def cluster_names_are_no_host_names(made: Made) -> None:
    for cluster in made.all_clusters:
        assert not HOST_NAME.fullmatch(cluster["name"])


def secrets_are_shared(made: Made) -> None:
    sources = {
        json.dumps(tls(cluster)["common_tls_context"]["tls_certificate_sds_secret_configs"])
        for cluster in made.clusters
    }
    assert len(sources) <= 1
    names = {
        name: [each["name"] for each in made.files[f"sds/{name}.json"]["resources"]] for name in ("identity", "roots")
    }
    assert names == {"identity": ["default"], "roots": ["ROOTCA"]}

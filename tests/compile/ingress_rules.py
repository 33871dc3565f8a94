"""What must hold for every port that the mesh may call, whatever the documents say: a function a rule."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from tests.compile.bundle_rules import is_included
from tests.compile.made import HTTP, TCP

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sidestep.spec import IngressPort
    from tests.compile.made import Made

XFCC = "x-forwarded-client-cert"
PEER_METADATA = ["x-envoy-peer-metadata", "x-envoy-peer-metadata-id"]


def called(made: Made) -> Iterator[tuple[IngressPort, Any, Any]]:
    """Every port that the mesh may call, with its listener and the cluster of its application."""
    listeners = {listener["name"]: listener for listener in made.all_listeners}
    clusters = {cluster["name"]: cluster for cluster in made.all_clusters}
    for port in made.machine.ingress:
        yield port, listeners[f"ingress|{port.listen}"], clusters[f"inbound|{port.number}||"]


def chain(listener: Any) -> Any:
    [only] = listener["filter_chains"]
    return only


def tls(listener: Any) -> Any:
    return chain(listener)["transport_socket"]["typed_config"]


def managers(made: Made) -> Iterator[tuple[IngressPort, Any]]:
    for port, listener, _ in called(made):
        [first] = chain(listener)["filters"]
        if first["name"] == HTTP:
            yield port, first["typed_config"]


def with_certificates(made: Made) -> Iterator[tuple[IngressPort, Any]]:
    """All but those where the user has said on purpose that there is none."""
    for port, listener, _ in called(made):
        if not port.spec.without_client_certificate:
            yield port, tls(listener)


def only_who_is_allowed_gets_through_the_handshake(made: Made) -> None:
    for port, context in with_certificates(made):
        assert context["require_client_certificate"] is True
        validation = context["common_tls_context"]["combined_validation_context"]
        assert validation["validation_context_sds_secret_config"]["name"] == "ROOTCA"
        matchers = validation["default_validation_context"]["match_typed_subject_alt_names"]
        assert len(matchers) == len(port.spec.allow or []) > 0
        for principal, matcher in zip(port.spec.allow or [], matchers, strict=True):
            assert matcher["san_type"] == "URI"
            _means(matcher["matcher"], principal, made.machine.mesh.spec.trust_domain)


def _means(matcher: Any, principal: str, trust_domain: str) -> None:
    """Tries the matcher on identities that the principal admits, and on some that it does not."""
    middle = principal.strip("*")
    outside = [f"spiffe://elsewhere.example/ns/a{middle}", f"spiffe://x{middle}", middle, "spiffe://"]
    if principal.startswith("*"):
        inside = [f"spiffe://{trust_domain}{middle or '/ns/a/sa/b'}", f"spiffe://{trust_domain}/ns/a{middle}"]
    elif principal.endswith("*"):
        inside = [f"spiffe://{middle}x"]
    else:
        inside = [f"spiffe://{principal}"]
        outside.append(f"spiffe://{principal}x")
    for identity in inside:
        assert matches(matcher, identity), (matcher, identity)
    for identity in outside:
        assert not matches(matcher, identity), (matcher, identity)


def matches(matcher: Any, text: str) -> bool:
    """Envoy's StringMatcher; its regular expressions match as a whole."""
    [(how, value)] = matcher.items()
    if how == "safe_regex":
        return re.fullmatch(value["regex"], text) is not None
    return text == value if how == "exact" else text.startswith(value)


def no_plain_text_unless_the_user_says_so(made: Made) -> None:
    for port, listener, _ in called(made):
        balancer = port.spec.load_balancer
        plain = "transport_socket" not in chain(listener)
        assert plain == bool(balancer and balancer.unsafe_tls_mode == "DISABLE")


def without_certificates_the_source_is_what_counts(made: Made) -> None:
    for port, listener, _ in called(made):
        ranges = chain(listener).get("filter_chain_match", {}).get("source_prefix_ranges", [])
        sources = [f"{each['address_prefix']}/{each['prefix_len']}" for each in ranges]
        assert sources == (port.spec.load_balancer.sources if port.spec.load_balancer else [])
        assert sources or not port.spec.without_client_certificate
        assert "default_filter_chain" not in listener


def tls_is_1_2_to_1_3_and_never_resumed(made: Made) -> None:
    for _, listener, _ in called(made):
        if "transport_socket" in chain(listener):
            context = tls(listener)
            assert context["common_tls_context"]["tls_params"] == {
                "tls_minimum_protocol_version": "TLSv1_2",
                "tls_maximum_protocol_version": "TLSv1_3",
            }
            assert context["disable_stateless_session_resumption"]
            assert context["disable_stateful_session_resumption"]


def alpn_is_that_of_a_sidecar(made: Made) -> None:
    """Of HTTP; nothing for bytes: a stock Envoy cannot read what follows istio-peer-exchange."""
    for port, listener, _ in called(made):
        if "transport_socket" in chain(listener):
            offered = tls(listener)["common_tls_context"].get("alpn_protocols")
            assert offered == (["h2", "http/1.1"] if port.protocol in {"HTTP", "HTTP2", "GRPC"} else None)


def any_server_name_is_taken(made: Made) -> None:
    for _, listener, _ in called(made):
        assert not {"server_names", "application_protocols"} & set(chain(listener).get("filter_chain_match", {}))


def no_caller_speaks_in_another_name(made: Made) -> None:
    for port, manager in managers(made):
        wanted = "SANITIZE" if port.spec.without_client_certificate else "SANITIZE_SET"
        assert manager["forward_client_cert_details"] == wanted
        routes = manager["route_config"]
        assert routes["request_headers_to_remove"][:2] == PEER_METADATA
        assert {name.replace("_", "-") for name in routes["request_headers_to_remove"][2:]} == {XFCC}
        assert len({*routes["request_headers_to_remove"][2:], XFCC}) == 8, "each dash may be an underscore"
        added = {each["header"]["key"]: each["append_action"] for each in routes.get("response_headers_to_add", [])}
        if port.spec.load_balancer:
            assert (added, routes["response_headers_to_remove"]) == ({}, PEER_METADATA)
        else:
            assert added == dict.fromkeys(PEER_METADATA, "OVERWRITE_IF_EXISTS_OR_ADD")


def rules_are_asked_before_the_application(made: Made) -> None:
    for port, manager in managers(made):
        names = [each["name"] for each in manager["http_filters"]]
        assert names[-1] == "envoy.filters.http.router"
        assert ("envoy.filters.http.rbac" in names[:-1]) == bool(port.spec.rules)
        for each in manager["http_filters"]:
            if each["name"] == "envoy.filters.http.rbac":
                policies = each["typed_config"]["rules"]
                assert policies["action"] == "ALLOW"
                assert len(policies["policies"]) == len(port.spec.rules or [])


def a_path_is_read_in_one_way_only(made: Made) -> None:
    for _, manager in managers(made):
        assert manager["normalize_path"] is True
        if "url_path" in str(manager["http_filters"]):
            assert manager["merge_slashes"] is True
            assert manager["path_with_escaped_slashes_action"] == "REJECT_REQUEST"


def every_call_goes_to_the_application(made: Made) -> None:
    for port, listener, cluster in called(made):
        [endpoint] = cluster["load_assignment"]["endpoints"][0]["lb_endpoints"]
        address = endpoint["endpoint"]["address"]["socket_address"]
        assert (address["address"], address["port_value"]) == tuple(port.application)
        assert "transport_socket" not in cluster
        [only] = chain(listener)["filters"]
        if only["name"] == TCP:
            assert only["typed_config"]["cluster"] == cluster["name"]
    for port, manager in managers(made):
        [host] = manager["route_config"]["virtual_hosts"]
        [route] = host["routes"]
        assert (host["domains"], route["match"]) == (["*"], {"prefix": "/"})
        assert route["route"]["cluster"] == f"inbound|{port.number}||"


def the_application_hears_what_was_declared(made: Made) -> None:
    wanted = {
        "HTTP": ["http_protocol_options"],
        "HTTP2": ["http2_protocol_options"],
        "GRPC": ["http2_protocol_options"],
    }
    for port, _, cluster in called(made):
        options = cluster.get("typed_extension_protocol_options", {}).values()
        assert [key for each in options for key in each["explicit_http_config"]] == wanted.get(port.protocol, [])


def an_unwell_application_is_not_called(made: Made) -> None:
    for port, _, cluster in called(made):
        assert ("health_checks" in cluster) == (port.spec.health_check is not None)
        for check in cluster.get("health_checks", []):
            assert check["no_traffic_interval"] == check["interval"], "a minute by default"
            assert cluster["common_lb_config"] == {
                "healthy_panic_threshold": {"value": 0},
                "update_merge_window": "0s",
            }
    patterns = made.bootstrap["stats_config"]["stats_matcher"]["inclusion_list"]["patterns"]
    for statistic in ("membership_healthy", "membership_total"):
        assert is_included(f"cluster.inbound|8080||.{statistic}", patterns), "the answer to a load balancer needs it"


def who_was_kept_out_is_logged(made: Made) -> None:
    for _, listener, _ in called(made):
        [log] = listener["access_log"]
        assert "transport_failure_reason" in str(log["filter"])
        assert "downstream_peer_uri_san" in log["typed_config"]["log_format"]["json_format"]
        [only] = chain(listener)["filters"]
        [calls] = only["typed_config"]["access_log"]
        assert "downstream_peer_uri_san" in calls["typed_config"]["log_format"]["json_format"]


RULES: list[Callable[[Made], None]] = [
    only_who_is_allowed_gets_through_the_handshake,
    no_plain_text_unless_the_user_says_so,
    without_certificates_the_source_is_what_counts,
    tls_is_1_2_to_1_3_and_never_resumed,
    alpn_is_that_of_a_sidecar,
    any_server_name_is_taken,
    no_caller_speaks_in_another_name,
    rules_are_asked_before_the_application,
    a_path_is_read_in_one_way_only,
    every_call_goes_to_the_application,
    the_application_hears_what_was_declared,
    an_unwell_application_is_not_called,
    who_was_kept_out_is_logged,
]

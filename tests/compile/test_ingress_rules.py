"""Every rule of what the mesh may call holds in every golden case, and each notices when it is broken."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from sidestep.spec.principals import meet
from tests.compile import cases, ingress_rules
from tests.compile.ingress_rules import RULES
from tests.compile.made import Made
from tests.contents import with_json

if TYPE_CHECKING:
    from collections.abc import Callable

CALLED = "the-mesh-calls-every-protocol-of-a-machine"
BALANCED = "behind-an-https-load-balancer"
ASKED = "rules-say-what-each-caller-may-ask-for"
UNWELL = "calls-fail-at-once-while-the-application-is-not-well"


@pytest.mark.parametrize("rule", RULES, ids=[rule.__name__ for rule in RULES])
def test_holds_in_every_case(rule: Callable[[Made], None]) -> None:
    for case in cases.NAMES:
        for bundle in cases.bundles(case).values():
            rule(Made(bundle.plan.machine, bundle.tree))


def listener(files: Any, port: str) -> Any:
    [found] = [each for each in files["lds.json"]["resources"] if each["name"].endswith(f":{port}")]
    return found


def chain(files: Any, port: str) -> Any:
    return ingress_rules.chain(listener(files, port))


def tls(files: Any, port: str = "18080") -> Any:
    return ingress_rules.tls(listener(files, port))


def manager(files: Any, port: str = "18080") -> Any:
    return chain(files, port)["filters"][0]["typed_config"]


def cluster(files: Any, number: int) -> Any:
    [found] = [each for each in files["cds.json"]["resources"] if each["name"] == f"inbound|{number}||"]
    return found


def pins(files: Any, port: str = "18080") -> list[Any]:
    validation = tls(files, port)["common_tls_context"]["combined_validation_context"]
    matchers: list[Any] = validation["default_validation_context"]["match_typed_subject_alt_names"]
    return matchers


ALLOWED = ingress_rules.only_who_is_allowed_gets_through_the_handshake
SPOKEN = ingress_rules.no_caller_speaks_in_another_name
BREAKS: list[tuple[str, Callable[[Made], None], Callable[[Any], object]]] = [
    (CALLED, ALLOWED, lambda f: tls(f).update(require_client_certificate=False)),
    (CALLED, ALLOWED, lambda f: pins(f).clear()),
    (CALLED, ALLOWED, lambda f: pins(f)[0].update(matcher={"prefix": "spiffe://"})),
    (CALLED, ALLOWED, lambda f: pins(f, "19000")[0].update(matcher={"safe_regex": {"regex": ".*/ns/bookinfo/sa/.*"}})),
    (CALLED, ALLOWED, lambda f: pins(f)[0].update(san_type="DNS")),
    (
        BALANCED,
        ingress_rules.no_plain_text_unless_the_user_says_so,
        lambda f: chain(f, "18081").pop("transport_socket"),
    ),
    (
        BALANCED,
        ingress_rules.without_certificates_the_source_is_what_counts,
        lambda f: chain(f, "18081").pop("filter_chain_match"),
    ),
    (
        BALANCED,
        ingress_rules.without_certificates_the_source_is_what_counts,
        lambda f: listener(f, "18081").update(default_filter_chain={}),
    ),
    (
        CALLED,
        ingress_rules.tls_is_1_2_to_1_3_and_never_resumed,
        lambda f: tls(f)["common_tls_context"].pop("tls_params"),
    ),
    (
        CALLED,
        ingress_rules.tls_is_1_2_to_1_3_and_never_resumed,
        lambda f: tls(f).pop("disable_stateless_session_resumption"),
    ),
    (
        CALLED,
        ingress_rules.alpn_is_that_of_a_sidecar,
        lambda f: tls(f, "19000")["common_tls_context"].update(alpn_protocols=["istio-peer-exchange"]),
    ),
    (
        CALLED,
        ingress_rules.any_server_name_is_taken,
        lambda f: chain(f, "18080").update(filter_chain_match={"server_names": ["billing"]}),
    ),
    (CALLED, SPOKEN, lambda f: manager(f).update(forward_client_cert_details="APPEND_FORWARD")),
    (CALLED, SPOKEN, lambda f: manager(f)["route_config"].pop("request_headers_to_remove")),
    (BALANCED, SPOKEN, lambda f: manager(f, "18081").update(forward_client_cert_details="ALWAYS_FORWARD_ONLY")),
    (ASKED, ingress_rules.rules_are_asked_before_the_application, lambda f: manager(f)["http_filters"].reverse()),
    (
        ASKED,
        ingress_rules.rules_are_asked_before_the_application,
        lambda f: manager(f)["http_filters"][0]["typed_config"]["rules"].update(action="DENY"),
    ),
    (
        ASKED,
        ingress_rules.a_path_is_read_in_one_way_only,
        lambda f: manager(f).update(path_with_escaped_slashes_action="KEEP_UNCHANGED"),
    ),
    (
        CALLED,
        ingress_rules.every_call_goes_to_the_application,
        lambda f: manager(f)["route_config"]["virtual_hosts"][0]["routes"][0]["route"].update(cluster="inbound|9000||"),
    ),
    (
        CALLED,
        ingress_rules.the_application_hears_what_was_declared,
        lambda f: cluster(f, 50051).pop("typed_extension_protocol_options"),
    ),
    (
        UNWELL,
        ingress_rules.an_unwell_application_is_not_called,
        lambda f: cluster(f, 8080).pop("common_lb_config"),
    ),
    (CALLED, ingress_rules.who_was_kept_out_is_logged, lambda f: listener(f, "18080").pop("access_log")),
]


@pytest.mark.parametrize(("case", "rule", "break_"), BREAKS, ids=[rule.__name__ for _, rule, _ in BREAKS])
def test_notices_when_it_is_broken(case: str, rule: Callable[[Made], None], break_: Callable[[Any], object]) -> None:
    bundle = cases.bundles(case)["billing"]
    files = json.loads(json.dumps(Made(bundle.plan.machine, bundle.tree).files))
    break_(files)
    with pytest.raises((AssertionError, KeyError)):
        rule(Made(bundle.plan.machine, with_json(bundle.tree, files)))


def test_no_rule_is_without_a_break() -> None:
    assert {rule for _, rule, _ in BREAKS} == set(RULES)


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ("cluster.local/ns/a/sa/b", "cluster.local/ns/a/sa/b", True),
        ("cluster.local/ns/a/sa/b", "cluster.local/ns/a/sa/bc", False),
        ("cluster.local/ns/a/sa/b*", "cluster.local/ns/a/sa/bc", True),
        ("cluster.local/ns/a/sa/b*", "cluster.local/ns/a/sa/bc*", True),
        ("cluster.local/ns/a/sa/b*", "cluster.local/ns/a/sa/c*", False),
        ("cluster.local/ns/a/*", "cluster.local/ns/a/sa/b", True),
        ("cluster.local/ns/a/*", "cluster.local/ns/ab/sa/b", False),
        ("cluster.local/ns/a*", "cluster.local/ns/ab/sa/b", True),
        ("cluster.local/ns/a*", "cluster.local/ns/b/*", False),
        ("cluster.local/*", "*", True),
        ("cluster.local/ns/*", "*/sa/b", True),
        ("cluster.local/*", "*/sa/b", True),
        ("other.example/*", "*/sa/b", False),
        ("other.example/*", "*", False),
        ("*", "cluster.local/ns/a/*", True),
        ("*", "other.example/ns/a/sa/b", False),
        ("*/sa/b", "cluster.local/ns/a/sa/b", True),
        ("*/sa/b", "*/ns/a/sa/b", True),
        ("*/sa/b", "*/ns/a/sa/c", False),
        ("*/ns/a/sa/b", "*/ns/c/sa/b", False),
        ("*/ns/a/sa/b", "cluster.local/ns/a/*", True),
        ("*/ns/a/sa/b", "cluster.local/ns/c/*", False),
        ("*/sa/b", "other.example/ns/a/sa/b", False),
        ("*/sa/b", "cluster.local/ns/a/*", True),
        ("*/sa/b", "cluster.local/ns/a/sa/c*", False),
        ("*/sa/b", "*", True),
    ],
)
def test_principals_that_somebody_may_both_be(one: str, other: str, expected: bool) -> None:
    assert meet(one, other, "cluster.local") == expected
    assert meet(other, one, "cluster.local") == expected

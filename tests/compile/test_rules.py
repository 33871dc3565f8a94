"""Every rule holds in every golden case and in generated ones, and each notices when it is broken."""

from __future__ import annotations

import json
import stat
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sidestep.onboard import Bundle, bundles, load
from tests import documents
from tests.certificates import issue_into
from tests.commands import run
from tests.compile import cases, ingress_rules, rules, tunnel_rules
from tests.compile.bundle_rules import is_included
from tests.compile.made import HTTP, Made
from tests.compile.made import tls as tls_of
from tests.compile.route_rules import peer_metadata
from tests.compile.rules import RULES
from tests.contents import with_json
from tests.envoys import accepted, eventually, running
from tests.free_ports import free_port
from tests.generated import sound

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.documents import Fields

EXAMPLE = "several-gateways-by-address-stand-in-for-each-other-in-order"
PROXY = "an-http-proxy-serves-every-egress-by-name"
UPGRADED = "|9080||reviews.bookinfo.svc.cluster.local"
FORWARDER = "the-clients-of-a-forwarder-are-those-of-its-spec"
BALANCED = "balancers-say-who-the-clients-of-a-forwarder-are"
each_rule = pytest.mark.parametrize("rule", RULES, ids=[rule.__name__ for rule in RULES])


def made(bundle: Bundle) -> Made:
    return Made(bundle.plan.machine, bundle.tree)


@each_rule
def test_holds_in_every_case(rule: Callable[[Made], None]) -> None:
    for case in cases.NAMES:
        for bundle in cases.bundles(case).values():
            rule(made(bundle))


@given(spec=sound())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_all_hold_in_what_nobody_wrote(spec: list[Fields], tmp_path_factory: pytest.TempPathFactory) -> None:
    file = documents.write(tmp_path_factory.getbasetemp() / "spec.yaml", *spec)
    [bundle] = bundles(load([file]))
    for rule in (*RULES, *ingress_rules.RULES, *tunnel_rules.RULES):
        rule(made(bundle))


def first(resources: Any) -> Any:
    return resources["resources"][0]


def tls(files: Any) -> Any:
    return tls_of(first(files["cds.json"]))


def common(files: Any) -> Any:
    return tls(files)["common_tls_context"]


def manager(files: Any) -> Any:
    [found] = [
        chain["filters"][0]["typed_config"]
        for listener in files["lds.json"]["resources"]
        for chain in listener["filter_chains"]
        if chain["filters"][0]["name"] == HTTP
    ]
    return found


def routes(files: Any) -> Any:
    return manager(files)["route_config"]["virtual_hosts"][0]["routes"]


def virtual_hosts(files: Any) -> Any:
    return first(files["rds.json"])["virtual_hosts"]


def by_name(files: Any) -> Any:
    """The routes of the first service of a workload's proxy."""
    return files["rds.json"]["resources"][0]["virtual_hosts"][0]["routes"]


def forget_preferences(files: Any) -> None:
    """Makes the gateways of every cluster equals."""
    for cluster in files["cds.json"]["resources"]:
        localities = cluster["load_assignment"]["endpoints"]
        localities[0]["lb_endpoints"] += [each for locality in localities[1:] for each in locality["lb_endpoints"]]
        del localities[1:]


def pins(files: Any) -> Any:
    return common(files)["combined_validation_context"]["default_validation_context"]


def repeat(value: list[Any]) -> None:
    value.append(value[0])


def http_listener(files: Any) -> Any:
    return next(each for each in files["lds.json"]["resources"] if each["name"].endswith(":9080"))


def chains(files: Any) -> Any:
    """Of a listener for HTTP."""
    return http_listener(files)["filter_chains"]


def downstream_tls(files: Any) -> Any:
    return chains(files)[1]["transport_socket"]["typed_config"]


def proxy_filters(files: Any) -> Any:
    [proxy] = [each for each in files["lds.json"]["resources"] if each["name"].startswith("proxy|")]
    return proxy["filter_chains"][0]["filters"][0]["typed_config"]["http_filters"]


BREAKS: list[tuple[Callable[[Made], None], Callable[[Any], object]]] = [
    (rules.every_server_is_pinned, lambda f: pins(f).update(match_typed_subject_alt_names=[])),
    (rules.every_server_is_pinned, lambda f: pins(f)["match_typed_subject_alt_names"][0].update(san_type="DNS")),
    (rules.no_cluster_is_without_mutual_tls, lambda f: common(f).update(tls_certificate_sds_secret_configs=[])),
    (rules.no_cluster_is_without_mutual_tls, lambda f: first(f["cds.json"])["transport_socket"].update(name="raw")),
    (rules.alpn_is_that_of_the_protocol, lambda f: common(f).update(alpn_protocols=["istio-peer-exchange", "istio"])),
    (
        rules.upstream_protocol_is_fixed_by_the_spec,
        lambda f: http_options(f)[0]["explicit_http_config"].update(http2_protocol_options={}),
    ),
    (rules.sni_is_exact, lambda f: tls(f).update(sni="outbound_.5432_.v1_.postgres.data.svc.cluster.local")),
    (rules.tls_is_1_2_to_1_3, lambda f: common(f)["tls_params"].pop("tls_maximum_protocol_version")),
    (rules.cluster_names_are_no_host_names, lambda f: first(f["cds.json"]).update(name="reviews.bookinfo")),
    (rules.every_name_is_there_once, lambda f: repeat(f["cds.json"]["resources"])),
    (
        rules.gateways_are_those_of_the_spec_in_order,
        lambda f: first(f["cds.json"])["load_assignment"]["endpoints"][0].update(priority=9),
    ),
    (
        rules.a_lost_gateway_is_noticed,
        lambda f: first(f["cds.json"])["health_checks"][0].update(no_traffic_interval="60s"),
    ),
    *(
        (rules.a_second_try_goes_to_another_gateway, break_)
        for break_ in (
            lambda f: routes(f)[0]["route"]["retry_policy"].update(retry_priority=None),
            lambda f: routes(f)[-1]["route"]["retry_policy"].pop("retry_priority"),
            forget_preferences,
        )
    ),
    (
        rules.http2_connections_are_spread,
        lambda f: [each.pop("common_http_protocol_options") for each in http_options(f)],
    ),
    (rules.what_needs_http1_has_it, lambda f: by_name(f)[1]["route"].update(cluster=f"outbound{UPGRADED}")),
    (rules.what_needs_http1_has_it, lambda f: by_name(f)[-1]["route"].update(cluster=f"outbound-upgrade{UPGRADED}")),
    (
        rules.the_mesh_sees_who_calls,
        lambda f: manager(f)["route_config"]["request_headers_to_add"][0].update(append_action="ADD_IF_ABSENT"),
    ),
    (
        rules.the_mesh_tells_nothing_of_itself,
        lambda f: manager(f)["route_config"].update(response_headers_to_remove=[]),
    ),
    (
        rules.nothing_listens_where_the_spec_does_not_say,
        lambda f: first(f["lds.json"])["address"]["socket_address"].update(address="0.0.0.0"),
    ),
    (rules.admin_is_a_socket_of_the_owner, lambda f: f["envoy.json"]["admin"]["address"]["pipe"].update(mode=0o755)),
    *(
        (rules.a_forwarder_serves_its_clients_alone, break_)
        for break_ in (
            lambda f: chains(f)[0].pop("filter_chain_match"),
            lambda f: chains(f)[0]["filter_chain_match"].update(source_prefix_ranges=[]),
            lambda f: chains(f)[0]["filter_chain_match"]["source_prefix_ranges"][0].update(prefix_len=8),
            lambda f: chains(f)[1].pop("transport_socket"),
            lambda f: downstream_tls(f).update(require_client_certificate=False),
            lambda f: downstream_tls(f)["common_tls_context"]["combined_validation_context"].clear(),
            lambda f: downstream_tls(f).update(disable_stateless_session_resumption=False),
            lambda f: first(f["lds.json"]).update(continue_on_listener_filters_timeout=True),
            lambda f: chains(f)[0]["filters"][0]["typed_config"].update(use_remote_address=False),
            lambda f: first(f["rds.json"]).pop("request_headers_to_remove"),
            lambda f: proxy_filters(f).pop(1),
        )
    ),
    *(
        (rules.a_balancer_is_known_by_its_own_address, break_)
        for break_ in (
            lambda f: chains(f)[0]["filter_chain_match"].pop("direct_source_prefix_ranges"),
            lambda f: chains(f)[1]["filter_chain_match"]["direct_source_prefix_ranges"][0].update(prefix_len=8),
            lambda f: http_listener(f)["listener_filters"].reverse(),
            lambda f: first(f["lds.json"])["listener_filters"].pop(0),
            lambda f: first(f["lds.json"])["listener_filters"][0]["typed_config"].update(
                allow_requests_without_proxy_protocol=True
            ),
        )
    ),
    (rules.no_port_is_shared, lambda f: first(f["lds.json"]).update(enable_reuse_port=True)),
    (rules.secrets_are_shared, lambda f: common(f)["tls_certificate_sds_secret_configs"][0].update(name="other")),
    (
        rules.statistics_are_limited,
        lambda f: f["envoy.json"]["stats_config"]["stats_matcher"]["inclusion_list"]["patterns"].append(
            {"safe_regex": {"regex": "cluster.*"}}
        ),
    ),
    (
        rules.what_is_not_idempotent_is_sent_once,
        lambda f: routes(f)[-1]["route"]["retry_policy"].update(retry_on="connect-failure,reset"),
    ),
    (
        rules.what_is_not_idempotent_is_sent_once,
        lambda f: routes(f)[0]["route"]["retry_policy"].update(retry_on="5xx"),
    ),
    (
        rules.what_is_not_idempotent_is_sent_once,
        lambda f: routes(f)[0]["match"]["headers"][0]["string_match"]["safe_regex"].update(regex="GET|POST"),
    ),
    (rules.every_request_has_a_route, lambda f: routes(f).pop()),
    *(
        (rules.the_proxy_is_not_open, break_)
        for break_ in (
            lambda f: virtual_hosts(f)[0]["domains"].append("*"),
            lambda f: virtual_hosts(f)[0]["domains"].append("reviews.bookinfo:9080"),
            lambda f: virtual_hosts(f)[0]["domains"].append("api.example.com"),
            lambda f: virtual_hosts(f)[0]["routes"][0]["route"].update(cluster="outbound|443||example.com"),
            lambda f: virtual_hosts(f)[-1]["routes"][0].update(route={"cluster_header": "host"}),
            lambda f: virtual_hosts(f)[-1].update(routes=virtual_hosts(f)[0]["routes"]),
            lambda f: virtual_hosts(f).pop(0),
        )
    ),
    *(
        (rules.rest_is_as_strict_as_grpc, break_)
        for break_ in (
            lambda f: manager(f)["http_filters"][0]["typed_config"].update(request_validation_options={}),
            lambda f: manager(f)["http_filters"][0]["typed_config"].update(proto_descriptor="./descriptors/ledger.pb"),
            lambda f: manager(f)["http_filters"].pop(1),
            lambda f: manager(f)["http_filters"].reverse(),
        )
    ),
    (
        rules.every_path_is_within_the_bundle,
        lambda f: f["envoy.json"]["dynamic_resources"]["lds_config"]["path_config_source"].update(path="/etc/lds.json"),
    ),
    (rules.nothing_secret_can_be_read_by_others, lambda f: f["cds.json"].update(key="-----BEGIN PRIVATE KEY-----")),
    (rules.the_manifest_tells_what_is_there, lambda f: f["cds.json"].update(version_info="another")),
]


EXAMPLES: dict[Callable[[Made], None], str] = {
    rules.a_forwarder_serves_its_clients_alone: FORWARDER,
    rules.a_balancer_is_known_by_its_own_address: BALANCED,
    rules.the_proxy_is_not_open: PROXY,
    rules.rest_is_as_strict_as_grpc: "rest-calls-become-grpc",
    rules.what_needs_http1_has_it: "http1-callers-are-carried-over-http2",
}


def http_options(files: Any) -> list[Any]:
    clusters = files["cds.json"]["resources"]
    options = [cluster.get("typed_extension_protocol_options", {}) for cluster in clusters]
    return [each for values in options for each in values.values()]


@pytest.mark.parametrize(("rule", "break_"), BREAKS, ids=[rule.__name__ for rule, _ in BREAKS])
def test_notices_when_it_is_broken(rule: Callable[[Made], None], break_: Callable[[Any], object]) -> None:
    case = EXAMPLES.get(rule, EXAMPLE)
    whole = made(cases.bundles(case)["forwarder" if case in {FORWARDER, BALANCED} else "billing"])
    files = json.loads(json.dumps(whole.files))
    break_(files)
    with pytest.raises((AssertionError, KeyError)) as noticed:
        rule(Made(whole.machine, with_json(whole.tree, files)))
    looked = str(noticed.traceback[-1].path).endswith("rules.py")
    assert looked or noticed.type is AssertionError, "it was not a rule that missed something"


def test_no_rule_is_without_a_break() -> None:
    assert {rule for rule, _ in BREAKS} == set(RULES)


@given(
    fields=st.recursive(
        st.dictionaries(st.text(max_size=40), st.text(max_size=300), max_size=4),
        lambda inner: st.dictionaries(st.text(max_size=40), st.one_of(st.text(max_size=300), inner), max_size=4),
        max_leaves=8,
    )
)
@settings(max_examples=200, deadline=None)
def test_peer_metadata_is_a_struct_as_google_reads_it(fields: Fields) -> None:
    from sidestep.compile.envoy.peer_metadata import PeerMetadata

    assert peer_metadata(PeerMetadata("billing", "vms", fields).value) == fields


def test_a_running_envoy_keeps_the_rules(tmp_path: Path) -> None:
    """What only a running Envoy shows: who may use its admin socket, and what it counts."""
    port = free_port()
    spec = documents.write(
        tmp_path / "spec.yaml",
        documents.mesh(gateways=[{"address": "127.0.0.1", "port": free_port()}]),
        documents.workload(documents.egress(listen=port)),
    )
    [bundle] = bundles(load([spec]))
    bundle.install(tmp_path / "bundle", validate=accepted())
    issue_into(tmp_path / "bundle")
    with running(tmp_path / "bundle") as envoy:
        assert stat.S_IMODE((tmp_path / "bundle" / "admin.sock").stat().st_mode) == 0o600
        assert status_of(port) == 503
        cluster = r"cluster\.outbound.*"
        counted = eventually("the call is counted", lambda: envoy.stats(f"{cluster}upstream_cx_connect_fail$"))
        assert [*counted.values()] != [0]
        assert (
            envoy.stats(f"{cluster}(upstream_rq_503|upstream_cx_protocol_error|assignment_stale|lb_healthy_panic)$")
            == {}
        )
        assert len(envoy.stats(cluster)) < 60
        allowed = made(bundle).bootstrap["stats_config"]["stats_matcher"]["inclusion_list"]["patterns"]
        assert [name for name in envoy.stats() if not is_included(name, allowed)] == []
    assert run("validate", spec).code == 0


def status_of(port: int) -> int:
    """What an HTTP request to a local port is answered with."""
    import http.client

    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("GET", "/")
    response = connection.getresponse()
    response.read()
    connection.close()
    return response.status

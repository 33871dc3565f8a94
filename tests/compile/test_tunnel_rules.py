"""Every rule of tunnels holds in every golden case, and each notices when it is broken."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from tests.compile import cases, tunnel_rules
from tests.compile.made import TUNNEL, Made
from tests.compile.tunnel_rules import RULES
from tests.contents import with_json

if TYPE_CHECKING:
    from collections.abc import Callable

FORWARDER = "the-clients-of-a-forwarder-are-those-of-its-spec"


@pytest.mark.parametrize("rule", RULES, ids=[rule.__name__ for rule in RULES])
def test_holds_in_every_case(rule: Callable[[Made], None]) -> None:
    for case in cases.NAMES:
        for bundle in cases.bundles(case).values():
            rule(Made(bundle.plan.machine, bundle.tree))


def end(files: Any, file: str = "lds.json") -> Any:
    [found] = [each for each in files[file]["resources"] if each["name"] == TUNNEL]
    return found


def within(files: Any) -> Any:
    [chain] = end(files)["filter_chains"]
    return tunnel_rules.manager(chain)


def entrance(files: Any, chain: int = 0) -> Any:
    [proxy] = [each for each in files["lds.json"]["resources"] if each["name"].startswith("proxy|")]
    return tunnel_rules.manager(proxy["filter_chains"][chain])


def connect(files: Any, chain: int = 0) -> list[Any]:
    filters: list[Any] = tunnel_rules.connect(entrance(files, chain))["filters"]
    return filters


def to(files: Any, cluster: str) -> Any:
    hosts = files["rds.json"]["resources"][0]["virtual_hosts"]
    routes = [route["route"] for host in hosts for route in host["routes"] if "route" in route]
    return next(route for route in routes if route["cluster"] == cluster and "upgrade_configs" in route)


REACHED = tunnel_rules.nobody_gets_there_but_through_the_proxy
KNOWN = tunnel_rules.who_asks_is_known_within
ASKED = tunnel_rules.what_is_asked_of_requests_is_asked_of_tunnels
REFUSED = tunnel_rules.no_tunnel_opens_another
BYTES = "outbound|9000||ledger.pay.svc.cluster.local"
BREAKS: list[tuple[Callable[[Made], None], Callable[[Any], object]]] = [
    (tunnel_rules.what_carries_http_is_read_here, lambda f: to(f, TUNNEL).update(cluster=BYTES)),
    (tunnel_rules.what_carries_http_is_read_here, lambda f: to(f, BYTES).update(cluster=TUNNEL)),
    (REACHED, lambda f: end(f).update(address={"socket_address": {"address": "127.0.0.1", "port_value": 3129}})),
    (REACHED, lambda f: f["cds.json"]["resources"].remove(end(f, "cds.json"))),
    (REACHED, lambda f: f["envoy.json"].update(bootstrap_extensions=[])),
    (tunnel_rules.requests_go_where_they_would_go_outside, lambda f: within(f)["rds"].update(route_config_name="all")),
    (REFUSED, lambda f: within(f)["http_filters"].pop(-2)),
    (REFUSED, lambda f: within(f)["upgrade_configs"].append({"upgrade_type": "CONNECT", "filters": []})),
    (ASKED, lambda f: connect(f).pop(1)),
    (ASKED, lambda f: connect(f, 1).pop(0)),
    (KNOWN, lambda f: end(f).update(listener_filters=[])),
    (KNOWN, lambda f: connect(f).pop(-2)),
    (KNOWN, lambda f: connect(f).pop(-3)),
    (KNOWN, lambda f: connect(f, 1)[-2]["typed_config"]["on_request_headers"][0].update(shared_with_upstream="NONE")),
    (KNOWN, lambda f: connect(f)[-3]["typed_config"]["on_request_headers"].pop()),
    (KNOWN, lambda f: entrance(f)["http_filters"].insert(0, connect(f)[-2])),
]


@pytest.mark.parametrize(("rule", "break_"), BREAKS, ids=[rule.__name__ for rule, _ in BREAKS])
def test_notices_when_it_is_broken(rule: Callable[[Made], None], break_: Callable[[Any], object]) -> None:
    bundle = cases.bundles(FORWARDER)["forwarder"]
    files = json.loads(json.dumps(Made(bundle.plan.machine, bundle.tree).files))
    break_(files)
    with pytest.raises((AssertionError, KeyError, ValueError)):
        rule(Made(bundle.plan.machine, with_json(bundle.tree, files)))


def test_no_rule_is_without_a_break() -> None:
    assert {rule for rule, _ in BREAKS} == set(RULES)

"""Documents in, bundles out; and what comes out is what the real Envoy takes."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from sidestep import onboard
from sidestep.compile.envoy.resources import Resources
from sidestep.errors import EnvoyRejected
from sidestep.onboard import Bundle
from tests import protos
from tests.certificates import issue_into
from tests.compile import cases
from tests.contents import contents
from tests.envoys import accepted, running

if TYPE_CHECKING:
    from pathlib import Path

    from tests.envoys import Running

BUNDLES = [(case, name) for case in cases.NAMES for name in cases.bundles(case)]
each_bundle = pytest.mark.parametrize(("case", "name"), BUNDLES)


@pytest.mark.parametrize("case", cases.NAMES)
def test_documents_make_exactly_this(case: str, request: pytest.FixtureRequest) -> None:
    if request.config.getoption("--update-golden"):
        cases.update(case)
    made = {name: cases.content(bundle) for name, bundle in cases.bundles(case).items()}
    assert made == cases.expected(case)


@each_bundle
def test_envoy_has_a_name_for_every_field(case: str, name: str) -> None:
    bundle = cases.bundles(case)[name]
    protos.parse_all(bundle.plan.bootstrap, resources(bundle))


@pytest.mark.parametrize("place", ["cds.json", "lds.json"])
def test_a_field_that_envoy_does_not_know_is_noticed(place: str) -> None:
    files = cases.content(cases.bundles(cases.NAMES[0])["billing"])
    resource = files[place]["resources"][0]
    within = resource["transport_socket"] if place == "cds.json" else resource["filter_chains"][0]["filters"][0]
    within["typed_config"]["no_such_field"] = True
    with pytest.raises(protos.ParseError, match="no_such_field"):
        protos.parse(resource)


def resources(bundle: Bundle) -> list[Any]:
    """All that a bundle's discovery files hold."""
    return [*bundle.plan.listeners, *bundle.plan.clusters, *bundle.plan.routes, bundle.plan.identity, bundle.plan.roots]


@each_bundle
def test_envoy_runs_it(case: str, name: str, tmp_path: Path) -> None:
    bundle = cases.bundles(case)[name]
    directory = tmp_path / "bundle"
    bundle.install(directory, validate=accepted())
    on_any_free_port(directory / "lds.json")
    issue_into(directory)
    with running(directory) as envoy:
        assert taken(envoy) == {
            "listeners": {listener["name"] for listener in bundle.plan.listeners},
            "clusters": {cluster["name"] for cluster in bundle.plan.clusters},
            "routes": {routes["name"] for routes in bundle.plan.routes},
            "secrets": {"default", "ROOTCA"},
        }
        assert rejections(envoy) == {}
    log = envoy.log.read_text(encoding="utf-8")
    assert "eprecated" not in log
    assert "[error]" not in log


def on_any_free_port(discovery: Path) -> None:
    """The same listeners on ports that the system picks and sockets here, so that tests can run side by side."""
    response = json.loads(discovery.read_bytes())
    for listener in (each for each in response["resources"] if "address" in each):
        if "pipe" in listener["address"]:
            listener["address"]["pipe"]["path"] = f"./{listener['address']['pipe']['path'].rpartition('/')[2]}"
        else:
            listener["address"]["socket_address"]["port_value"] = 0
    discovery.write_text(json.dumps(response), encoding="utf-8")


def taken(envoy: Running) -> dict[str, set[str]]:
    """What a running Envoy has taken from its files."""
    dump = envoy.get("/config_dump")["configs"]
    sections = {section["@type"].rpartition(".")[2]: section for section in dump}
    clusters = sections["ClustersConfigDump"].get("dynamic_active_clusters", [])
    routes = sections.get("RoutesConfigDump", {}).get("dynamic_route_configs", [])
    secrets = sections["SecretsConfigDump"].get("dynamic_active_secrets", [])
    return {
        "listeners": {each["name"] for each in sections["ListenersConfigDump"]["dynamic_listeners"]},
        "clusters": {each["cluster"]["name"] for each in clusters},
        "routes": {each["route_config"]["name"] for each in routes},
        "secrets": {each["name"] for each in secrets},
    }


def rejections(envoy: Running) -> dict[str, int]:
    """What a running Envoy has refused of its files."""
    counts = envoy.stats(r"(update_rejected|update_failure)$")
    assert any("lds" in name for name in counts), "nothing was counted"
    return {name: count for name, count in counts.items() if count}


@each_bundle
def test_says_on_how_many_addresses_it_listens(case: str, name: str) -> None:
    plan = cases.bundles(case)[name].plan
    assert plan.machine.addresses == sum("address" in listener for listener in plan.listeners)


def test_a_listener_that_envoy_cannot_take_is_noticed(tmp_path: Path) -> None:
    bundle = cases.bundles("an-egress-without-a-port-takes-every-port")["billing"]
    bundle.install(tmp_path / "bundle", validate=accepted())
    on_any_free_port(tmp_path / "bundle" / "lds.json")
    issue_into(tmp_path / "bundle")
    response = json.loads((tmp_path / "bundle" / "lds.json").read_bytes())
    broken = response["resources"].pop()
    names = {listener["name"] for listener in response["resources"]}
    broken["filter_chains"][0]["filters"][0]["typed_config"]["@type"] = "type.googleapis.com/google.protobuf.Empty"
    response["resources"].append(broken)
    (tmp_path / "bundle" / "lds.json").write_text(json.dumps(response), encoding="utf-8")
    with running(tmp_path / "bundle", listeners=names) as envoy:
        assert rejections(envoy) == {"listener_manager.lds.update_rejected": 1}


def test_envoy_is_really_asked(tmp_path: Path) -> None:
    plan = cases.bundles(cases.NAMES[0])["billing"].plan
    bundle = Bundle(plan._replace(listeners=Resources(lambda: [{**next(iter(plan.listeners)), "no_such_field": True}])))
    with pytest.raises(EnvoyRejected, match="no_such_field"):
        bundle.install(tmp_path / "bundle", validate=accepted())
    assert not (tmp_path / "bundle").exists()


_DIGESTS = """
import hashlib
from tests.compile import cases
from tests.contents import contents
for case in cases.NAMES:
    for name, bundle in cases.bundles(case).items():
        for path, held in contents(bundle.tree).items():
            print(case, name, path, hashlib.sha256(held).hexdigest())
"""


def test_the_bytes_do_not_depend_on_the_run() -> None:
    """In particular not on the order of hashing, which differs from process to process."""
    command = [sys.executable, "-c", _DIGESTS]
    outputs = {
        subprocess.run(command, env=environment(seed), capture_output=True, check=True).stdout for seed in ("1", "2")
    }
    assert len(outputs) == 1
    assert outputs.pop().count(b"envoy.json") == len(BUNDLES)


def environment(seed: str) -> dict[str, str]:
    return {"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path)}


def test_the_bytes_do_not_depend_on_the_order_of_documents(tmp_path: Path) -> None:
    case = cases.ROOT / "several-workloads-are-several-bundles" / "spec.yaml"
    documents = case.read_text(encoding="utf-8").split("---\n")
    (tmp_path / "spec.yaml").write_text("---\n".join(reversed(documents)), encoding="utf-8")
    forward, backward = (
        {str(bundle.workload): contents(bundle.tree) for bundle in onboard.bundles(onboard.load([str(file)]))}
        for file in (case, tmp_path / "spec.yaml")
    )
    assert len(forward) == 3
    assert forward == backward

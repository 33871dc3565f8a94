"""Bundles that are written: anew, again, and over an older one."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sidestep import onboard
from tests import documents
from tests.commands import Ran, run
from tests.documents import REVIEWS, egress, mesh, workload
from tests.envoys import accepted, fake_envoy
from tests.render.bundles import FILES, bundle_of, content, quickly, refused, render, rendered, roots, snapshot


def test_writes_a_bundle(place: Path) -> None:
    answer = render("spec.yaml")
    assert (answer.code, answer.err) == (0, "")
    assert answer.out.startswith("billing: bundle created, 1 listener, for spiffe://cluster.local/ns/vms/sa/billing\n")
    assert set(snapshot("bundle")) == FILES
    assert stat.S_IMODE(Path("bundle/certs").stat().st_mode) == 0o700
    assert {stat.S_IMODE(mode) for _, mode, _ in snapshot("bundle").values()} == {0o644}


def test_says_which_files_are_missing(place: Path) -> None:
    assert "  next: cert-chain.pem, key.pem and root-cert.pem into bundle/certs, then\n" in render("spec.yaml").out
    Path("roots.pem").write_bytes(roots())
    documents.write(Path("rooted.yaml"), mesh(roots="roots.pem"), workload())
    assert "  next: cert-chain.pem and key.pem into seeded/certs, then\n" in render("rooted.yaml", "seeded").out


def test_a_proxy_is_one_listener_more(place: Path) -> None:
    documents.write(place / "by-name.yaml", mesh(), workload(proxy={}))
    assert render("by-name.yaml").out.startswith("billing: bundle created, 2 listeners, for ")


@pytest.mark.parametrize("umask", [0, 0o077])
def test_modes_do_not_depend_on_the_umask(umask: int, place: Path) -> None:
    before = os.umask(umask)
    try:
        quickly("spec.yaml")
    finally:
        os.umask(before)
    assert {stat.S_IMODE(mode) for _, mode, _ in snapshot("bundle").values()} == {0o644}
    assert stat.S_IMODE(Path("bundle/certs").stat().st_mode) == 0o700
    assert stat.S_IMODE(Path("bundle/sds").stat().st_mode) == 0o755


def test_answers_programs(place: Path) -> None:
    answer = render("spec.yaml", "bundle", "--format", "json")
    assert answer.json == {
        "ok": True,
        "warnings": [],
        "bundles": [
            {
                "name": "billing",
                "namespace": "vms",
                "identity": "spiffe://cluster.local/ns/vms/sa/billing",
                "directory": "bundle",
                "state": "created",
                "changed": list(rendered("spec.yaml")),
                "removed": [],
                "kept": [],
                "restart": False,
            }
        ],
    }


def test_a_second_run_changes_nothing(place: Path) -> None:
    render("spec.yaml")
    before = snapshot("bundle")
    answer = render("spec.yaml", "bundle", "--format", "json")
    assert (answer.json["bundles"][0]["state"], answer.json["bundles"][0]["changed"]) == ("unchanged", [])
    assert "unchanged" in render("spec.yaml").out
    assert snapshot("bundle") == before


def test_an_upgrade_changes_what_is_different(place: Path) -> None:
    render("spec.yaml")
    before = snapshot("bundle")
    [answer] = render("more.yaml", "bundle", "--format", "json").json["bundles"]
    assert (answer["state"], answer["changed"], answer["restart"]) == (
        "updated",
        ["cds.json", "lds.json", "manifest.json"],
        False,
    )
    assert content("bundle") == rendered("more.yaml")
    assert {name for name in FILES if snapshot("bundle")[name] == before[name]} == {
        "envoy.json",
        "sds/identity.json",
        "sds/roots.json",
    }


def test_says_when_envoy_must_be_restarted(place: Path) -> None:
    render("spec.yaml")
    documents.write(Path("labelled.yaml"), mesh(), labelled := workload())
    labelled["metadata"]["labels"] = {"app": "invoices"}
    documents.write(Path("labelled.yaml"), mesh(), labelled)
    answer = render("labelled.yaml")
    assert "envoy.json changed: restart its Envoy" in answer.out


def test_warns_people_and_programs(place: Path) -> None:
    loose = documents.service(REVIEWS, unsafeAnyWorkloadOf={"namespace": "bookinfo"})
    documents.write(Path("loose.yaml"), mesh(loose), workload(egress(listen="0.0.0.0:9080")))
    warnings = render("loose.yaml", "bundle", "--format", "json").json["warnings"]
    assert len(warnings) == 2
    assert render("loose.yaml").err == "".join(f"warning: {each}\n" for each in warnings)


def two(port: int) -> None:
    both = [workload(egress(listen=port + n), name=f"w{n}") for n in range(2)]
    documents.write(Path("two.yaml"), mesh(), *both)


def test_several_workloads_are_put_in_place_together_or_not_at_all(place: Path) -> None:
    two(8000)
    assert render("two.yaml", "bundles").code == 0
    with Path("bundles/w1/lds.json").open("a", encoding="utf-8") as stream:
        stream.write(" ")
    before = snapshot("bundles")
    two(8100)
    refused(render("two.yaml", "bundles"), "bundles/w1: lds.json changed since the bundle was rendered")
    assert snapshot("bundles") == before
    refused(render("two.yaml", "new/bundles", "--envoy-path", fake_envoy(place / "envoy", "exit 1")), "", code=5)
    assert not Path("new").exists()


def test_what_was_put_in_place_is_taken_back_where_another_cannot_be(place: Path) -> None:
    two(8000)
    assert render("two.yaml", "bundles").code == 0
    Path("bundles/w1/sds").rename("elsewhere")
    Path("bundles/w1/sds").symlink_to(place / "elsewhere")
    for name in ("identity.json", "roots.json"):
        Path("elsewhere", name).unlink()
    before = snapshot("bundles")
    two(8100)
    refused(render("two.yaml", "bundles"), "bundles/w1/sds is a symbolic link, so nothing is written through it")
    assert snapshot("bundles") == before
    assert not list(Path("bundles").rglob(".sidestep*"))


def test_more_workloads_than_files_may_be_open(place: Path) -> None:
    each = [workload(egress(listen=8000 + n), name=f"w{n}") for n in range(100)]
    documents.write(Path("many.yaml"), mesh(), *each)
    command = [sys.executable, "-m", "sidestep", "render", "many.yaml", "-o", "many", "--unsafe-skip-validation"]
    ran = subprocess.run(["sh", "-c", 'ulimit -Sn 64; exec "$@"', "sh", *command], capture_output=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert len(list(Path("many").iterdir())) == 100


def test_several_workloads_have_a_directory_each(place: Path) -> None:
    two = [workload(egress(listen=8000 + n), name=f"w{n}", machine=f"m{n}") for n in range(2)]
    same_name = workload(egress(listen=8002), name="w0", namespace="other")
    documents.write(Path("two.yaml"), mesh(), *two, same_name)
    assert render("two.yaml", "bundles").code == 0
    assert {path.name for path in Path("bundles").iterdir()} == {"w0.vms", "w0.other", "w1"}
    assert render("two.yaml", "one", "--workload", "w1").code == 0
    assert set(snapshot("one")) == FILES
    assert render("two.yaml", "chosen", "--workload", "other/w0").code == 0
    assert json.loads(Path("chosen/manifest.json").read_bytes())["workload"] == {"name": "w0", "namespace": "other"}


def test_no_workload_at_all(place: Path) -> None:
    documents.write(Path("mesh.yaml"), mesh())
    assert "ok: 1 mesh, 1 service, 0 workloads" in run("validate", "mesh.yaml").out
    said = "documents: there is no workload among them (allowed: a document of kind Workload)"
    assert render("mesh.yaml") == Ran(3, "", f"error: {said}\n")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("nobody", "there is no such workload (found nobody; allowed: vms/billing)"),
        ("other/billing", "there is no such workload (found other/billing; allowed: vms/billing)"),
    ],
)
def test_a_workload_that_is_not_there(name: str, said: str, place: Path) -> None:
    answer = render("spec.yaml", "bundle", "--workload", name)
    assert (answer.code, answer.err) == (3, f"error: --workload: {said}\n")
    assert not Path("bundle").exists()


def test_what_envoy_validates_is_what_is_written(place: Path) -> None:
    seen: dict[str, bytes] = {}

    def look(directory: Path, bootstrap: str) -> None:
        seen.update({name: (directory / name).read_bytes() for name in [*FILES, bootstrap]})
        accepted()(directory, bootstrap)

    bundle_of("more.yaml").install(Path("bundle"), validate=look)
    static = json.loads(seen.pop(onboard.VALIDATION))["static_resources"]
    assert seen == content("bundle")
    for name, kind in (("cds.json", "clusters"), ("lds.json", "listeners")):
        resources = [{key: value for key, value in each.items() if key != "@type"} for each in resources_in(name)]
        assert static[kind] == resources


def resources_in(name: str) -> list[dict[str, Any]]:
    resources: list[dict[str, Any]] = json.loads(Path("bundle", name).read_bytes())["resources"]
    assert len(resources) == 2
    assert REVIEWS in str(resources)
    return resources

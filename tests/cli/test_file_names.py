"""Names of files that cannot be read are the user's, or the system's, and never a bug."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import documents
from tests.commands import run

LONG = "a" * 300


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["ca", "issue", LONG, "certs", "--id", "spiffe://cluster.local/ns/vms/sa/billing"], 7),
        (["ca", "issue", "ca", "--bundle", LONG], 7),
        (["ca", "init", LONG], 6),
        (["env", LONG], 3),
        (["exec", LONG, "--", "true"], 6),
        (["hosts", LONG], 6),
        (["hosts", "bundle", "--install", "--file", LONG], 6),
        (["dns", LONG], 6),
        (["validate", LONG], 3),
        (["render", "spec.yaml", "-o", LONG, "--unsafe-skip-validation"], 6),
        (["render", "spec.yaml", "-o", "other", "--envoy-path", LONG], 4),
        (["transcode", "inspect", LONG], 3),
        (["transcode", "reflect", "spec.yaml", "--host", "ledger", "--bundle", LONG, "-o", "ledger.pb"], 6),
    ],
    ids=lambda each: " ".join(each).replace(LONG, "LONG") if isinstance(each, list) else None,
)
def test_a_name_that_the_system_refuses_is_no_bug(
    arguments: list[str], code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Too long here; so it is with a directory that one may not look into."""
    monkeypatch.chdir(tmp_path)
    ledger = documents.service(documents.LEDGER, (50051, "GRPC"))
    documents.write(Path("spec.yaml"), documents.mesh(ledger), documents.workload(documents.egress("ledger")))
    assert run("render", "spec.yaml", "-o", "bundle", "--unsafe-skip-validation").code == 0
    assert run("ca", "init", "ca").code == 0
    ran = run(*arguments)
    assert (ran.code, ran.out) == (code, "")
    assert LONG in ran.err


def test_what_cannot_be_read_is_not_said_to_be_unwritten(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").mkdir()
    ran = run("hosts", tmp_path)
    assert (ran.code, ran.err) == (6, f"error: {tmp_path}/manifest.json: cannot be read: it is no regular file\n")


def test_a_choice_that_would_be_without_effect_is_refused(tmp_path: Path) -> None:
    documents.write(tmp_path / "spec.yaml", documents.mesh(), documents.workload())
    assert run("render", tmp_path / "spec.yaml", "-o", tmp_path / "bundle", "--unsafe-skip-validation").code == 0
    ran = run("env", tmp_path / "bundle", "--workload", "billing")
    assert (ran.code, ran.out) == (2, "")
    assert "--workload chooses among FILEs" in ran.err

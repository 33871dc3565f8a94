"""Passwords for a forwarder's proxy: what Envoy can check, and no more; no error shows a hash."""

from __future__ import annotations

import stat
from typing import TYPE_CHECKING

import pytest

from sidestep.onboard import bundles, load
from sidestep.spec.htpasswd import MOST, normal
from tests import documents
from tests.commands import run
from tests.envoys import accepted

if TYPE_CHECKING:
    from pathlib import Path

ADA = "ada:{SHA}CNuFNtqnUctq2NEQEiz9eAdUNS4="
HASH = "CNuFNtqnUctq2NEQEiz9eAdUNS4="


def test_comments_and_empty_lines_are_left_out() -> None:
    assert normal(f"# who\r\n\r\n{ADA}\r\neve:{{SHA}}{HASH}\n\n".encode()) == f"{ADA}\neve:{{SHA}}{HASH}\n".encode()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", "the file names no user"),
        ("# nobody\n", "the file names no user"),
        ("ada", "line 1: not NAME:{SHA}HASH"),
        (":{SHA}" + HASH, "line 1: not NAME:{SHA}HASH"),
        ("a b:{SHA}" + HASH, "line 1: not NAME:{SHA}HASH"),
        (f"{ADA}\n{ADA}", "line 2: the user ada is already listed"),
        ("ada:countess", "line 1: the password of ada is no {SHA} hash"),
        (ADA[:-1], "line 1: the password of ada is no {SHA} hash"),
        (ADA + "x", "line 1: the password of ada is no {SHA} hash"),
        ("ada:{SSHA}" + HASH, "line 1: the password of ada is no {SHA} hash"),
        ("ada:$2y$05$Xc", "line 1: the password of ada is hashed by bcrypt, which Envoy cannot read"),
        ("ada:$apr1$Xc$Yd", "line 1: the password of ada is hashed by MD5, which Envoy cannot read"),
        ("ada:{SHA}é", "the file holds other characters than ASCII"),
        ("#" * (MOST + 1), "the file is too large"),
    ],
)
def test_says_what_is_wrong(content: str, says: str) -> None:
    with pytest.raises(ValueError) as problem:  # noqa: PT011 (the whole text is compared)
        normal(content.encode())
    assert str(problem.value) == says


def spec(directory: Path, users: str) -> str:
    (directory / "clients.htpasswd").write_text(users, encoding="utf-8")
    clients = {"cidrs": ["192.0.2.0/24"], "credentials": "clients.htpasswd"}
    forwarder = documents.workload(profile="forwarder", proxy={}, clients=clients)
    return documents.write(directory / "spec.yaml", documents.mesh(), forwarder)


def test_a_bad_file_is_a_problem_of_the_document(tmp_path: Path) -> None:
    answer = run("validate", spec(tmp_path, "ada:countess\n"))
    assert answer.code == 3
    assert "spec.clients.credentials" in answer.err
    assert "line 1: the password of ada is no {SHA} hash" in answer.err
    assert "countess" not in answer.err


def test_only_the_owner_may_read_them_in_the_bundle(tmp_path: Path) -> None:
    [bundle] = bundles(load([spec(tmp_path, ADA)]))
    bundle.install(tmp_path / "bundle", validate=accepted())
    file = tmp_path / "bundle" / "clients.htpasswd"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert HASH.encode() in file.read_bytes()
    others = [path for path in (tmp_path / "bundle").rglob("*.json") if HASH.encode() in path.read_bytes()]
    assert others == []
    again = bundle.install(tmp_path / "bundle", validate=accepted())
    assert again.state == "unchanged"


def test_a_forwarder_for_everybody_gets_a_warning(tmp_path: Path) -> None:
    clients = {"unsafeAnyAddress": True}
    forwarder = documents.workload(documents.egress(listen="0.0.0.0:9080"), profile="forwarder", clients=clients)
    answer = run("validate", documents.write(tmp_path / "spec.yaml", documents.mesh(), forwarder))
    assert answer.code == 0
    assert (
        "billing: whoever reaches the forwarder calls the mesh as spiffe://cluster.local/ns/vms/sa/billing"
        in answer.err
    )
    named = documents.workload(
        documents.egress(listen="0.0.0.0:9080"), profile="forwarder", clients={"cidrs": ["192.0.2.0/24"]}
    )
    assert run("validate", documents.write(tmp_path / "spec.yaml", documents.mesh(), named)).err == ""

"""What is wrong is said: where, what was found, what is allowed, all of it at once, and never with a traceback."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from sidestep.pki.authority import Authority
from sidestep.pki.identity import issue
from sidestep.pki.spiffe import SpiffeId
from tests import documents
from tests.commands import Ran, run
from tests.spec import texts
from tests.spec.texts import BOTH, mesh, workload

BAD_INPUTS: dict[str, Any] = {
    case: value
    for file in sorted(Path(__file__).parent.glob("bad_inputs*.yaml"))
    for case, value in yaml.safe_load(file.read_bytes()).items()
}


def text_of(case: Any) -> str:
    if "file" in case:
        return str(case["file"])
    changed = texts.replaced(texts.MESH, *case["mesh"]) if "mesh" in case else texts.MESH
    return f"{changed}---\n" + (
        texts.replaced(texts.WORKLOAD, *case["workload"]) if "workload" in case else texts.WORKLOAD
    )


@pytest.mark.parametrize("case", BAD_INPUTS)
def test_says_all_that_is_wrong(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("spec.yaml").write_text(text_of(BAD_INPUTS[case]), encoding="utf-8")
    expected = BAD_INPUTS[case]["says"].strip().replace("FILE", "spec.yaml")
    for command in (["validate"], ["render", "-o", "bundle"]):
        assert run(*command, "spec.yaml") == Ran(3, "", f"error: {expected}\n")
    assert not Path("bundle").exists()


@pytest.mark.parametrize("case", BAD_INPUTS)
def test_says_it_to_programs(case: str) -> None:
    answer = run("validate", "-o", "json", "-", stdin=text_of(BAD_INPUTS[case]).encode())
    assert (answer.code, answer.err, answer.json["ok"]) == (3, "", False)
    error = answer.json["error"]
    assert error["exit_code"] == 3
    assert error["message"] == BAD_INPUTS[case]["says"].strip().replace("FILE", "<stdin>")
    assert len(error["problems"]) == len(error["message"].splitlines())
    for problem, line in zip(error["problems"], error["message"].splitlines(), strict=True):
        assert set(problem) == {"file", "line", "column", "field", "found", "allowed", "message"}
        place = f"{problem['file']}:{problem['line']}:{problem['column']}: " if problem["line"] else "<stdin>: "
        assert line.startswith(place)
        for part in ("field", "message", "found", "allowed"):
            assert problem[part] in line


def test_the_sound_documents_are_sound() -> None:
    answer = run("validate", "-", stdin=BOTH.encode())
    assert (answer.code, answer.err) == (0, "")


def one_problem(content: bytes) -> str:
    """The only line that is said of a file."""
    answer = run("validate", "-", stdin=content)
    assert (answer.code, answer.out, answer.err.count("\n")) == (3, "", 1)
    return answer.err.removeprefix("error: <stdin>").rstrip()


def bomb(levels: int) -> str:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, levels)]
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (bytes(range(128, 256)), ": the file is not text (found byte 0x80 at offset 0; allowed: UTF-8 text)"),
        (BOTH.encode("utf-16"), ": the file is not text (found byte 0xff at offset 0; allowed: UTF-8 text)"),
        (BOTH.encode() + b"# \xe9", f": the file is not text (found byte 0xe9 at offset {len(BOTH) + 2}"),
        (b"\x7fELF\x02\x01\x01\0\0", ":1:1: not valid YAML (found control character \\x7f"),
        (b"x" * 50_000_000, ": the file is too large (found more; allowed: at most 33,554,432 bytes)"),
        (b"[" * 100_000, ":1:33: nested too deeply (found more than 32 levels; allowed: 32 levels)"),
        (b"a: {" * 100_000, ":1:128: nested too deeply (found more than 32 levels"),
        (b"- " * 100_000, ":1:65: nested too deeply (found more than 32 levels"),
        (bomb(12).encode(), ": aliases expand to too much (found over 100,000 values; allowed: fewer aliases)"),
        (b"a: '" + b"x" * 1_000_000, "not valid YAML: while scanning a quoted scalar found unexpected end of stream"),
        (b"x" * 1_000_000, ':1:1: not a document of ours (found "xxxxxxxxxxxxx'),
        (
            b"\xef\xbb\xbf" + BOTH.replace("Mesh", "Mash").encode(),
            ':2:7: kind: unknown kind, did you mean Mesh? (found "Mash"',
        ),
        (
            BOTH.replace("Mesh", "Mash").replace("\n", "\r\n").encode(),
            ':2:7: kind: unknown kind, did you mean Mesh? (found "Mash"',
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_files_that_are_no_text_to_read(content: bytes, said: str) -> None:
    line = one_problem(content)
    assert said in line
    assert len(line) < 300


def test_a_file_of_50_mb_is_given_up(tmp_path: Path) -> None:
    with (tmp_path / "spec.yaml").open("wb") as stream:
        stream.truncate(50_000_000)
    answer = run("validate", tmp_path / "spec.yaml")
    found = "the file is too large (found more; allowed: at most 33,554,432 bytes)"
    assert answer == Ran(3, "", f"error: {tmp_path}/spec.yaml: {found}\n")


def test_a_file_that_never_ends_is_given_up() -> None:
    assert "the file is too large" in run("validate", "/dev/zero").err


@pytest.mark.parametrize(
    ("name", "reason"),
    [("missing.yaml", "No such file or directory"), (".", "Is a directory"), ("a" * 300, "File name too long")],
)
def test_files_that_cannot_be_opened(name: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    answer = run("validate", name)
    assert answer.code == 3
    assert answer.err.endswith(f": cannot be read: {reason} (allowed: a readable file)\n")


def test_a_pipe_is_read_as_a_file_is(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    with os.fdopen(writing, "wb") as stream:
        stream.write(BOTH.encode())
    try:
        assert run("validate", f"/dev/fd/{reading}").code == 0
    finally:
        os.close(reading)


def test_every_file_is_reported_on(tmp_path: Path) -> None:
    documents.write(tmp_path / "mesh.yaml", documents.mesh(documents.service(protocol="X")))
    documents.write(tmp_path / "workload.yaml", documents.workload(name="B"))
    answer = run("validate", tmp_path / "mesh.yaml", tmp_path / "missing.yaml", tmp_path / "workload.yaml")
    files = [line.removeprefix("error: ").partition(":")[0] for line in answer.err.splitlines()]
    assert files == [f"{tmp_path}/{name}.yaml" for name in ("mesh", "missing", "workload")]


def test_a_name_of_two_lines_is_shown_on_one(tmp_path: Path) -> None:
    file = tmp_path / "a\nb.yaml"
    file.write_text(BOTH.replace("Mesh", "Mash"), encoding="utf-8")
    assert run("validate", file).err == (
        f"error: {tmp_path}/a\\nb.yaml:2:7: kind: unknown kind, did you mean Mesh? "
        '(found "Mash"; allowed: Mesh, Workload)\n'
    )
    assert run("validate", tmp_path / "no\nwhere").err.startswith(f"error: {tmp_path}/no\\nwhere: cannot be read")


def test_a_name_that_is_no_unicode_is_shown_as_it_can_be(tmp_path: Path) -> None:
    name = os.fsdecode(os.fsencode(tmp_path) + b"/\xff.yaml")
    Path(name).write_text(BOTH.replace("Mesh", "Mash"), encoding="utf-8")
    assert "\\udcff.yaml:2:7: kind: unknown kind" in run("validate", name).err
    assert run("validate", "-o", "json", name).json["error"]["problems"][0]["file"] == name


@pytest.mark.parametrize(
    ("written", "listens_on"),
    [("010", 10), ("0x10", 16), ("0o10", 8), ("+80", 80)],
)
def test_numbers_are_those_of_yaml_1_2(written: str, listens_on: int) -> None:
    answer = run("validate", "-o", "json", "-", stdin=mesh("9080", written).encode())
    assert [each["port"] for each in answer.json["workloads"][0]["egress"]] == [listens_on]


def test_yes_and_no_are_words() -> None:
    answer = run("validate", "-o", "json", "-", stdin=workload("billing, namespace: vms", "on, namespace: no").encode())
    assert [(each["name"], each["namespace"]) for each in answer.json["workloads"]] == [("on", "no")]


def test_anchors_may_be_used() -> None:
    shared = mesh("[{number: 9080, protocol: HTTP}]", "&ports [{number: 9080, protocol: HTTP}]") + (
        "---\n" + mesh("prod", "dev").partition("---")[0]
    )
    two = mesh(
        "    serviceAccounts: [reviews]\n",
        "    serviceAccounts: &names [reviews]\n"
        "  - {host: ratings.bookinfo.svc.cluster.local, ports: [{number: 1, protocol: TCP}],"
        " serviceAccounts: *names}\n",
    )
    assert run("validate", "-", stdin=two.encode()).code == 0
    assert "say which" in run("validate", "-", stdin=shared.encode()).err


ROOT_NAME = "spiffe://cluster.local/ns/vms/sa/billing"


def roots(kind: str) -> bytes:
    """Content of a roots file that is wrong in one way."""
    now = datetime.now(UTC)
    sound = Authority.new_root(now)
    identity = issue(sound, SpiffeId.parse(ROOT_NAME), now)
    return {
        "not PEM": b"hello\n",
        "empty": b"",
        "expired": Authority.new_root(now - timedelta(days=4000)).files()["root-cert.pem"],
        "not yet valid": Authority.new_root(now + timedelta(days=2)).files()["root-cert.pem"],
        "a leaf": identity.chain,
        "with a private key": sound.files()["root-cert.pem"] + identity.key,
        "damaged": sound.files()["root-cert.pem"].replace(b"MII", b"AAA"),
        "sound": sound.files()["root-cert.pem"],
    }[kind]


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("not PEM", "found no certificate; allowed: certificates in PEM"),
        ("empty", "found nothing; allowed: certificates in PEM"),
        ("expired", "expired at "),
        ("not yet valid", "is not valid before "),
        ("a leaf", "is not a CA"),
        ("with a private key", "holds a private key"),
        ("damaged", "damaged"),
    ],
)
def test_roots_that_would_not_do(kind: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "roots.pem").write_bytes(roots(kind))
    (tmp_path / "spec.yaml").write_text(mesh("  gateways:", "  roots: roots.pem\n  gateways:"), encoding="utf-8")
    answer = run("validate", tmp_path / "spec.yaml")
    assert answer.code == 3
    assert answer.err.startswith(f"error: {tmp_path}/spec.yaml:5:10: spec.roots: {tmp_path}/roots.pem: ")
    assert said in answer.err
    assert "PRIVATE KEY" not in answer.err


def test_roots_are_found_beside_the_document(tmp_path: Path) -> None:
    (tmp_path / "roots.pem").write_bytes(roots("sound"))
    (tmp_path / "spec.yaml").write_text(mesh("  gateways:", "  roots: roots.pem\n  gateways:"), encoding="utf-8")
    assert run("validate", tmp_path / "spec.yaml").code == 0

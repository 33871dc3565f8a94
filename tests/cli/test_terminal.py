"""How commands end: errors for people and for programs, closed pipes, bugs of ours."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import sidestep
from sidestep.cli.terminal import EXIT_CODES, Terminal, start_command
from tests import commands, documents

CHILD = os.environ | {"PYTHONPATH": str(Path(sidestep.__file__).parents[1])}
COMMAND = [sys.executable, "-m", "sidestep"]
FULL = Path("/dev/full")
needs_full = pytest.mark.skipif(not FULL.exists(), reason="macOS has no device that is always full")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["validate", "-o", "json"], "Missing argument"),
        (["validate", "--nope", "-o", "json"], "No such option"),
        (["validate", "--nope", "-ojson"], "No such option"),
        (["validate", "--format=json", "--nope"], "No such option"),
        (["render", "--format", "json"], "Missing argument"),
        (["lab", "--scenario", "nope", "-o", "json"], "'nope' is none of"),
        (["ca", "issue", "-o", "json", "ca"], "Give either"),
    ],
)
def test_wrong_arguments_are_json_for_programs(arguments: list[str], message: str) -> None:
    ran = commands.run(*arguments)
    assert (ran.code, ran.err) == (2, "")
    assert ran.json["ok"] is False
    error = ran.json["error"]
    assert message in error["message"]
    assert error["hint"].startswith("Usage: sidestep")
    assert (error["exit_code"], error["problems"]) == (2, [])


@pytest.mark.parametrize("arguments", [["validate", "--nope"], ["render", "-o", "json", "--nope"], ["nope"], ["-x"]])
def test_wrong_arguments_are_text_for_people(arguments: list[str]) -> None:
    ran = commands.run(*arguments)
    assert (ran.code, ran.out) == (2, "")
    assert "Error: No such" in ran.err


def bug(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> commands.Ran:
    def broken(_files: object) -> None:
        raise ZeroDivisionError("oops")

    monkeypatch.setattr("sidestep.onboard.load", broken)
    return commands.run("validate", "x.yaml", *arguments)


def test_a_bug_is_one_line_and_a_log(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    ran = bug(monkeypatch)
    assert (ran.code, ran.err.count("\n")) == (70, 1)
    [log] = tmp_path.iterdir()
    assert f"(ZeroDivisionError); the details are in {log}" in ran.err
    assert "Traceback" in log.read_text()
    assert log.stat().st_mode & 0o077 == 0


def test_a_bug_is_told_where_no_log_can_be_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "absent"))
    ran = bug(monkeypatch)
    assert ran.code == 70
    assert "Traceback" in ran.err
    assert ran.err.endswith("error: this is a bug of ours (ZeroDivisionError)\n")


def test_a_bug_is_json_for_programs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    ran = bug(monkeypatch, "-o", "json")
    assert (ran.code, ran.err, ran.json["error"]["exit_code"]) == (70, "", 70)


@pytest.mark.parametrize("arguments", [["schema"], ["--help"], ["lab", "--list"]])
def test_a_closed_pipe_is_silent(arguments: list[str]) -> None:
    """The reader is gone before anything is written."""
    reading, writing = os.pipe()
    os.close(reading)
    try:
        ran = subprocess.run(COMMAND + arguments, env=CHILD, stdout=writing, stderr=subprocess.PIPE, check=False)
    finally:
        os.close(writing)
    assert (ran.returncode, ran.stderr) == (141, b"")


def test_what_the_terminal_cannot_show_is_escaped() -> None:
    environment = CHILD | {"PYTHONIOENCODING": "latin-1"}
    ran = subprocess.run([*COMMAND, "validate", "--help"], env=environment, capture_output=True, check=True)
    assert rb"FILE\u2026" in ran.stdout


def test_no_color_is_honoured(monkeypatch: pytest.MonkeyPatch) -> None:
    for value, color in (("1", False), ("", None)):
        monkeypatch.setenv("NO_COLOR", value)
        assert Terminal().color is color


def test_every_exit_code_is_documented() -> None:
    said = commands.run("--help").out
    assert [int(code) for code in re.findall(r"^ +(\d+)  ", said, re.MULTILINE)] == [*EXIT_CODES]


@needs_full
@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize(
    "arguments",
    [
        ["validate", "spec.yaml"],
        ["validate", "spec.yaml", "-o", "json"],
        ["validate", "missing.yaml", "-o", "json"],
        ["schema"],
        ["--version"],
        ["--help"],
        ["render", "--help"],
    ],
    ids=" ".join,
)
def test_a_full_disk_under_standard_output_is_no_bug(arguments: list[str], unbuffered: str, tmp_path: Path) -> None:
    documents.write(tmp_path / "spec.yaml", documents.mesh(), documents.workload(documents.egress()))
    environment = {**CHILD, "PYTHONUNBUFFERED": unbuffered}
    with FULL.open("wb") as full:
        ran = subprocess.run(
            [*COMMAND, *arguments], stdout=full, stderr=subprocess.PIPE, cwd=tmp_path, env=environment, check=False
        )
    assert (ran.returncode, ran.stderr) == (6, b"error: standard output cannot be written: No space left on device\n")


@needs_full
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_full_disk_under_standard_error_leaves_the_exit_code(unbuffered: str, tmp_path: Path) -> None:
    environment = {**CHILD, "PYTHONUNBUFFERED": unbuffered}
    for arguments, code in ((["validate", "missing.yaml"], 3), (["validate", "--nonsense"], 2)):
        with FULL.open("wb") as full:
            ran = subprocess.run(
                [*COMMAND, *arguments], stdout=subprocess.PIPE, stderr=full, cwd=tmp_path, env=environment, check=False
            )
        assert (ran.returncode, ran.stdout) == (code, b"")


def test_standard_input_that_is_closed_is_no_bug(tmp_path: Path) -> None:
    command = ["sh", "-c", 'exec "$@" <&-', "sh", *COMMAND, "validate", "-"]
    ran = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=CHILD, check=False)
    assert (ran.returncode, ran.stdout) == (3, "")
    assert "-: cannot be read: it is closed" in ran.stderr


def test_a_bug_with_a_text_that_is_no_unicode_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    def failing(_files: object) -> None:
        raise RuntimeError("\ud800")

    monkeypatch.setattr("sidestep.onboard.load", failing)
    ran = commands.run("validate", "x.yaml")
    assert ran.code == 70
    [log] = tmp_path.iterdir()
    assert "RuntimeError: \\ud800" in log.read_text(encoding="utf-8")


def test_a_working_directory_that_is_gone_is_no_bug(tmp_path: Path) -> None:
    script = 'cd gone && rmdir ../gone && exec "$@"'
    (tmp_path / "gone").mkdir()
    command = ["sh", "-c", script, "sh", *COMMAND, "validate", "x.yaml"]
    ran = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=CHILD, check=False)
    assert (ran.returncode, ran.stdout) == (6, "")
    assert "error: the working directory is gone\nhint: Change to one that is there.\n" in ran.stderr


@pytest.mark.parametrize("name", ["plain", "with space", "$(id)", "a'b", "-dash", "- dash", "/abs"])
def test_the_command_that_starts_an_envoy_can_be_copied(name: str, tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    envoy = tmp_path / "bin" / "envoy"
    envoy.write_text("#!/bin/sh\npwd\n", encoding="utf-8")
    envoy.chmod(0o755)
    bundle = Path(f"{tmp_path}{name}" if name == "/abs" else name)
    (tmp_path / bundle).mkdir()
    path = f"{envoy.parent}{os.pathsep}{os.environ['PATH']}"
    ran = subprocess.run(
        ["sh", "-c", start_command(bundle)],
        cwd=tmp_path,
        env={"PATH": path},
        capture_output=True,
        text=True,
        check=True,
    )
    assert ran.stdout == f"{tmp_path / bundle}\n"

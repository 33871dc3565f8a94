"""The command line itself: help, exit codes, colours, completion, JSON, what it imports."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import jsonschema
import pytest
import yaml

from sidestep import __version__, errors
from sidestep.cli.commands import COMMANDS, sidestep
from sidestep.cli.terminal import EXIT_CODES
from tests import documents
from tests.commands import Ran, run
from tests.compile import cases
from tests.documents import egress, mesh, workload
from tests.spec.texts import BOTH

if TYPE_CHECKING:
    from collections.abc import Iterator


def every_command(group: click.Group, *path: str) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """All commands, each with the words that lead to it."""
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        yield (*path, name), command
        if isinstance(command, click.Group):
            yield from every_command(command, *path, name)


EVERY_COMMAND = dict(every_command(sidestep))
each_command = pytest.mark.parametrize("path", EVERY_COMMAND, ids=" ".join)


def process(*arguments: str, stdin: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own."""
    command = [sys.executable, "-m", "sidestep", *arguments]
    return subprocess.run(
        command, input=stdin, capture_output=True, text=True, env={**os.environ, **environment}, check=False
    )


@each_command
@pytest.mark.parametrize("option", ["--help", "-h"])
def test_help(path: tuple[str, ...], option: str) -> None:
    answer = run(*path, option)
    assert (answer.code, answer.err) == (0, "")
    assert answer.out.startswith(f"Usage: sidestep {' '.join(path)} ")
    assert "\n  Examples:\n" in answer.out
    assert max(len(line) for line in answer.out.splitlines()) <= 110


@each_command
def test_examples_can_be_typed(path: tuple[str, ...]) -> None:
    """Every option of an example is there; arguments are what they are."""
    lines = [line.strip() for line in (EVERY_COMMAND[path].help or "").partition("Examples:")[2].splitlines()]
    examples = [line for line in lines if line.startswith("sidestep ")]
    assert examples or "$(sidestep" in "".join(lines)
    for example in examples:
        words = shlex.split(example, comments=True)
        shown = words[1 : words.index(">") if ">" in words else None]
        at = max((found for found in EVERY_COMMAND if tuple(shown[: len(found)]) == found), key=len)
        command = EVERY_COMMAND[at]
        # click keeps the help option that it makes first, with the names that the parent's settings give it
        context = click.Context(command, parent=click.Context(sidestep, **sidestep.context_settings))
        command.make_parser(context).parse_args(shown[len(at) :])


def test_the_list_of_commands_is_that_of_the_commands() -> None:
    """The group knows names and summaries without importing the commands: they must be the same."""
    assert {name: EVERY_COMMAND[name,].get_short_help_str(200) for name in COMMANDS} == dict(COMMANDS)
    assert run("--help").code == 0
    for summary in COMMANDS.values():
        assert summary.split()[0] in run("--help").out


def test_version() -> None:
    assert run("--version") == Ran(0, f"sidestep {__version__}\n", "")


def every_error(error: type[errors.SidestepError]) -> Iterator[type[errors.SidestepError]]:
    yield error
    for derived in error.__subclasses__():
        yield from every_error(derived)


def test_exit_codes_are_those_that_are_documented() -> None:
    raised = {error.exit_code for error in every_error(errors.SidestepError)}
    assert set(EXIT_CODES) == raised | {0, 2, 70, 130, 141, 143}
    text = run("--help").out
    for code, meaning in EXIT_CODES.items():
        assert f"{code:>3}  {meaning}" in text
    for error in every_error(errors.SidestepError):
        line = next(line for line in (errors.__doc__ or "").splitlines() if f" {error.__name__} " in line)
        assert str(error.exit_code) in line or error is errors.SidestepError


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nothing"], "No such command 'nothing'"),
        (["validate"], "Missing argument 'FILE…'"),
        (["validate", "--nothing", "x"], "No such option"),
        (["validate", "-o", "yaml", "x"], "'yaml' is not one of"),
        (["render", "x"], "Missing option '-o'"),
        (["render", "x", "-o", ""], "the name is empty (the working directory is .)"),
        *((arguments, "the name is empty") for arguments in (["ca", "init", ""], ["validate", ""], ["env", ""])),
        (["render", "x", "-o", "y", "--envoy-path", ""], "the name is empty"),
        (["completion", "csh"], "'csh' is not one of"),
        (["schema", "more"], "unexpected extra argument"),
    ],
)
def test_wrong_arguments(arguments: list[str], said: str) -> None:
    answer = run(*arguments)
    assert (answer.code, answer.out) == (2, "")
    assert said in answer.err
    assert "Usage: sidestep" in answer.err


def test_a_bug_of_ours_is_one_line_and_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sidestep.onboard.load", lambda _files: 1 // 0)
    answer = run("validate", "-")
    assert (answer.code, answer.out) == (70, "")
    assert answer.err.startswith("error: this is a bug of ours (ZeroDivisionError); the details are in ")
    log = Path(answer.err.split()[-1])
    assert "Traceback" in log.read_text(encoding="utf-8")
    log.unlink()


@pytest.mark.parametrize("code", [0, 1])
def test_what_a_command_answers_is_the_exit_code(code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sidestep.onboard.load", lambda _files: click.get_current_context().exit(code))
    assert run("validate", "-") == Ran(code, "", "")


@pytest.mark.parametrize("interrupt", [KeyboardInterrupt, click.Abort])
def test_an_interrupt(interrupt: type[BaseException], monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(_files: object) -> None:
        raise interrupt

    monkeypatch.setattr("sidestep.onboard.load", interrupted)
    answer = run("validate", "-")
    assert (answer.code, answer.out, answer.err.strip()) == (130, "", "interrupted")


def in_a_terminal(*arguments: str, **environment: str) -> str:
    """What a command shows in a terminal that has colours."""
    ours, theirs = os.openpty()
    settings = {name: value for name, value in os.environ.items() if name not in {"NO_COLOR", "FORCE_COLOR"}}
    command = [sys.executable, "-m", "sidestep", *arguments]
    subprocess.run(
        command,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env={**settings, "TERM": "xterm", **environment},
        check=False,
    )
    os.close(theirs)
    shown = b""
    try:
        while part := os.read(ours, 65536):
            shown += part
    except OSError:  # the other end is closed, and all has been read
        pass
    finally:
        os.close(ours)
    return shown.decode()


def test_colours_are_for_terminals_that_want_them(tmp_path: Path) -> None:
    spec = documents.write(tmp_path / "spec.yaml", mesh(), workload(egress(listen="0.0.0.0:80")))
    assert "\x1b[1m" in in_a_terminal("validate", spec)
    assert "\x1b[33mwarning:" in in_a_terminal("validate", spec)
    assert "\x1b[31merror:" in in_a_terminal("validate", "missing")
    for shown in (
        in_a_terminal("--no-color", "validate", spec),
        in_a_terminal("--no-color", "validate", "missing"),
        in_a_terminal("validate", spec, NO_COLOR="1"),
        in_a_terminal("validate", "missing", NO_COLOR="1"),
        process("validate", spec).stdout,
        process("validate", "missing").stderr,
    ):
        assert shown
        assert "\x1b" not in shown


@pytest.fixture
def on_path(tmp_path: Path) -> dict[str, str]:
    """An environment in which ``sidestep`` is a command."""
    script = tmp_path / "sidestep"
    script.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m sidestep "$@"\n', encoding="utf-8")
    script.chmod(0o755)
    return {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("re", ["render"]),
        ("", list(COMMANDS)),
        ("render --wor", ["--workload"]),
        ("completion ", ["bash", "zsh", "fish"]),
        ("validate -o j", ["json"]),
        ("ca i", ["init", "issue"]),
    ],
)
def test_bash_completes(typed: str, offered: list[str], on_path: dict[str, str]) -> None:
    program = (
        'eval "$(sidestep completion bash)"; complete -p sidestep >&2; '
        'COMP_WORDS=(sidestep "$@"); COMP_CWORD=$#; _sidestep_completion sidestep; printf "%s\\n" "${COMPREPLY[@]}"'
    )
    words = typed.split(" ")
    command = ["bash", "--norc", "-c", program, "bash", *words]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **on_path}, check=True)
    assert "_sidestep_completion sidestep" in done.stderr
    assert done.stdout.split() == offered


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_are_offered_the_same(shell: str) -> None:
    """Their scripts ask in this way."""
    assert f"_SIDESTEP_COMPLETE={shell}_complete" in run("completion", shell).out
    typed = {"COMP_WORDS": "sidestep re", "COMP_CWORD": "1" if shell == "zsh" else "re"}
    done = process(_SIDESTEP_COMPLETE=f"{shell}_complete", **typed)
    assert "render" in done.stdout
    assert "validate" not in done.stdout


EXPOSED = (
    "billing: whoever reaches 0.0.0.0:80 calls reviews.bookinfo.svc.cluster.local "
    "as spiffe://cluster.local/ns/vms/sa/billing"
)


def test_answers_of_programs_are_json(tmp_path: Path) -> None:
    spec = documents.write(tmp_path / "spec.yaml", mesh(), workload(egress(listen="0.0.0.0:80")))
    answer = run("validate", "-o", "json", spec)
    assert answer.err == "warning: " + answer.json["warnings"][0] + "\n"
    assert answer.json == {
        "ok": True,
        "warnings": [EXPOSED],
        "workloads": [
            {
                "name": "billing",
                "namespace": "vms",
                "identity": "spiffe://cluster.local/ns/vms/sa/billing",
                "mesh": "prod",
                "egress": [
                    {
                        "listen": "0.0.0.0:80",
                        "host": "reviews.bookinfo.svc.cluster.local",
                        "port": 9080,
                        "protocol": "HTTP",
                    }
                ],
                "ingress": [],
            }
        ],
    }
    for command in (
        ["lab", "--list", "-o", "json"],
        ["render", spec, "-o", tmp_path / "bundle", "--format", "json"],
        ["ca", "init", tmp_path / "ca", "-o", "json"],
    ):
        assert isinstance(run(*command).json, dict)


def test_a_subset_is_told_from_the_others(tmp_path: Path) -> None:
    calls = [egress(), egress(listen="127.0.0.1:9082", subset="v2")]
    spec = documents.write(tmp_path / "spec.yaml", mesh(), workload(*calls))
    _, *rows, _, _ = run("validate", spec).out.splitlines()
    assert [row.endswith(":9080 (subset v2)  HTTP") for row in rows] == [False, False, True]
    [one] = run("validate", "-o", "json", spec).json["workloads"]
    assert [each.get("subset") for each in one["egress"]] == [None, "v2"]


def test_failures_of_programs_are_json(tmp_path: Path) -> None:
    spec = documents.write(tmp_path / "spec.yaml", mesh(), workload())
    no_envoy = run("render", spec, "-o", tmp_path / "bundle", "--format", "json", "--envoy-path", "missing")
    assert (no_envoy.code, no_envoy.json["ok"], no_envoy.json["error"]["exit_code"]) == (4, False, 4)
    foreign = run("render", spec, "-o", tmp_path, "--format", "json")
    assert (foreign.code, foreign.json["error"]["problems"]) == (6, [])
    assert "--force" in foreign.json["error"]["hint"]


SCHEMA: Any = run("schema").json
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)


def test_the_schema_is_one() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


@pytest.mark.parametrize("case", cases.NAMES)
def test_the_schema_takes_what_is_right(case: str) -> None:
    for document in yaml.safe_load_all((cases.ROOT / case / "spec.yaml").read_bytes()):
        VALIDATOR.validate(document)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("kind: Mesh", "kind: Mash"),
        ("kind: Mesh", "kind: Mesh\nstatus: {}"),
        ("sidestep/v1alpha1", "sidestep/v2"),
        ("9080", "0"),
        ("9080", "70000"),
        ("9080", "http"),
        ("HTTP", "http"),
        ("[{address: 10.0.0.1}]", "[]"),
        ("{address: 10.0.0.1}", "{address: 10.0.0.1, prot: 1}"),
        ("host: reviews.bookinfo.svc.cluster.local", "host: Reviews"),
        ("host: reviews.bookinfo.svc.cluster.local", 'host: "re\\nviews"'),
        ("name: billing", "name: ../billing"),
        ("[reviews]", "reviews"),
    ],
)
def test_the_schema_refuses_what_is_wrong(old: str, new: str) -> None:
    documents_ = yaml.safe_load_all(BOTH.replace(old, new))
    assert not all(VALIDATOR.is_valid(document) for document in documents_)


@pytest.mark.parametrize(
    ("model", "field", "value"),
    [
        ("WorkloadMetadata", "labels", {"a b": "x"}),
        ("WorkloadMetadata", "labels", {"a/b/c": "x"}),
        ("WorkloadMetadata", "labels", {"app": 1}),
        ("Clients", "unsafeAnyAddress", False),
        ("LoadBalancer", "healthPath", "/a?b"),
    ],
)
def test_the_schema_refuses_what_is_wrong_in_a_field(model: str, field: str, value: object) -> None:
    assert not VALIDATOR.evolve(schema={"$defs": SCHEMA["$defs"], **_fields(model)[field]}).is_valid(value)


def _fields(model: str) -> Any:
    return SCHEMA["$defs"][model].get("properties", {})


def test_every_field_is_described_in_the_schema() -> None:
    """In its own words, before what a value of its kind may be."""
    for name in SCHEMA["$defs"]:
        for field, schema in _fields(name).items():
            own = schema.get("description", "").partition("Allowed: ")[0].rstrip()
            # What is allowed of a value is no sentence: alone, it would not end like one.
            assert "const" in schema or "$ref" in schema or own.endswith("."), f"{name}.{field}"


def test_editors_learn_what_is_allowed() -> None:
    assert _fields("Gateway")["port"]["description"].endswith("Allowed: a whole number from 1 to 65535.")


def test_every_default_in_the_schema_is_one_that_may_be_written() -> None:
    defaults = {
        f"{name}.{field}": schema
        for name in SCHEMA["$defs"]
        for field, schema in _fields(name).items()
        if schema.get("default") is not None
    }
    assert defaults["Proxy.listen"]["default"] == "127.0.0.1:3128"
    for where, schema in defaults.items():
        assert VALIDATOR.evolve(schema={"$defs": SCHEMA["$defs"], **schema}).is_valid(schema["default"]), where


HEAVY = {"pydantic", "cryptography", "yaml", "rich", "anyio", "asyncio", "orjson", "ssl", "sidestep.onboard"}
_IMPORTED = """
import sys
from sidestep.cli import main
try:
    main(sys.argv[1:])
except SystemExit as end:
    assert not end.code, end.code
print(*sys.modules, file=sys.stderr)
"""


@pytest.mark.parametrize("arguments", [["--version"], ["--help"], ["render", "--help"], ["completion", "bash"]])
def test_imports_no_more_than_it_needs(arguments: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _IMPORTED, *arguments], capture_output=True, text=True, check=True, env=os.environ
    )
    imported = set(done.stderr.split())
    assert "click" in imported
    assert imported & HEAVY == set()


def test_roots_are_what_takes_a_crypto_library(tmp_path: Path) -> None:
    """A spec without a roots file does not pay for one."""
    spec = documents.write(tmp_path / "spec.yaml", mesh(), workload())
    command = [sys.executable, "-c", _IMPORTED, "validate", spec]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert {"yaml", "pydantic"} <= set(done.stderr.split())
    assert {"cryptography", "asyncio", "ssl"} & set(done.stderr.split()) == set()


def test_a_reader_that_goes_away_is_no_bug() -> None:
    command = f'"{sys.executable}" -m sidestep schema | true; echo "${{PIPESTATUS[0]}}"'
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("141\n", "")


@pytest.mark.parametrize("closed", ["2>&-", "<&- >&- 2>&-"])
@pytest.mark.parametrize("arguments", ["validate spec.yaml", "render spec.yaml -o bundle", "ca init ca"])
def test_nobody_has_to_watch(arguments: str, closed: str, tmp_path: Path) -> None:
    """As daemons start others: with streams that are closed."""
    (tmp_path / "spec.yaml").write_text(BOTH, encoding="utf-8")
    command = f'"{sys.executable}" -m sidestep {arguments} {closed}'
    assert subprocess.run(["bash", "-c", command], cwd=tmp_path, check=False).returncode == 0


def test_a_wrong_command_is_no_result(tmp_path: Path) -> None:
    command = f'"{sys.executable}" -m sidestep nothing 2>&-'
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252"])
def test_a_terminal_that_lacks_characters_is_no_error(encoding: str) -> None:
    command = [sys.executable, "-m", "sidestep", "render", "--help"]
    done = subprocess.run(command, capture_output=True, env={**os.environ, "PYTHONIOENCODING": encoding}, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"FILE" in done.stdout


def test_standard_input_is_a_file_like_any_other() -> None:
    assert process("validate", "-", stdin=BOTH).stdout.endswith("ok: 1 mesh, 1 service, 1 workload\n")
    assert json.loads(process("validate", "-", "-o", "json", stdin="{}").stdout)["error"]["exit_code"] == 3


def test_the_module_is_the_command() -> None:
    assert process("--version").stdout == f"sidestep {__version__}\n"

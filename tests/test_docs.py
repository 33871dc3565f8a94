"""The documents are true: what they say to type works, what they show is what comes, where they point something is."""

from __future__ import annotations

import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from random import randrange
from typing import TYPE_CHECKING, Any

import pytest
import yaml

import sidestep
from sidestep.cli.commands import COMMANDS
from sidestep.onboard import bundles, load
from sidestep.spec.documents import read
from tests import commands, documents, envoys
from tests.pages import PAGES, ROOT, Typed, anchors, blocks, links, rows, typed

if TYPE_CHECKING:
    from collections.abc import Iterator

each_page = pytest.mark.parametrize("page", PAGES)
each_page_to_type = pytest.mark.parametrize(
    "page",
    [pytest.param(page, marks=pytest.mark.xdist_group("lab")) for page in PAGES if typed(page)],
)
each_page_with_yaml = pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "yaml")])


@each_page_to_type
def test_what_a_page_says_to_type_works(page: str, desk: Desk) -> None:
    for block in blocks(page):
        if block.file:
            (desk.directory / block.file).write_text(block.text, encoding="utf-8")
    for line in typed(page):
        desk.type(line)


class Desk:
    """Where a reader sits: a directory with the examples, and a shell that knows ``sidestep`` and ``envoy``."""

    def __init__(self, directory: Path, stack: ExitStack) -> None:
        self.directory = directory
        self._stack = stack
        shutil.copytree(ROOT / "examples", directory / "examples")
        bin_ = directory / "bin"
        bin_.mkdir()
        _script(bin_ / "sidestep", f"exec {shlex.quote(sys.executable)} -m sidestep")
        _script(bin_ / "envoy", f"exec {shlex.quote(str(envoys.envoy().path))}")
        source = str(Path(sidestep.__file__).parents[1])
        self._environment = os.environ | {"PATH": f"{bin_}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": source}

    def type(self, line: Typed) -> None:
        """Does what the line says, or checks it where doing it would change this machine."""
        command = line.command
        if installs := re.fullmatch(r"pip install (?:-e )?'(?:sidestep|\.)\[(\w+)\]'", command):
            assert f"\n{installs[1]} = " in _section("project.optional-dependencies")
        elif measured := re.match(r"python (bench/\w+\.py)", command):
            assert (ROOT / measured[1]).is_file()
        elif developed := re.match(r"python3 dev\.py (\w+)", command):
            assert re.search(rf"^  {developed[1]} ", _developing(), re.MULTILINE)
        elif started := re.fullmatch(r"(?:cd (\S+) && )?envoy -c envoy\.json(.*)", command):
            self._run_envoy(self.directory / (started[1] or "."), shlex.split(started[2]))
        elif command.startswith("curl ") and not shutil.which("curl"):
            assert "--unix-socket" in command
        else:
            self._run(line)

    def _run_envoy(self, bundle: Path, arguments: list[str]) -> None:
        _move_away(bundle / "lds.json")
        running = self._stack.enter_context(envoys.running(bundle, arguments=arguments))
        assert running.is_ready()
        assert running.listeners()

    def _run(self, line: Typed) -> None:
        command = line.command
        if command.startswith("sidestep lab") and not {"--once", "--list"} & set(shlex.split(command)):
            command += " --once --scenario http1"
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", command],
            cwd=self.directory,
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        fails = bool(line.answer) and line.answer[0].startswith("error:")
        assert bool(done.returncode) == fails, done.stdout + done.stderr
        if line.answer:
            assert (done.stdout + done.stderr).strip().splitlines() == "\n".join(line.answer).strip().splitlines()


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    with ExitStack() as stack:
        yield Desk(tmp_path, stack)


def _script(path: Path, command: str) -> None:
    path.write_text(f'#!/bin/sh\n{command} "$@"\n', encoding="utf-8")
    path.chmod(0o755)


def _move_away(listeners: Path) -> None:
    """To a loopback address that nobody else on this machine has: the ports of the examples may be taken."""
    own = f"127.{randrange(1, 255)}.{randrange(256)}.{randrange(1, 255)}" if sys.platform == "linux" else "127.0.0.1"
    moved = listeners.with_name("moved.json")
    moved.write_text(listeners.read_text(encoding="utf-8").replace('"127.0.0.1"', f'"{own}"'), encoding="utf-8")
    moved.replace(listeners)


def _section(name: str) -> str:
    return (ROOT / "pyproject.toml").read_text(encoding="utf-8").partition(f"[{name}]")[2].partition("\n[")[0]


def _developing() -> str:
    command = [sys.executable, str(ROOT / "dev.py"), "--help"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@each_page_with_yaml
def test_documents_on_a_page_are_valid(page: str, tmp_path: Path) -> None:
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    for block in blocks(page, "yaml"):
        documents: list[Any] = list(yaml.safe_load_all(block.text))
        assert all(document["kind"] and document["metadata"]["name"] for document in documents)
        ours = [document["kind"] for document in documents if document["apiVersion"] == "sidestep/v1alpha1"]
        if ours:
            (tmp_path / "page.yaml").write_text(block.text, encoding="utf-8")
            meshes = [] if "Mesh" in ours else [tmp_path / "examples/mesh.yaml"]
            ran = commands.run("validate", tmp_path / "page.yaml", *meshes)
            assert (ran.code == 3) == ("invalid" in block.info), ran.err


def test_the_readme_shows_the_example() -> None:
    [shown] = blocks("README.md", "yaml")
    kept = (ROOT / "examples" / "billing.yaml").read_bytes()
    assert [document.value for document in read("", shown.text.encode())[0]] == [
        document.value for document in read("", kept)[0]
    ]


@each_page
def test_every_link_leads_somewhere(page: str) -> None:
    for target in links(page):
        if re.match(r"https?://", target):
            continue
        file, _, anchor = target.partition("#")
        path = (ROOT / page).parent / file if file else ROOT / page
        assert path.exists(), target
        if anchor:
            assert anchor in anchors(str(path.resolve().relative_to(ROOT))), target


def test_the_reference_says_what_the_code_says() -> None:
    for path, text in runpy.run_path(str(ROOT / "docs" / "generate.py"))["pages"]().items():
        assert path.read_text(encoding="utf-8") == text, f"{path.name} is out of date: python3 dev.py docs"


def test_the_reference_holds_every_command_and_kind() -> None:
    assert {f"## sidestep {name}" for name in COMMANDS} < set(PAGES["docs/cli.md"].splitlines())
    assert {"## Kind Mesh", "## Kind Workload"} < set(PAGES["docs/spec.md"].splitlines())


def test_the_figures_of_calls_are_those_of_the_code(tmp_path: Path) -> None:
    service = documents.service("ledger.pay.svc.cluster.local", (50051, "GRPC"), (9000, "TCP"))
    http, tcp = (documents.egress("ledger.pay", f"127.0.0.1:{port}", port=port) for port in (50051, 9000))
    made: list[Any] = []
    for number, gateways in enumerate(
        [[{"address": "192.0.2.1"}], [{"address": "192.0.2.1"}, {"address": "192.0.2.2"}]]
    ):
        mesh = documents.mesh(service, gateways=gateways)
        file = documents.write(tmp_path / f"{number}.yaml", mesh, documents.workload(http, tcp))
        made += [bundle.plan for bundle in bundles(load([str(file)]))]
    [over_http, _] = made[0].clusters
    [options] = over_http["typed_extension_protocol_options"].values()
    streams = options["explicit_http_config"]["http2_protocol_options"]["max_concurrent_streams"]
    age = options["common_http_protocol_options"]["max_connection_duration"]
    alone, several = (next(iter(plan.clusters))["connect_timeout"].rstrip("s") for plan in made)
    [connection] = [each["filter_chains"][0]["filters"][0] for each in made[0].listeners if "9000" in each["name"]]
    attempts = {3: "three", 5: "five"}[connection["typed_config"]["max_connect_attempts"]]
    said = PAGES["docs/bundles.md"]
    assert f"at most {streams} requests at once on a connection" in said
    assert f"take new requests for {age.rstrip('s')} s" in said
    assert f"{float(alone):g} s, or {float(several):g} s where there are several" in said
    assert f"A TCP connection is tried {attempts} times" in said


def test_the_changes_name_this_version() -> None:
    assert re.search(rf"^## {re.escape(sidestep.__version__)}\b", PAGES["CHANGELOG.md"], re.MULTILINE)


def test_every_option_of_the_lab_exists() -> None:
    offered = commands.run("lab", "--help").out
    named = [cell for row in rows("docs/lab.md", "Options") for cell in re.findall(r"`(--?\w[\w-]*)", row[0])]
    assert named
    assert [name for name in named if not re.search(rf"(?<![\w-]){name}\b", offered)] == []
    described = set(re.findall(r"(?:^|[ `])(--[a-z][a-z-]+)", PAGES["docs/lab.md"]))
    assert {name for name in described if name not in offered} == set()


def test_every_command_that_a_page_names_exists() -> None:
    for page, text in PAGES.items():
        named = set(re.findall(r"`sidestep ([a-z]+)", text))
        assert named <= set(COMMANDS), page

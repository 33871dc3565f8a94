"""What the project as a whole keeps to: nothing of one machine in it, everything pinned, sizes, names, docstrings."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

from tests.pages import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator

SOURCES: Final = sorted((ROOT / "src").rglob("*.py"))
each_source = pytest.mark.parametrize("source", SOURCES, ids=lambda source: str(source.relative_to(ROOT / "src")))
Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef

LONGEST_FUNCTION, LONGEST_FILE = 50, 400

# Written so that this file does not hold what it looks for.
_PLACES: Final = ("work", "root", "home", "Users", f"tmp{os.sep}w")
_HOSTS: Final = ("pypi", "pythonhosted", "npmjs", "ghcr", "quay", "gcr", "crates")
_MACHINE = re.compile(rf"(?<![\w.~$)*-])/(?:{'|'.join(_PLACES)})/[.\w]".encode())
_REGISTRY = re.compile(
    rf"\b(?:{'|'.join(_HOSTS)})\.(?:org|io|com|dev)\b|--(?:extra-)?index-url|--find-link[s]".encode()
)


@cache
def tracked() -> tuple[Path, ...]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("this is no git checkout")
    return tuple(path for name in listed.stdout.split("\0") if name and (path := ROOT / name).is_file())


@pytest.mark.parametrize("unwanted", [_MACHINE, _REGISTRY], ids=["machine", "registry"])
def test_no_file_knows_of_one_machine_or_where_packages_come_from(unwanted: re.Pattern[bytes]) -> None:
    found = {path.name: match[0] for path in tracked() if (match := unwanted.search(path.read_bytes()))}
    assert found == {}


@pytest.mark.parametrize(
    ("unwanted", "text"),
    [
        (_MACHINE, "see {}work/wt/src"),
        (_MACHINE, '"{}root/.cache"'),
        (_MACHINE, "cd {}tmp/w/v"),
        (_REGISTRY, "from https:{0}{0}files.pythonhosted" + ".org{0}a"),
        (_REGISTRY, "--index" + "-url x"),
    ],
)
def test_what_must_not_be_there_would_be_found(unwanted: re.Pattern[bytes], text: str) -> None:
    assert unwanted.search(text.format("/").encode())


def test_the_licence_is_there() -> None:
    assert "Apache License" in (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert _project()["project"]["license"] == "Apache-2.0"


def test_ci_can_be_run() -> None:
    assert os.access(ROOT / ".ci" / "run", os.X_OK)


@pytest.mark.parametrize("name", ["lab", "dev"])
def test_every_pin_has_hashes(name: str) -> None:
    for pin in _pins(name):
        assert re.match(r"[a-z0-9-]+==[\w.]+( ; [^\\]+)?(\s*\\\s*--hash=sha256:[0-9a-f]{64})+$", pin), pin


def test_everything_that_is_asked_for_is_pinned() -> None:
    project = _project()
    extras, groups = project["project"]["optional-dependencies"], project["dependency-groups"]
    lab = {*project["project"]["dependencies"], *extras["envoy"], *extras["lab"], *groups["build"]}
    asked = {"lab": lab, "dev": lab | {each for each in groups["dev"] if isinstance(each, str)}}
    for name, wanted in asked.items():
        pinned = {pin.partition("==")[0] for pin in _pins(name)}
        missing = {_name(each) for each in wanted} - pinned - {"sidestep"}
        assert not missing, f"requirements/{name}.txt is out of date: python3 dev.py lock"


def test_developers_have_what_the_lab_has() -> None:
    assert set(_pins("lab")) <= set(_pins("dev"))


def test_the_wheel_says_that_it_has_types(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=60)
    [wheel] = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    shipped = {str(path.relative_to(ROOT / "src")) for path in SOURCES}
    assert {"sidestep/py.typed", *shipped} <= names
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert {name.partition("/")[0].partition("-")[0] for name in names} == {"sidestep"}


@each_source
def test_what_is_public_says_what_it_is(source: Path) -> None:
    tree = _tree(source)
    public = [f"{each.name} (line {each.lineno})" for each in _public(tree) if not ast.get_docstring(each)]
    assert ast.get_docstring(tree)
    assert public == []


@each_source
def test_nothing_is_too_long(source: Path) -> None:
    lines = source.read_text(encoding="utf-8").count("\n")
    functions = [each for each in ast.walk(_tree(source)) if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef)]
    assert {each.name: _length(each) for each in functions if _length(each) > LONGEST_FUNCTION} == {}
    assert lines <= LONGEST_FILE


@each_source
def test_names_say_something(source: Path) -> None:
    empty = re.compile(r"util|helper|misc|(?<!connection_)manager", re.IGNORECASE)  # connection_manager is Envoy's
    named = [each.name for each in ast.walk(_tree(source)) if isinstance(each, Definition)]
    assert [name for name in [*source.relative_to(ROOT).parts, *named] if empty.search(name)] == []


def _public(tree: ast.Module | ast.ClassDef) -> Iterator[Definition]:
    """Functions and classes without an underscore, and the methods of such classes."""
    for each in tree.body:
        if isinstance(each, Definition) and not each.name.startswith("_") and not _overrides(tree, each):
            yield each
            if isinstance(each, ast.ClassDef):
                yield from _public(each)


def _overrides(within: ast.Module | ast.ClassDef, definition: Definition) -> bool:
    """Whether it is a method of a class with a base: what it does may be said there."""
    return isinstance(within, ast.ClassDef) and bool(within.bases) and not isinstance(definition, ast.ClassDef)


def _length(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of a function without its docstring."""
    first = function.body[1 if ast.get_docstring(function) and len(function.body) > 1 else 0]
    signature = function.body[0].lineno - function.lineno
    return signature + (function.end_lineno or 0) - first.lineno + 1


@cache
def _tree(source: Path) -> ast.Module:
    return ast.parse(source.read_text(encoding="utf-8"))


def _project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def _pins(name: str) -> list[str]:
    """Every requirement of a file, with its hashes."""
    text = (ROOT / "requirements" / f"{name}.txt").read_text(encoding="utf-8")
    lines = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))
    return [pin.strip() for pin in re.split(r"\n(?=\S)", lines) if pin.strip()]


def _name(requirement: str) -> str:
    match = re.match(r"[\w.-]+", requirement)
    assert match, requirement
    return re.sub(r"[-_.]+", "-", match[0]).lower()


def test_the_tree_that_is_shown_to_contributors_is_that_of_the_layers() -> None:
    contract = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]
    layers = [name.strip() for layer in contract["contracts"][0]["layers"] for name in layer.split("|")]
    shown = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").split("```")[1::2]
    [tree] = [each for each in shown if "onboard.py" in each]
    names = [line.split()[0].removesuffix("/").removesuffix(".py") for line in tree.strip().splitlines()]
    assert {*names} == {*layers} - {"__main__"}


@pytest.mark.xdist_group("itself")
def test_tests_of_a_group_share_a_worker(request: pytest.FixtureRequest) -> None:
    """Or several labs run at once, and there are not enough inotify instances for them."""
    if request.config.getoption("loadgroup", default=False):
        assert request.node.nodeid.endswith("@itself")

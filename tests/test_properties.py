"""Whatever is thrown at it: an answer or a problem, never a traceback; and what renders, the real Envoy takes."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from sidestep import onboard
from sidestep.outputs import manifest
from sidestep.spec.documents import read
from tests import protos
from tests.commands import Ran, run
from tests.contents import contents
from tests.documents import text, write
from tests.generated import GARBAGE, broken, sound
from tests.planted import Mistake, planted
from tests.spec.texts import BOTH

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.documents import Fields

# A problem: where it is, then what it is, on one line that can be printed.
LINE = re.compile(r"<stdin>(:\d+:\d+)?: \S.*")


NO_WORKLOAD = "documents: there is no workload among them"


def many(examples: int) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """So many examples, each for as long as it takes."""
    checks = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.function_scoped_fixture]
    return settings(max_examples=examples, deadline=None, suppress_health_check=checks)


def answered(answer: Ran) -> bool:
    """Whether documents were taken; fails where there was neither an answer nor a problem."""
    assert answer.code in {0, 3}, answer
    if answer.code == 3:
        lines = answer.err.removeprefix("error: ").rstrip("\n").split("\n")
        assert answer.out == ""
        for line in lines:
            assert LINE.fullmatch(line), line
            assert line.isprintable(), line
    return answer.code == 0


def try_all(content: bytes, directory: Path, *options: str) -> bool:
    """Validates, and renders if that is well; both must agree, and the real Envoy with them."""
    if not answered(run("validate", "-", stdin=content)):
        return False
    answer = run("render", "-", "-o", directory / "bundle", "--force", *options, stdin=content)
    assert answer.code == 0 or NO_WORKLOAD in answer.err, answer
    return True


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[Path]:
    """A directory in memory, where the system has such a thing: thousands of bundles are written there."""
    device = Path("/dev/shm")
    with TemporaryDirectory(dir=device if os.access(device, os.W_OK) else tmp_path) as directory:
        yield Path(directory)


@given(documents=broken())
@many(500)
def test_sound_documents_with_something_broken(documents: list[Any], memory: Path) -> None:
    try_all(text(*documents).encode("utf-8", "replace"), memory)


@given(documents=broken(), flow=st.sampled_from([None, False, True]))
@many(300)
def test_the_same_as_yaml_is_written(documents: list[Any], flow: bool | None, memory: Path) -> None:
    written = yaml.safe_dump_all(documents, default_flow_style=flow, allow_unicode=True)
    try_all(written.encode("utf-8", "replace"), memory)


@given(value=GARBAGE)
@many(300)
def test_documents_of_any_form(value: object, memory: Path) -> None:
    assert not try_all(yaml.safe_dump(value).encode("utf-8", "replace"), memory)


PIECES = st.sampled_from(
    [
        *"{}[]:,&*!|>'\"%@`#?-~\n\t \\\x00\x07\x85\u2028\ufeff",
        "<<: *a",
        "&a ",
        "*a",
        "!!str ",
        "---\n",
        "...\n",
        "- ",
        "? ",
    ]
)


@given(
    edits=st.lists(st.tuples(st.integers(0, len(BOTH)), st.integers(0, 8), PIECES | st.text(max_size=5)), max_size=4)
)
@example(edits=[(60, 0, "&a "), (80, 0, "&a ")])
@many(700)
def test_text_that_somebody_slipped_in(edits: list[tuple[int, int, str]], memory: Path) -> None:
    changed = BOTH
    for at, cut, piece in edits:
        changed = changed[:at] + piece + changed[at + cut :]
    try_all(changed.encode("utf-8", "replace"), memory, "--unsafe-skip-validation")


@given(content=st.binary(max_size=200))
@many(300)
def test_bytes(content: bytes, memory: Path) -> None:
    try_all(content, memory)


PLAIN = st.text(
    st.characters(exclude_categories=["Cs", "Cc", "Cn"], exclude_characters="\u2028\u2029\ufeff"), max_size=20
)
VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**18) + 1, 10**18 - 1) | PLAIN,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(PLAIN.filter(lambda key: key != "<<"), inner, max_size=4)
    ),
    max_leaves=20,
)


@given(value=VALUES)
@many(300)
def test_json_is_read_as_json(value: object) -> None:
    documents, problems = read("file", json.dumps(value, ensure_ascii=False).encode())
    assert [document.value for document in documents] == ([] if value is None else [value])
    assert len(problems) == (value is None)


@given(documents=sound())
@many(200)
def test_sound_documents_are_taken(documents: list[Fields], memory: Path) -> None:
    """And Envoy has a name for every field, we read our own manifest, and the same documents make the same bytes."""
    file = write(memory / "spec.yaml", *documents)
    [one], [other] = (onboard.bundles(onboard.load([file])) for _ in range(2))
    assert contents(one.tree) == contents(other.tree)
    protos.parse_all(one.plan.bootstrap, [*one.plan.listeners, *one.plan.clusters])
    assert manifest.wrong(json.loads(contents(one.tree)["manifest.json"])) is None


@given(documents=sound())
@many(50)
def test_envoy_takes_what_renders(documents: list[Fields], memory: Path) -> None:
    answer = run("render", write(memory / "spec.yaml", *documents), "-o", memory / "bundle", "--force")
    assert answer.code == 0, answer


@given(case=planted())
@many(400)
def test_every_mistake_is_reported_and_nothing_that_only_follows(
    case: tuple[list[Fields], list[Mistake]], memory: Path
) -> None:
    documents, mistakes = case
    files = [write(memory / name, document) for name, document in zip(("mesh", "workload"), documents, strict=True)]
    problems = run("validate", "-o", "json", *files).json["error"]["problems"]
    found = [(files.index(problem["file"]), problem["field"]) for problem in problems]
    for mistake in mistakes:
        [at] = [
            at for at, (document, field) in enumerate(found) if document == mistake.document and field in mistake.fields
        ]
        if mistake.there:
            lines = Path(files[mistake.document]).read_text(encoding="utf-8").splitlines()
            assert _last_key(found[at][1]) in lines[problems[at]["line"] - 1]
    assert len(found) == len(mistakes), found


def _last_key(field: str) -> str:
    """The key that stands on the line of a field; nothing where it is an item of a list."""
    return "" if field.endswith("]") else f'"{field.rpartition(".")[2]}"'

"""Files that are named twice, mistakes by the thousand, and where all of it stands."""

from __future__ import annotations

import io
import json
import tracemalloc
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from sidestep.spec.documents import MAX_DOCUMENTS, MAX_PROBLEMS
from sidestep.spec.positions import positions
from tests import documents
from tests.commands import Ran, run
from tests.spec.texts import BOTH, MESH, WORKLOAD

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sidestep.spec.documents import Path as Steps

SERVICES = 10_000


@pytest.fixture(scope="module")
def ten_thousand() -> bytes:
    """A mesh whose services all have a wrong port, which hides nothing that is wrong with the workload."""
    services = [documents.service(f"s-{n}.a.svc.cluster.local", (70_000, "HTTP")) for n in range(SERVICES)]
    return documents.text(documents.mesh(*services), documents.workload(documents.egress("nowhere"))).encode()


def test_ten_thousand_mistakes_are_told_to_programs(ten_thousand: bytes) -> None:
    problems = run("validate", "-o", "json", "-", stdin=ten_thousand).json["error"]["problems"]
    fields = [f"spec.services[{n}].ports[0].number" for n in range(SERVICES)]
    assert [problem["field"] for problem in problems] == [*fields, "spec.egress[0].host"]
    lines = [problem["line"] for problem in problems[:-1]]
    text = ten_thousand.decode().splitlines()
    assert lines == [number for number, line in enumerate(text, 1) if '"number": 70000' in line]


def test_people_are_shown_a_hundred_of_them(ten_thousand: bytes) -> None:
    answer = run("validate", "-", stdin=ten_thousand)
    *lines, more, hint = answer.err.splitlines()
    assert (answer.code, len(lines)) == (3, 100)
    assert more == f"… and {SERVICES + 1 - 100:,} more"
    assert hint == "hint: `sidestep validate -o json` lists every problem."


def test_a_range_that_is_too_small_is_all_that_is_wrong() -> None:
    services = [documents.service(f"s-{n}.a.svc.cluster.local", (9080, "HTTP")) for n in range(255)]
    calls = [documents.egress(f"s-{n}.a") for n in range(255)]
    text = documents.text(documents.mesh(*services), documents.workload(*calls, addresses={"range": "127.77.0.0/24"}))
    [problem] = run("validate", "-o", "json", "-", stdin=text.encode()).json["error"]["problems"]
    assert (problem["field"], problem["message"]) == ("spec.addresses.range", "too small")
    assert problem["found"] == "255 services, and 254 addresses in 127.77.0.0/24"


def test_more_gateways_than_envoy_has_priorities_share_the_last(tmp_path: Path) -> None:
    listed = [{"address": f"10.0.0.{number}"} for number in range(1, 201)]
    spec = documents.write(tmp_path / "spec.yaml", documents.mesh(gateways=listed), documents.workload())
    assert run("render", spec, "-o", tmp_path / "bundle").code == 0
    [cluster] = json.loads((tmp_path / "bundle" / "cds.json").read_bytes())["resources"]
    ranks = cluster["load_assignment"]["endpoints"]
    assert [(rank["priority"], len(rank["lb_endpoints"])) for rank in ranks] == [
        *((n, 1) for n in range(128)),
        (128, 72),
    ]


def test_what_is_no_yaml_ends_the_reading_where_there_is_too_much_of_it() -> None:
    text = "".join(f"a{n}: *nowhere{n}\n" for n in range(50_000))
    problems = run("validate", "-o", "json", "-", stdin=text.encode()).json["error"]["problems"]
    assert len(problems) == MAX_PROBLEMS + 1
    assert problems[-1]["message"] == "there is too much that is no usable YAML"


def test_more_documents_than_a_file_may_have() -> None:
    problems = run("validate", "-o", "json", "-", stdin=b"---\n" * 100 + b"--- 1\n" * 100_000).json["error"]["problems"]
    [said] = [each for each in problems if each["message"] == "there are too many documents"]
    assert said["allowed"] == f"{MAX_DOCUMENTS:,} documents"


def test_a_host_of_a_hundred_thousand_labels_takes_no_memory_to_speak_of() -> None:
    host = ".".join("a" * 100_000)
    long, calling = documents.mesh(documents.service(host)), documents.workload(documents.egress("nowhere"))
    text = documents.text(long, calling).encode()
    tracemalloc.start()
    problems = run("validate", "-o", "json", "-", stdin=text).json["error"]["problems"]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert "spec.services[0].host" in [each["field"] for each in problems]
    assert peak < 50_000_000


def test_a_hundred_are_not_more(tmp_path: Path) -> None:
    calls = [documents.egress("nowhere", 10_000 + n) for n in range(100)]
    answer = run("validate", documents.write(tmp_path / "spec.yaml", documents.mesh(), documents.workload(*calls)))
    assert answer.err.count("the mesh has no such service") == answer.err.count("\n") == 100


def test_a_file_that_is_named_twice_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mesh.yaml").write_text(MESH, encoding="utf-8")
    Path("billing.yaml").write_text(WORKLOAD, encoding="utf-8")
    Path("link.yaml").symlink_to("mesh.yaml")
    once = run("validate", "mesh.yaml", "billing.yaml")
    assert once.code == 0
    assert run("validate", "mesh.yaml", "billing.yaml", "./mesh.yaml", tmp_path / "billing.yaml", "link.yaml") == once
    Path("copy.yaml").write_text(MESH, encoding="utf-8")
    said = (
        "error: mesh.yaml:3:18: metadata.name: the name is already taken at copy.yaml:1 (allowed: a name of its own)\n"
    )
    assert run("validate", "copy.yaml", "billing.yaml", "mesh.yaml") == Ran(3, "", said)


def test_standard_input_that_is_named_twice_is_read_once() -> None:
    assert run("validate", "-", "-", stdin=BOTH.encode()) == run("validate", "-", stdin=BOTH.encode())


def test_standard_input_goes_with_files(tmp_path: Path) -> None:
    (tmp_path / "mesh.yaml").write_text(MESH.replace("9080", "0"), encoding="utf-8")
    answer = run("validate", tmp_path / "mesh.yaml", "-", stdin=WORKLOAD.replace("reviews", "nothing").encode())
    files = [line.removeprefix("error: ").partition(":")[0] for line in answer.err.splitlines()]
    assert (answer.code, files) == (3, [f"{tmp_path}/mesh.yaml", "<stdin>"])


TEXTS = st.text(
    st.characters(exclude_categories=["Cs", "Cc", "Cn"], exclude_characters="\u2028\u2029\ufeff"), max_size=9
)
VALUES: st.SearchStrategy[Any] = st.recursive(
    TEXTS | st.integers() | st.none(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=12,
)


@given(values=st.lists(VALUES, min_size=1, max_size=3), flow=st.sampled_from([None, False, True]), json_=st.booleans())
@settings(max_examples=300, deadline=None)
def test_everything_is_where_a_node_graph_has_it(values: list[Any], flow: bool | None, json_: bool) -> None:
    written = yaml.safe_dump_all(values, default_flow_style=flow, allow_unicode=True, explicit_start=True)
    text = (
        "".join(f"---\n{json.dumps(value, indent=1, ensure_ascii=False)}\n" for value in values) if json_ else written
    )
    expected = dict(_composed(text))
    asked = [*expected, *((*path, "not there") for path in expected), *((*path, 99) for path in expected)]
    found = {path: position.value for path, position in positions(text, asked).items()}
    assert {path: found[path] for path in expected} == expected
    assert all(found[path] == expected[path[:-1]] for path in asked if path not in expected)


def _composed(text: str) -> Iterator[tuple[Steps, tuple[int, int]]]:
    """The path of every value, and where PyYAML's nodes say that it stands."""
    for number, root in enumerate(yaml.compose_all(io.StringIO(text), Loader=yaml.SafeLoader)):
        yield from _in_node((number,), root, root)


def _in_node(path: Steps, node: yaml.Node, placed: yaml.Node) -> Iterator[tuple[Steps, tuple[int, int]]]:
    assert placed.start_mark is not None
    yield path, (placed.start_mark.line + 1, placed.start_mark.column + 1)
    if isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            yield from _in_node((*path, index), item, item)
    elif isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield from _in_node((*path, key.value), value, value if isinstance(value, yaml.ScalarNode) else key)


def test_what_an_alias_stands_for_is_where_the_alias_is() -> None:
    text = "a: &x {b: 1}\nc:\n- *x\n"
    at = positions(text, [(0, "a", "b"), (0, "c", 0, "b")])
    assert at == {(0, "a", "b"): ((1, 11), (1, 8)), (0, "c", 0, "b"): ((3, 3), (3, 3))}

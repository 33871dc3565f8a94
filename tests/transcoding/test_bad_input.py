"""What cannot be transcoded is said before Envoy sees it: where it stands, what was found, what is allowed."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sidestep.descriptors import protoc, sets
from tests.commands import run
from tests.transcoding.protos import ANNOTATED, HEAD, MESSAGES, PLAIN, annotated, compiled, spec, without_imports


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def said(transcode: dict[str, Any], **egress: Any) -> str:
    """What is said of documents that ``validate`` refuses."""
    answer = run("validate", spec(Path(), transcode, **egress))
    assert (answer.code, answer.out) == (3, ""), answer
    return answer.err


def said_of(content: bytes, **more: Any) -> str:
    """What is said of a descriptor set."""
    Path("ledger.pb").write_bytes(content)
    return said({"descriptor": "ledger.pb", **more})


def test_the_sound_ones_are_sound() -> None:
    Path("ledger.pb").write_bytes(compiled(Path(), PLAIN))
    for transcode in ({"descriptor": "ledger.pb"}, {"protos": ["demo.proto"]}):
        answer = run("validate", spec(Path(), transcode))
        assert (answer.code, answer.err) == (0, "")


def test_a_set_without_imports() -> None:
    line = said_of(without_imports(Path(), annotated(("Get", 'get: "/v1/{id}"'))))
    assert "spec.yaml:" in line
    assert (
        "spec.egress[0].transcode.descriptor: demo.proto imports google/api/annotations.proto, which is not in" in line
    )
    assert "protoc --include_imports" in line


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty"),
        (b"\x00\xff" * 40, "not a descriptor set (found bytes of another kind"),
        (b"hello", "not a descriptor set (found text"),
        (PLAIN.encode(), "not a descriptor set (found the text of a .proto file (give it as `protos`)"),
        (os.urandom(4096), "not a descriptor set"),
        (b"x" * 100_000_000, "ledger.pb: it has more than 33,554,432 bytes"),
    ],
    ids=["empty", "bytes", "text", "proto", "random", "100 MB"],
)
def test_what_is_no_set(content: bytes, message: str) -> None:
    line = said_of(content)
    assert message in line
    assert len(line) < 500


def test_a_set_that_is_not_there() -> None:
    assert "ledger.pb: No such file or directory" in said({"descriptor": "ledger.pb"})


def test_a_set_that_contradicts_itself() -> None:
    from google.protobuf.descriptor_pb2 import FileDescriptorSet

    broken = FileDescriptorSet.FromString(compiled(Path(), PLAIN))
    broken.file[0].service[0].method[0].input_type = ".demo.v1.Nowhere"
    assert "the set contradicts itself" in said_of(broken.SerializeToString())


def _no_map(message: Any) -> None:
    del message.nested_type[0].field[1]


@pytest.mark.parametrize("damage", [_no_map, None], ids=["map", "name"])
def test_a_set_that_was_damaged(damage: Callable[[Any], None] | None) -> None:
    from google.protobuf.descriptor_pb2 import FileDescriptorSet

    whole = compiled(
        Path(), f"{HEAD}message A {{ map<string, A> by_name = 1; }} service S {{ rpc Get(A) returns (A); }}"
    )
    found = FileDescriptorSet.FromString(whole)
    if damage:
        damage(found.file[0].message_type[0])
    content = found.SerializeToString() if damage else whole.replace(b"byName", b"by\xff\xffme")
    assert "the set contradicts itself" in said_of(content)


def test_files_that_import_each_other() -> None:
    from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet

    files = [FileDescriptorProto(name="a", dependency=["b"]), FileDescriptorProto(name="b", dependency=["a"])]
    assert "import each other" in said_of(FileDescriptorSet(file=files).SerializeToString())


def test_a_service_that_is_not_there() -> None:
    line = said_of(compiled(Path(), PLAIN), services=["demo.v1.Ss"])
    assert "transcode.services: no such service in the set, did you mean demo.v1.S?" in line
    assert "(found demo.v1.Ss; allowed: demo.v1.S)" in line


def test_a_set_without_services() -> None:
    assert "the set holds no service" in said_of(compiled(Path(), f"{HEAD}{MESSAGES}"))


def test_a_service_without_methods() -> None:
    line = said_of(compiled(Path(), f"{HEAD}service S {{}}\n"))
    assert "the service has no methods (found demo.v1.S; allowed: at least one method)" in line


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ('get: "/v1/{id}"', 'get: "/v1/{inner.name}"'),
        ('get: "/v1/a:x"', 'get: "/v1/b" additional_bindings {get: "/v1/a:x"}'),
    ],
)
def test_two_methods_of_one_route(first: str, second: str) -> None:
    line = said_of(compiled(Path(), annotated(("Get", first), ("Read", second))))
    assert "demo.v1.S/Get and demo.v1.S/Read have the same route (found GET /v1/" in line


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ("nothing", "demo.v1.S.Get binds a field that demo.v1.B does not have (found nothing; allowed: name)"),
        ("name", "answers with a part of its message (found response_body: name; allowed: a field of type google.api."),
    ],
)
def test_a_part_that_envoy_does_not_answer_with(body: str, why: str) -> None:
    assert why in said_of(compiled(Path(), annotated(("Get", f'get: "/v1/{{id}}" response_body: "{body}"'))))


def test_different_verbs_are_different_routes() -> None:
    text = annotated(
        ("Get", 'get: "/v1/{id}"'), ("Del", 'delete: "/v1/{id}"'), ("Run", 'post: "/v1/{id}:run" body: "*"')
    )
    Path("ledger.pb").write_bytes(compiled(Path(), text))
    assert run("validate", spec(Path(), {"descriptor": "ledger.pb"})).code == 0


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (
            'get: "/v1/{nothing}"',
            "demo.v1.S.Get binds a field that demo.v1.A does not have (found nothing; allowed: id,",
        ),
        (
            'get: "/v1/{inner.nothing}"',
            "binds a field that demo.v1.B does not have (found inner.nothing; allowed: name",
        ),
        ('get: "/v1/{inner}"', "binds a path to a field that is no single value (found inner)"),
        ('get: "/v1/{many}"', "binds a path to a field that is no single value (found many)"),
        ('get: "/v1/{id}/{id}"', "the path binds id twice"),
        ('get: "v1"', "the path cannot be read (found v1; allowed: a path such as"),
        ('get: "/v1/{id"', "the path cannot be read"),
        ('post: "/v1" body: "nothing"', "binds a field that demo.v1.A does not have (found nothing"),
        ('body: "*"', "demo.v1.S.Get has an empty google.api.http annotation"),
    ],
)
def test_annotations_that_cannot_be(rule: str, message: str) -> None:
    assert message in said_of(compiled(Path(), annotated(("Get", rule))))


def test_transcoding_on_a_tcp_port() -> None:
    Path("ledger.pb").write_bytes(compiled(Path(), PLAIN))
    line = said({"descriptor": "ledger.pb"}, port=9000)
    assert (
        "spec.egress[0].transcode: no gRPC passes here (found TCP; allowed: a port of protocol GRPC or HTTP2)" in line
    )


def test_transcoding_without_a_listener() -> None:
    Path("ledger.pb").write_bytes(compiled(Path(), PLAIN))
    line = said({"descriptor": "ledger.pb"}, listen="none")
    assert "spec.egress[0].listen: only a listener of its own is transcoded" in line


@pytest.mark.parametrize(
    ("transcode", "message"),
    [
        ({}, "says too little or too much (allowed: exactly one of descriptor and protos)"),
        ({"descriptor": "a", "protos": ["b"]}, "says too little or too much"),
        ({"descriptor": "a", "importPaths": ["b"]}, "importPaths says where protos are found, and there are none"),
        ({"protos": []}, "empty"),
        ({"descriptor": "a", "services": ["a b"]}, "the full name of a protobuf service"),
        ({"descriptor": "a", "reflection": True}, "unknown field"),
    ],
)
def test_words_that_cannot_be(transcode: dict[str, Any], message: str) -> None:
    assert message in said(transcode)


def test_a_proto_with_a_missing_import() -> None:
    Path("demo.proto").write_text(f'{HEAD}import "other/none.proto";\n', encoding="utf-8")
    lines = said({"protos": ["demo.proto"]}).splitlines()
    assert 'error: demo.proto:3:1: Import "other/none.proto" was not found or had errors.' in lines
    assert any("spec.egress[0].transcode.protos: other/none.proto: File not found." in line for line in lines)


def test_a_proto_with_a_mistake() -> None:
    Path("demo.proto").write_text(f"{HEAD}mesage A {{}}\n", encoding="utf-8")
    assert said({"protos": ["demo.proto"]}).startswith("error: demo.proto:3:1: Expected top-level statement")


@pytest.mark.parametrize("name", ["none.proto", "-none.proto", "@none.proto", "--version"])
def test_a_proto_that_is_not_there(name: str) -> None:
    assert f"{name}: No such file or directory" in said({"protos": [name]})


def test_a_proto_of_any_name_is_only_a_file() -> None:
    for name in ("-demo.proto", "@demo.proto"):
        Path(name).write_text(PLAIN, encoding="utf-8")
        assert run("validate", spec(Path(), {"protos": [name]})).code == 0, name


def test_imports_come_from_import_paths() -> None:
    Path("shared").mkdir()
    Path("shared/b.proto").write_text(f"{HEAD}message B {{}}\n", encoding="utf-8")
    text = f'{HEAD}import "b.proto";\nservice S {{ rpc Get(B) returns (B); }}\n'
    Path("demo.proto").write_text(text, encoding="utf-8")
    assert "b.proto" in said({"protos": ["demo.proto"]})
    assert run("validate", spec(Path(), {"protos": ["demo.proto"], "importPaths": [".", "shared"]})).code == 0


def test_a_compiler_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("demo.proto").write_text(PLAIN, encoding="utf-8")
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(protoc, "find_spec", lambda _name: None)
    answer = run("validate", spec(Path(), {"protos": ["demo.proto"]}))
    assert answer.code == 8
    assert answer.err.splitlines() == [
        "error: compiling .proto files needs protoc on PATH, or grpcio-tools",
        "hint: pip install 'sidestep[transcode]'",
    ]


def test_a_compiler_that_never_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("protoc").write_text("#!/bin/sh\nexec sleep 60\n", encoding="utf-8")
    Path("protoc").chmod(0o755)
    Path("demo.proto").write_text(PLAIN, encoding="utf-8")
    monkeypatch.setenv("PATH", f"{Path().absolute()}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(protoc, "_SECONDS", 0.2)
    assert "demo.proto: not compiled within 0.2 s" in said({"protos": ["demo.proto"]})


def test_protobuf_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "google.api.annotations_pb2", None)
    Path("ledger.pb").write_bytes(b"x")
    answer = run("validate", spec(Path(), {"descriptor": "ledger.pb"}))
    assert (answer.code, answer.err.splitlines()[1]) == (8, "hint: pip install 'sidestep[transcode]'")


def test_google_s_own_services_are_taken_only_by_name() -> None:
    text = f"{HEAD.replace('demo.v1', 'google.demo')}{MESSAGES}service S {{ rpc Get(A) returns (B); }}\n{ANNOTATED}"
    found = sets.read(compiled(Path(), text))
    with pytest.raises(sets.Unusable, match="holds no service"):
        found.chosen([])
    assert [service.full_name for service in found.chosen(["google.demo.S"])] == ["google.demo.S"]


def test_no_compiler_is_taken_from_beside_the_documents(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda _: None)
    Path("grpc_tools").mkdir()
    for name in ("__init__", "protoc"):
        Path(f"grpc_tools/{name}.py").write_text("raise SystemExit('not the compiler')\n")
    Path("plain.proto").write_text('syntax = "proto3";\n')
    assert protoc.compile_protos(Path(), ["plain.proto"], ["."])

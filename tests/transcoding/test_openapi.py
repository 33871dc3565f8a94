"""The OpenAPI document: valid by a validator of others, and true to what Envoy answers."""

from __future__ import annotations

import http.client
import json
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest
from jsonschema import Draft202012Validator
from openapi_spec_validator import validate
from openapi_spec_validator.validation.exceptions import OpenAPIValidationError

from sidestep.descriptors import openapi, routes, sets
from sidestep.lab import ledger
from tests.commands import run
from tests.transcoding.machine import Bytes, machine, served
from tests.transcoding.protos import HEAD, compiled, spec

if TYPE_CHECKING:
    from pathlib import Path

EVERYTHING = (
    HEAD
    + """
import "google/api/annotations.proto";
import "google/api/httpbody.proto";
import "google/protobuf/any.proto";
import "google/protobuf/duration.proto";
import "google/protobuf/empty.proto";
import "google/protobuf/field_mask.proto";
import "google/protobuf/struct.proto";
import "google/protobuf/timestamp.proto";
import "google/protobuf/wrappers.proto";

enum Colour { COLOUR_UNSPECIFIED = 0; RED = 1; ALSO_RED = 1 [deprecated = true]; option allow_alias = true; }
message Everything {
  double d = 1; float f = 2; int64 i64 = 3; uint64 u64 = 4; int32 i32 = 5; bool b = 6; string s = 7; bytes raw = 8;
  Colour colour = 9; repeated Colour colours = 10; map<string, Everything> by_name = 11; Everything inner = 12;
  google.protobuf.Timestamp at = 13; google.protobuf.Duration lasts = 14; google.protobuf.Struct free = 15;
  google.protobuf.Value any_value = 16; google.protobuf.ListValue list = 17; google.protobuf.Any any = 18;
  google.protobuf.Int64Value maybe = 19; google.protobuf.FieldMask mask = 20; google.protobuf.NullValue null = 21;
  oneof choice { string left = 22; int32 right = 23; Everything middle = 24; }
  optional string perhaps = 25; uint32 u32 = 26; map<int32, int64> numbers = 27;
}
message Blob { google.api.HttpBody body = 1; }
service S {
  rpc Get(Everything) returns (Everything) {
    option (google.api.http) = { get: "/v1/{s=shelves/*}/{inner.s}" additional_bindings { get: "/v1/{s}:get" } };
  }
  rpc Put(Everything) returns (Everything) {
    option (google.api.http) = { put: "/v1/{s}" body: "inner" };
  }
  rpc Run(Everything) returns (google.protobuf.Empty) {
    option (google.api.http) = { custom: { kind: "SEARCH" path: "/v1/search" } };
  }
  rpc Raw(google.api.HttpBody) returns (google.api.HttpBody) {
    option (google.api.http) = { post: "/v1/raw" body: "*" };
  }
  rpc Part(Blob) returns (Blob) {
    option (google.api.http) = { get: "/v1/part" response_body: "body" };
  }
  rpc Both(stream Everything) returns (stream Everything);
}
"""
)


def document(content: bytes, **style: bool) -> Any:
    found = sets.read(content).chosen([])
    return openapi.document(routes.of(found), openapi.Style(**style), "http://127.0.0.1:50051")


@pytest.mark.parametrize("otherwise", [False, True])
def test_everything_that_protobuf_has_makes_a_valid_document(otherwise: bool, tmp_path: Path) -> None:
    words = ("preserve_proto_field_names", "always_print_enums_as_ints", "stream_newline_delimited")
    made = document(compiled(tmp_path, EVERYTHING), **dict.fromkeys(words, otherwise))
    validate(made)
    properties = made["components"]["schemas"]["demo.v1.Everything"]["properties"]
    assert ("by_name" in properties, "byName" in properties) == (otherwise, not otherwise)
    assert made["paths"].keys() == {
        *("/v1/shelves/{s}/{inner_s}", "/v1/{s}:get", "/v1/{s}", "/v1/raw", "/v1/part", "/demo.v1.S/Both")
    }


def test_envoy_takes_everything(tmp_path: Path) -> None:
    (tmp_path / "ledger.pb").write_bytes(compiled(tmp_path, EVERYTHING))
    answer = run("render", spec(tmp_path, {"descriptor": "ledger.pb"}), "-o", tmp_path / "bundle")
    assert (answer.code, answer.err) == (0, "")


def test_a_document_that_is_not_valid_is_noticed(tmp_path: Path) -> None:
    made = document(compiled(tmp_path, EVERYTHING))
    del made["paths"]["/v1/{s}"]["put"]["responses"]["200"]["description"]
    with pytest.raises(OpenAPIValidationError):
        validate(made)


BOUND = (
    HEAD
    + """
import "google/api/annotations.proto";
message A { string name = 1; A inner = 2; }
service S {
  rpc Shelf(A) returns (A) { option (google.api.http) = { get: "/v1/{name=shelves/*}" }; }
  rpc Book(A) returns (A) {
    option (google.api.http) = {
      get: "/v1/{name=books/*}" additional_bindings { get: "/v1/{name=shelves/*/books/*}" }
    };
  }
  rpc Move(A) returns (A) { option (google.api.http) = { post: "/v1/{inner.name=shelves/*}" }; }
  rpc Page(A) returns (A) { option (google.api.http) = { get: "/v2/*/pages/{name=**}:read" }; }
  rpc One(A) returns (A) { option (google.api.http) = { get: "/v3/{name}" }; }
  rpc Many(A) returns (A) { option (google.api.http) = { get: "/v3/{name=**}" }; }
}
"""
)
"""Fields that are bound to more than a segment; paths that differ in what they bind only."""


def test_each_wildcard_is_a_parameter_of_its_own(tmp_path: Path) -> None:
    made = document(compiled(tmp_path, BOUND))
    validate(made)
    operations = {(path, verb): each for path, item in made["paths"].items() for verb, each in item.items()}
    assert {place: each["operationId"].removeprefix("demo.v1.S.") for place, each in operations.items()} == {
        ("/v1/shelves/{name}", "get"): "Shelf",
        ("/v1/shelves/{name}", "post"): "Move",
        ("/v1/books/{name}", "get"): "Book",
        ("/v1/shelves/{name}/books/{name_2}", "get"): "Book_2",
        ("/v2/{segment}/pages/{name}:read", "get"): "Page",
        ("/v3/{name}", "get"): "One",
        ("/v3/{name_}", "get"): "Many",
    }
    [moved, *_] = operations["/v1/shelves/{name}", "post"]["parameters"]
    assert (moved["name"], moved["in"]) == ("name", "path")
    assert "`inner.name`, which is `shelves/*`" in moved["description"]


def test_envoy_answers_at_every_path_of_the_document(tmp_path: Path) -> None:
    content = compiled(tmp_path, BOUND)
    (tmp_path / "bound.pb").write_bytes(content)
    with served(Bytes()) as server, machine(tmp_path, {"descriptor": "bound.pb"}, server) as (_, port):
        for path, item in document(content)["paths"].items():
            for verb, operation in item.items():
                values = {each["name"]: "a%2Fb" for each in operation["parameters"] if each["in"] == "path"}
                # The server knows no such method; Envoy says 404 where it knows none.
                assert status(port, verb.upper(), path.format(**values)) == 501, path
        assert status(port, "GET", "/v1/shelves%2Fa") == 404, "why a field of two segments is no parameter"


def status(port: int, verb: str, path: str) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    with closing(connection):
        connection.request(verb, path)
        return connection.getresponse().status


@pytest.mark.parametrize(
    ("value", "fits"),
    [
        ({"d": 1.5, "i64": "9007199254740993", "raw": "AAA=", "colour": "RED", "at": "2026-01-01T00:00:00Z"}, True),
        ({"byName": {"a": {"byName": {}}}, "maybe": None, "null": None, "anyValue": [1, {}], "lasts": "1.5s"}, True),
        ({"left": "a"}, True),
        ({"i64": 1}, False),
        ({"colour": "BLUE"}, False),
        ({"lasts": "1.5"}, False),
        ({"left": "a", "right": 1}, False),
        ({"byName": {"a": 1}}, False),
    ],
)
def test_schemas_take_what_protobuf_s_json_takes(value: object, fits: bool, tmp_path: Path) -> None:
    made = document(compiled(tmp_path, EVERYTHING))
    schema = {"$ref": "#/components/schemas/demo.v1.Everything", "components": made["components"]}
    assert Draft202012Validator(schema).is_valid(value) == fits


def test_the_ledger_s_parameters() -> None:
    made = document(ledger.DESCRIPTOR.read_bytes())
    validate(made)
    watch = made["paths"]["/v1/accounts/{account}:watch"]["get"]
    assert [(each["name"], each["in"]) for each in watch["parameters"]] == [
        ("account", "path"),
        ("count", "query"),
        ("failAfter", "query"),
    ]
    assert watch["responses"]["200"]["content"]["application/json"]["schema"]["type"] == "array"
    assert "requestBody" not in watch
    post = made["paths"]["/v1/accounts/{account}/entries"]["post"]
    assert post["requestBody"]["content"]["application/json"]["schema"] == {"$ref": "#/components/schemas/pay.v1.Entry"}


def test_the_command_writes_it(tmp_path: Path) -> None:
    (tmp_path / "ledger.pb").write_bytes(ledger.DESCRIPTOR.read_bytes())
    file = spec(tmp_path, {"descriptor": "ledger.pb"})
    made = run("transcode", "inspect", file, "--openapi").json
    validate(made)
    assert made["servers"] == [{"url": "http://127.0.0.1:50051"}]
    assert run("transcode", "inspect", tmp_path / "ledger.pb", "--openapi").json["paths"] == made["paths"]


def test_the_command_lists_the_routes(tmp_path: Path) -> None:
    answer = run("transcode", "inspect", ledger.DESCRIPTOR)
    assert answer.out.splitlines()[1:5] == [
        "METHOD  PATH                                 GRPC METHOD             BODY   STREAMING",
        "POST    /v1/accounts/{account}/entries       pay.v1.Ledger/Post      entry  -",
        "GET     /v1/accounts/{account}/entries/{id}  pay.v1.Ledger/GetEntry  -      -",
        "GET     /v1/entries/{id}                     pay.v1.Ledger/GetEntry  -      -",
    ]
    [auto] = [
        each
        for each in run("transcode", "inspect", ledger.DESCRIPTOR, "-o", "json").json["routes"]
        if not each["annotated"]
    ]
    assert (auto["method"], auto["path"], auto["body"]) == ("POST", "/pay.v1.Ledger/Balance", "*")


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["none.pb"], 3, "none.pb: No such file or directory"),
        (["bad.pb"], 3, "bad.pb: not a descriptor set"),
        (["spec.yaml", "--host", "reviews"], 2, "nothing is transcoded there; allowed: ledger.pay.svc.cluster.local"),
        (["spec.yaml", "--service", "pay.v1.Nothing"], 3, "no such service in the set"),
        (["ledger.pb", "ledger.pb", "--openapi"], 2, "an OpenAPI document is of one service"),
    ],
)
def test_what_the_command_cannot_show(
    arguments: list[str], code: int, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ledger.pb").write_bytes(ledger.DESCRIPTOR.read_bytes())
    (tmp_path / "bad.pb").write_bytes(b"\xff\xff")
    spec(tmp_path, {"descriptor": "ledger.pb"})
    answer = run("transcode", "inspect", *arguments)
    assert answer.code == code
    assert said in answer.err


def test_messages_that_hold_themselves_often_end_somewhere(tmp_path: Path) -> None:
    fields = " ".join(f"Knot f{number} = {number};" for number in range(1, 41))
    knot = HEAD + 'import "google/api/annotations.proto";\n' + f"message Knot {{ {fields} string last = 99; }}\n"
    knot += 'service S { rpc Get(Knot) returns (Knot) { option (google.api.http) = { get: "/v1/knot" }; } }\n'
    found = routes.of(sets.read(compiled(tmp_path, knot)).chosen(()))
    [operation] = openapi.document(found, openapi.Style())["paths"]["/v1/knot"].values()
    names = [parameter["name"] for parameter in operation["parameters"]]
    assert names[0] == "last"
    assert len(names) < 100


def test_messages_in_messages_may_go_deep(tmp_path: Path) -> None:
    messages = " ".join(f"message M{each} {{ M{each + 1} inner = 1; }}" for each in range(2000))
    deep = f"{HEAD}{messages} message M2000 {{}} service S {{ rpc Get(M0) returns (M0); }}"
    assert len(document(compiled(tmp_path, deep))["components"]["schemas"]) == 2002


def test_a_choice_of_many_stays_small(tmp_path: Path) -> None:
    fields = " ".join(f"string f{number} = {number};" for number in range(1, 1001))
    wide = f"{HEAD}message Wide {{ oneof one {{ {fields} }} }} service S {{ rpc Get(Wide) returns (Wide); }}"
    made = document(compiled(tmp_path, wide))
    assert len(json.dumps(made)) < 500_000
    schema = Draft202012Validator({"$ref": "#/components/schemas/demo.v1.Wide", "components": made["components"]})
    assert [schema.is_valid(each) for each in ({}, {"f1": ""}, {"f1000": ""}, {"f1": "", "f1000": ""})] == [
        *(True, True, True, False)
    ]

"""What a running Envoy makes of a transcoded listener: streams that fail, descriptors that change, large messages."""

from __future__ import annotations

import http.client
import json
import shutil
import socket
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from sidestep.lab import ledger
from tests.envoys import eventually
from tests.transcoding.machine import Bytes, machine, render, served
from tests.transcoding.protos import HEAD, MESSAGES, compiled

if TYPE_CHECKING:
    from pathlib import Path

LINES = {"descriptor": "ledger.pb", "streamNewlineDelimited": True}


@pytest.fixture
def here(tmp_path: Path) -> Path:
    shutil.copyfile(ledger.DESCRIPTOR, tmp_path / "ledger.pb")
    return tmp_path


def rest(port: int, path: str, body: str | None = None, **headers: str) -> tuple[int, str]:
    """One request over HTTP/1.1; raises `http.client.IncompleteRead` where the answer is cut off."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        connection.request("POST" if body is not None else "GET", path, body, headers)
        response = connection.getresponse()
        return response.status, response.read().decode()
    finally:
        connection.close()


def watch(port: int) -> tuple[int, list[Any]]:
    status, text = rest(port, "/v1/accounts/a:watch")
    return status, [json.loads(line) for line in text.splitlines()]


def entry(memo: str = "") -> bytes:
    content: bytes = ledger.message("Entry", id="1", memo=memo).SerializeToString()
    return content


def cut(port: int) -> str:
    """What came of a stream before it was cut off."""
    with pytest.raises(http.client.IncompleteRead) as error:
        rest(port, "/v1/accounts/a:watch")
    return bytes(error.value.partial).decode()


@pytest.mark.parametrize("memos", [[], ["a"], ["a"] * 1000, ["\u00a2" * 500_000, "", "b" * 70_000]], ids=len)
def test_a_stream_that_ends_well(here: Path, memos: list[str]) -> None:
    with served(Bytes(*map(entry, memos))) as server, machine(here, LINES, server) as (_, port):
        status, objects = watch(port)
        assert (status, [each.get("memo", "") for each in objects]) == (200, memos)


@pytest.mark.parametrize("memos", [["a"], ["a"] * 1000, ["\u00a2" * 500_000, ""]], ids=len)
def test_a_stream_that_fails_midway_is_cut(here: Path, memos: list[str]) -> None:
    server = Bytes(*map(entry, memos), status=grpc.StatusCode.UNAVAILABLE)
    with served(server) as at, machine(here, LINES, at) as (envoy, port):
        assert cut(port).count("\n") <= len(memos)
        said = eventually("Envoy's log says why", lambda: envoy.log.read_text(encoding="utf-8").strip())
        assert "/pay.v1.Ledger/Watch failed midway, the stream is reset: grpc-status:14" in said


def test_a_stream_in_an_array_is_cut_before_its_end(here: Path) -> None:
    server = Bytes(entry(), status=grpc.StatusCode.INTERNAL)
    with served(server) as at, machine(here, {"descriptor": "ledger.pb"}, at) as (_, port):
        assert "]" not in cut(port)


def test_a_stream_that_fails_before_its_first_message(here: Path) -> None:
    server = Bytes(status=grpc.StatusCode.NOT_FOUND)
    with served(server) as at, machine(here, LINES, at) as (_, port):
        status, text = rest(port, "/v1/accounts/a:watch")
        assert (status, json.loads(text)["code"]) == (404, 5)


def test_a_stream_that_fails_after_headers_and_before_its_first_message(here: Path) -> None:
    server = Bytes(status=grpc.StatusCode.NOT_FOUND, headers=True)
    with served(server) as at, machine(here, LINES, at) as (_, port):
        assert cut(port) == ""


def test_without_the_script_it_looks_whole(here: Path) -> None:
    """What the script and the gRPC-Web filter are for: should Envoy mend it, they can go."""
    server = Bytes(entry(), status=grpc.StatusCode.UNAVAILABLE)
    with served(server) as at, machine(here, LINES, at) as (envoy, port):
        listeners = envoy.directory / "lds.json"
        response = json.loads(listeners.read_bytes())
        manager = response["resources"][0]["filter_chains"][0]["filters"][0]["typed_config"]
        manager["http_filters"] = [each for each in manager["http_filters"] if "lua" not in each["name"]]
        manager["stat_prefix"] = "changed"
        listeners.with_name("new.json").write_text(json.dumps(response), encoding="utf-8")
        listeners.with_name("new.json").replace(listeners)
        assert eventually("the script is gone", lambda: whole(port)) == (200, [{"id": "1"}])


def whole(port: int) -> tuple[int, list[Any]] | None:
    try:
        return watch(port)
    except (http.client.IncompleteRead, OSError):
        return None


def test_a_changed_descriptor_is_taken_by_a_running_envoy(tmp_path: Path) -> None:
    first = f"{HEAD}{MESSAGES}service S {{ rpc Get(A) returns (B); }}\n"
    (tmp_path / "demo.pb").write_bytes(compiled(tmp_path, first))
    with served(Bytes()) as server, machine(tmp_path, {"descriptor": "demo.pb"}, server) as (envoy, port):
        assert rest(port, "/demo.v1.S/Other", "{}")[1] == "Could not resolve /demo.v1.S/Other to a method."
        (tmp_path / "demo.pb").write_bytes(compiled(tmp_path, first.replace("Get(A)", "Other(A)")))
        pid = envoy.process.pid
        render(tmp_path, {"descriptor": "demo.pb"}, port, server)
        # The server knows no such method, but now it is asked.
        eventually("the new descriptor is in use", lambda: rest(port, "/demo.v1.S/Other", "{}")[0] == 501)
        assert envoy.process.pid == pid
        assert set(envoy.stats(r"(update_rejected|update_failure)$").values()) == {0}


def test_messages_of_more_than_a_mebibyte(here: Path) -> None:
    with served(Bytes(entry("x" * 3_000_000))) as server, machine(here, LINES, server) as (_, port):
        assert len(rest(port, "/v1/entries/1")[1]) > 3_000_000
        body = json.dumps({"account": "x" * 3_000_000})
        assert rest(port, "/pay.v1.Ledger/Balance", body)[0] == 200
        # gRPC's own limit: RESOURCE_EXHAUSTED from the server.
        assert rest(port, "/pay.v1.Ledger/Balance", json.dumps({"account": "x" * 5_000_000}))[0] == 429


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        ("{", 400, "Unexpected end of string"),
        ('{"account": 1.5}', 400, "account: invalid value 1.5"),
        ("[]", 400, ""),
        ('{"account": {}}', 400, ""),
        ('{"nothing": 1}', 200, ""),
    ],
)
def test_bodies_that_do_not_fit(here: Path, body: str, status: int, said: str) -> None:
    with served(Bytes(b"")) as server, machine(here, LINES, server) as (_, port):
        got, text = rest(port, "/pay.v1.Ledger/Balance", body, **{"content-type": "application/json"})
        assert got == status, text
        assert said in text


@pytest.mark.parametrize("metadata", [(), (("x-envoy-original-path", "/v1/accounts/a:watch"),)], ids=len)
def test_a_native_client_is_left_alone(here: Path, metadata: tuple[tuple[str, str], ...]) -> None:
    server = Bytes(entry(), entry(), status=grpc.StatusCode.UNAVAILABLE)
    with served(server) as at, machine(here, LINES, at) as (_, port):
        with grpc.insecure_channel(f"127.0.0.1:{port}", options=[("grpc.enable_http_proxy", 0)]) as channel:
            call: grpc.UnaryStreamMultiCallable[bytes, bytes] = channel.unary_stream("/pay.v1.Ledger/Watch")
            replies = call(b"", timeout=10, metadata=metadata)
            assert next(replies) == entry()
            assert next(replies) == entry()
            with pytest.raises(grpc.RpcError) as error:
                next(replies)
        assert error.value.code() is grpc.StatusCode.UNAVAILABLE


def test_http_1_0_cannot_tell_a_stream_that_was_cut(here: Path) -> None:
    """What the how-to says cannot be had."""
    server = Bytes(entry(), status=grpc.StatusCode.UNAVAILABLE)
    with (
        served(server) as at,
        machine(here, LINES, at) as (_, port),
        socket.create_connection(("127.0.0.1", port)) as client,
    ):
        client.sendall(b"GET /v1/accounts/a:watch HTTP/1.0\r\n\r\n")
        received = b"".join(iter(lambda: client.recv(65536), b""))
    assert b" 200 OK" in received
    assert received.endswith(b'{"id":"1"}\n')
    assert b"chunked" not in received


def test_the_log_tells_the_rest_path(here: Path) -> None:
    with served(Bytes(entry())) as server, machine(here, LINES, server) as (envoy, port):
        rest(port, "/v1/entries/1", **{"x-envoy-original-path": "/harmless"})
        path = '"path":"/v1/entries/1"'
        assert eventually("it is logged", lambda: path in envoy.log.read_text(encoding="utf-8"))

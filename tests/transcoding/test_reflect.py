"""Descriptors by server reflection: through a listener, through an Envoy for the moment, and where there are none."""

from __future__ import annotations

import socket
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio
import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from grpc_reflection.v1alpha.reflection_pb2 import ServerReflectionRequest, ServerReflectionResponse

from sidestep.descriptors import reflection, sets
from sidestep.descriptors.protoc import compile_protos
from sidestep.lab import ledger
from sidestep.pki.identity import issue
from sidestep.pki.spiffe import SpiffeId
from tests import documents
from tests.certificates import authority, issue_into
from tests.commands import run
from tests.free_ports import free_port
from tests.transcoding.machine import Bytes, served
from tests.transcoding.protos import spec

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable


@asynccontextmanager
async def behind_mutual_tls() -> AsyncIterator[int]:
    """The ledger with a certificate of the mesh, in the place of gateway and sidecar."""
    identity = issue(authority(), SpiffeId.parse("spiffe://cluster.local/ns/pay/sa/ledger"), datetime.now(UTC)).files()
    credentials = grpc.ssl_server_credentials(
        [(identity["key.pem"], identity["cert-chain.pem"])], identity["root-cert.pem"], require_client_auth=True
    )
    server = ledger.new_server()
    port = server.add_secure_port("127.0.0.1:0", credentials)
    await server.start()
    try:
        yield port
    finally:
        await server.stop(grace=1)


def reflect(directory: Path, *arguments: object, host: str = "ledger.pay") -> Any:
    file = spec(directory, {"descriptor": "ledger.pb"})  # which is not there yet
    return run("transcode", "reflect", file, "--host", host, "-o", directory / "ledger.pb", *arguments)


def test_through_a_listener(tmp_path: Path) -> None:
    with served(ledger.serve_ledger("ledger")) as port:
        for _ in range(2):
            answer = reflect(tmp_path, "--through", f"127.0.0.1:{port}")
            assert (answer.code, answer.err) == (0, "")
    told, kept = sets.read((tmp_path / "ledger.pb").read_bytes()), ledger.descriptors()
    assert told.files == kept.files
    assert [*told.services] == ["pay.v1.Ledger"]
    assert run("transcode", "inspect", tmp_path / "spec.yaml").code == 0


@pytest.mark.parametrize("busy", [False, True], ids=["alone", "beside the machine's own Envoy"])
def test_through_an_envoy_for_the_moment(busy: bool, tmp_path: Path) -> None:
    """Whatever else the workload has is served by an Envoy that runs already, and is not opened a second time."""
    (tmp_path / "bundle").mkdir()
    issue_into(tmp_path / "bundle")
    more: documents.Fields = {}
    with served(behind_mutual_tls()) as port, socket.create_server(("127.0.0.1", 0)) as taken:
        if busy:
            number = taken.getsockname()[1]
            clients = {"cidrs": ["192.0.2.0/24"]}
            ingress = [{"port": 8080, "protocol": "HTTP", "allow": ["*"], "listen": f"127.0.0.2:{number}"}]
            health = {"listen": f"127.0.0.3:{number}"}
            more = {"profile": "forwarder", "clients": clients, "health": health, "ingress": ingress}
            more["proxy"] = {"listen": f"127.0.0.1:{number}"}
        service = documents.service(documents.LEDGER, (50051, "GRPC"))
        mesh = documents.mesh(service, gateways=[{"address": "127.0.0.1", "port": port}])
        call = documents.egress("ledger", transcode={"descriptor": "ledger.pb"})
        file = documents.write(tmp_path / "spec.yaml", mesh, documents.workload(call, **more))
        command = ["transcode", "reflect", file, "--host", "ledger", "-o", tmp_path / "ledger.pb"]
        answer = run(*command, "--bundle", tmp_path / "bundle")
    assert (answer.code, answer.err) == (0, "")
    assert sets.read((tmp_path / "ledger.pb").read_bytes()).files == ledger.descriptors().files


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--bundle", "nothing"], 6, "nothing/certs: holds no certificate"),
        (["--port", "9000"], 2, "no egress port of protocol GRPC or HTTP2 matches: ledger.pay.svc.cluster.local:50051"),
        (["--through", "127.0.0.1:1", "--bundle", "."], 2, "--through and --bundle exclude each other"),
    ],
)
def test_what_cannot_be_asked(
    arguments: list[str], code: int, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    answer = reflect(Path(), *arguments)
    assert answer.code == code
    assert said in answer.err
    assert not Path("ledger.pb").exists()


def test_nobody_is_there(tmp_path: Path) -> None:
    answer = reflect(tmp_path, "--through", f"127.0.0.1:{free_port()}")
    assert answer.code == 1
    assert "UNAVAILABLE" in answer.err
    assert "hint: The machine's Envoy must run" in answer.err


def test_a_server_without_reflection(tmp_path: Path) -> None:
    with served(Bytes()) as port:
        answer = reflect(tmp_path, "--through", f"127.0.0.1:{port}")
    assert answer.code == 1
    assert f"the server behind 127.0.0.1:{port} offers no reflection" in answer.err


class Tells:
    """A server whose reflection lists one service, and says of files whatever it is told to."""

    def __init__(self, say: Callable[[ServerReflectionRequest], ServerReflectionResponse | None]) -> None:
        self._say = say

    async def __aenter__(self) -> int:
        self._server = grpc.aio.server()
        handler = grpc.stream_stream_rpc_method_handler(
            self._answer, ServerReflectionRequest.FromString, ServerReflectionResponse.SerializeToString
        )
        name = "grpc.reflection.v1.ServerReflection"
        handlers = grpc.method_handlers_generic_handler(name, {"ServerReflectionInfo": handler})
        self._server.add_generic_rpc_handlers((handlers,))
        port = self._server.add_insecure_port("127.0.0.1:0")
        await self._server.start()
        return int(port)

    async def __aexit__(self, *_: object) -> None:
        await self._server.stop(grace=1)

    async def _answer(self, requests: AsyncIterator[ServerReflectionRequest], context: Any) -> Any:
        async for request in requests:
            if request.WhichOneof("message_request") == "list_services":
                listed = ServerReflectionResponse()
                listed.list_services_response.service.add(name="demo.S")
                yield listed
            elif (said := self._say(request)) is not None:
                yield said
            else:
                await context.abort(grpc.StatusCode.UNAVAILABLE, "gone")


def file(content: bytes) -> ServerReflectionResponse:
    response = ServerReflectionResponse()
    response.file_descriptor_response.file_descriptor_proto.append(content)
    return response


def endless(request: ServerReflectionRequest) -> ServerReflectionResponse:
    number = int(request.file_by_filename or 0)
    name = str(number) if request.file_by_filename else "0"
    return file(FileDescriptorProto(name=name, dependency=[str(number + 1)]).SerializeToString())


@pytest.mark.parametrize(
    ("say", "why"),
    [
        (lambda _: None, "failed: UNAVAILABLE: gone"),
        (lambda _: file(b"\xff\xff"), "the server tells what is no descriptor"),
        (lambda _: ServerReflectionResponse(), "the server does not know the service"),
        (endless, "the server tells without end"),
    ],
    ids=["gone", "garbage", "nothing", "endless"],
)
def test_a_server_that_tells_nonsense(
    say: Callable[[ServerReflectionRequest], ServerReflectionResponse | None],
    why: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(reflection, "_MOST_FILES", 50)
    with served(Tells(say)) as port:
        answer = reflect(tmp_path, "--through", f"127.0.0.1:{port}")
    assert (answer.code, why in answer.err) == (1, True), answer.err
    assert not (tmp_path / "ledger.pb").exists()


def test_a_service_that_the_server_does_not_have(tmp_path: Path) -> None:
    with served(ledger.serve_ledger("ledger")) as port:
        answer = reflect(tmp_path, "--through", f"127.0.0.1:{port}", "--service", "pay.v1.Nothing")
    assert answer.code == 1
    assert "the server does not know the service" in answer.err
    assert not (tmp_path / "ledger.pb").exists()


def test_the_ledger_s_descriptors_are_those_of_its_proto() -> None:
    directory = ledger.DESCRIPTOR.parent
    made = sets.read(compile_protos(directory, ["ledger.proto"], ["."]))
    assert made.files == ledger.descriptors().files


def test_envoy_can_read_a_set_whose_files_came_in_another_order(tmp_path: Path) -> None:
    """Servers tell file by file, and Envoy wants each after what it imports."""
    (tmp_path / "b.proto").write_text('syntax = "proto3"; package demo; message B {}')
    text = 'syntax = "proto3"; package demo; import "b.proto"; service S { rpc Get(B) returns (B); }'
    (tmp_path / "a.proto").write_text(text)
    files = sets.read(compile_protos(tmp_path, ["a.proto"], ["."])).files
    (tmp_path / "ledger.pb").write_bytes(sets.encode(files[name] for name in ("a.proto", "b.proto")))
    answer = run("render", spec(tmp_path, {"descriptor": "ledger.pb"}), "-o", tmp_path / "bundle")
    assert (answer.code, answer.err) == (0, "")

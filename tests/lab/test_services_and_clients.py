"""The sample services answer the lab's clients, and the clients report what does not answer."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import grpc
import grpc.aio
import pytest

from sidestep.lab import clients
from sidestep.lab.client_certificate import principal
from sidestep.lab.load import keep_calling
from sidestep.lab.services import (
    GRPC_SERVICE,
    serve_application,
    serve_grpc,
    serve_http,
    serve_tcp_echo,
    serve_tcp_greeting,
)
from sidestep.lab.topology import Application

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine

    from sidestep.lab.clients import Answer

CALLS = [
    clients.http1,
    clients.http2,
    clients.grpc_unary,
    clients.grpc_server_stream,
    clients.grpc_client_stream,
    clients.grpc_bidi,
    clients.tcp_echo,
    clients.tcp_greeting,
    clients.websocket,
]
STREAMS = {"ClientStream": clients.grpc_client_stream, "Bidi": clients.grpc_bidi}
CALLER = {"x-forwarded-client-cert": 'By=spiffe://td/b;Hash=1;Subject="";URI=spiffe://td/ns/vms/sa/billing'}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@asynccontextmanager
async def silence() -> AsyncIterator[int]:
    """A server that accepts and never says anything."""
    writers: list[asyncio.StreamWriter] = []
    server = await asyncio.start_server(lambda _reader, writer: writers.append(writer), "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]
        for writer in writers:
            writer.close()


def test_http_tells_what_it_saw() -> None:
    async def run() -> None:
        async with serve_http("reviews") as port:
            first = await clients.http1(port, "/x", headers={"host": "reviews.bookinfo", **CALLER})
            second = await clients.http2(port, "/x", headers={"x-envoy-peer-metadata-id": "me"})
            echo = await clients.http1(port, "/echo", body=b"x" * 3_000_000)
            assert (await clients.http1(port, "/slow?ms=20")).milliseconds >= 20
            assert (await clients.http1(port, "/status/418")).status == "418"
            assert len((await clients.http1(port, "/stream")).text.splitlines()) == 10
        seen, again = json.loads(first.text), json.loads(second.text)
        assert (first.ok, first.principal) == (True, "spiffe://td/ns/vms/sa/billing")
        assert (seen["service"], seen["httpVersion"], seen["host"]) == ("reviews", "1.1", "reviews.bookinfo")
        assert (seen["path"], seen["peerMetadata"]) == ("/x", False)
        assert (again["httpVersion"], again["peerMetadata"], second.principal) == ("2", True, "")
        assert len(echo.text) == 3_000_000

    asyncio.run(run())


def test_an_http_error_is_not_ok() -> None:
    async def run() -> None:
        async with serve_http("reviews") as port:
            answer = await clients.http1(port, "/status/503")
        assert not answer.ok
        assert answer.error

    asyncio.run(run())


def test_websocket_echoes() -> None:
    async def run() -> None:
        async with serve_http("reviews") as port:
            answer = await clients.websocket(port)
        assert (answer.ok, answer.text) == (True, "one\ntwo")

    asyncio.run(run())


@pytest.mark.parametrize(
    "call", [clients.grpc_unary, clients.grpc_server_stream, clients.grpc_client_stream, clients.grpc_bidi]
)
def test_grpc_answers_every_kind_of_call(call: Callable[[int], Awaitable[Answer]]) -> None:
    async def run() -> None:
        async with serve_grpc("ledger") as port:
            answer = await call(port)
        assert (answer.ok, answer.status, answer.principal) == (True, "OK", "")

    asyncio.run(run())


@asynccontextmanager
async def refusal() -> AsyncIterator[int]:
    """A gRPC server that refuses every stream without waiting for a message."""

    async def refuse(_requests: AsyncIterator[bytes], context: grpc.aio.ServicerContext[bytes, bytes]) -> None:
        await context.abort(grpc.StatusCode.PERMISSION_DENIED, "no")

    server = grpc.aio.server()
    handler: grpc.RpcMethodHandler[bytes, bytes] = grpc.stream_stream_rpc_method_handler(refuse)
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler(GRPC_SERVICE, dict.fromkeys(STREAMS, handler)),)
    )
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield port
    await server.stop(0)


@pytest.mark.parametrize("call", STREAMS.values(), ids=STREAMS)
def test_a_refusal_while_messages_are_being_sent_is_told_as_it_is(call: Callable[[int], Awaitable[Answer]]) -> None:
    async def run() -> set[tuple[str, str]]:
        async with refusal() as port:
            answers = [await call(port) for _ in range(30)]
        return {(answer.status, answer.error) for answer in answers}

    assert asyncio.run(run()) == {("PERMISSION_DENIED", "no")}


def test_tcp_echoes_and_greets() -> None:
    async def run() -> None:
        async with serve_tcp_echo("echo") as echo, serve_tcp_greeting("mail") as mail:
            assert (await clients.tcp_echo(echo, b"x" * 1_000_000)).ok
            answer = await clients.tcp_greeting(mail)
        assert (answer.ok, answer.text) == (True, "220 mail ready\r\n250 NOOP\r\n")

    asyncio.run(run())


@pytest.mark.parametrize("call", CALLS)
def test_a_closed_port_is_an_answer(call: Callable[[int], Coroutine[None, None, Answer]]) -> None:
    answer = asyncio.run(call(free_port()))
    assert not answer.ok
    assert answer.error


@pytest.mark.parametrize("call", CALLS)
def test_no_call_outlasts_its_deadline(call: Callable[..., Awaitable[Answer]]) -> None:
    async def run() -> Answer:
        async with silence() as port:
            return await call(port, deadline=0.2)

    answer = asyncio.run(run())
    assert not answer.ok
    assert answer.milliseconds < 5000


@pytest.mark.parametrize("application", Application)
def test_a_service_is_gone_after_its_block_even_with_a_connection_open(application: Application) -> None:
    async def run() -> None:
        async with serve_application(application, "reviews") as port:
            _reader, writer = await asyncio.open_connection("127.0.0.1", port)
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", port)
        writer.close()

    asyncio.run(run())


def test_a_slow_request_does_not_keep_a_service_alive() -> None:
    async def run() -> None:
        async with serve_http("reviews") as port:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"GET / HTTP/1.1\r\nhost: a\r\n\r\nGET /slow?ms=30000 HTTP/1.1\r\nhost: a\r\n\r\n")
            await reader.readline()
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", port)
        writer.close()

    started = time.monotonic()
    asyncio.run(run())
    assert time.monotonic() - started < 10


def test_a_load_counts_what_succeeds() -> None:
    async def run() -> None:
        async with serve_http("reviews") as port, keep_calling(port, concurrency=4) as load:
            await load.more(50)
        assert load.total >= 50
        assert load.failed == 0

    asyncio.run(run())


def test_a_load_counts_what_fails_and_keeps_the_first_errors() -> None:
    async def run() -> None:
        async with serve_http("reviews") as port:
            async with keep_calling(port, path="/status/503", concurrency=4) as refused:
                await refused.more(20)
            async with keep_calling(free_port(), concurrency=2) as closed:
                await closed.more(10)
        assert refused.failed == refused.total
        assert refused.errors[0].startswith("503")
        assert closed.failed == closed.total
        assert 1 <= len(closed.errors) <= 5

    asyncio.run(run())


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("", ""),
        ('By=a;Hash=1;Subject="CN=x,O=y";URI=spiffe://td/ns/a/sa/b', "spiffe://td/ns/a/sa/b"),
        ("By=a;URI=spiffe://td/forged,By=b;URI=spiffe://td/real", "spiffe://td/real"),
        ("By=spiffe://td/ns/a/sa/b;Hash=1", ""),
    ],
)
def test_the_principal_is_the_last_hops(header: str, expected: str) -> None:
    assert principal(header) == expected

"""Clients that call through a machine's local listeners, in plain text on loopback.

None raises because the network refused: what came back, or why nothing did, is in the `Answer`. All have a deadline.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import grpc
import grpc.aio
import httpx2
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus, WebSocketException

from sidestep.lab.services import GRPC_SERVICE
from sidestep.proxy.admin import short

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
    from pathlib import Path

DEADLINE = 10.0
"""Seconds that one call may take."""
NO_PROXY = (("grpc.enable_http_proxy", 0),)
CHANNEL_OPTIONS = (
    ("grpc.enable_retries", 0),
    ("grpc.use_local_subchannel_pool", 1),
)


@dataclass(frozen=True)
class Answer:
    """What a caller got."""

    ok: bool
    status: str = ""
    """The HTTP status, the name of the gRPC status, or empty where the protocol has none."""
    text: str = ""
    """What arrived, however far it came."""
    principal: str = ""
    """Which principal the service was told that the caller is."""
    milliseconds: float = 0.0
    error: str = ""
    """Why it is not ok."""


async def http1(
    port: int,
    path: str = "/",
    *,
    body: bytes | None = None,
    headers: Mapping[str, str] | None = None,
    by_name: str = "",
    deadline: float = DEADLINE,
) -> Answer:
    """One request over HTTP/1.1: GET, or POST where there is a body.

    Pass ``headers={"host": …}`` to ask for a service by name. With ``by_name`` (host and port) the local port is an
    HTTP proxy's, which here and below is called as clients call the one that ``http_proxy`` names.
    """
    if not by_name:
        request = _request(port, path, body, headers)
        return await _attempt(lambda: _http(request, http_client()), deadline)
    request = httpx2.Request(
        "GET" if body is None else "POST", f"http://{by_name}{path}", content=body, headers=headers
    )
    return await _attempt(lambda: _http(request, http_client(proxy=_proxy(port))), deadline)


def _proxy(port: int) -> str:
    return f"http://127.0.0.1:{port}"


async def unix(path: Path, *, deadline: float = DEADLINE) -> Answer:
    """One GET over a unix-domain socket."""
    with short(path) as name:
        client = httpx2.AsyncClient(transport=httpx2.AsyncHTTPTransport(uds=name), timeout=DEADLINE)
        return await _attempt(lambda: _http(httpx2.Request("GET", "http://localhost/"), client), deadline)


async def at(address: str, port: int, name: str, *, deadline: float = DEADLINE) -> Answer:
    """One GET to a name that stands for an address."""
    request = httpx2.Request("GET", f"http://{address}:{port}/", headers={"host": f"{name}:{port}"})
    return await _attempt(lambda: _http(request, http_client()), deadline)


async def http2(
    port: int,
    path: str = "/",
    *,
    body: bytes | None = None,
    headers: Mapping[str, str] | None = None,
    deadline: float = DEADLINE,
) -> Answer:
    """The same over HTTP/2 with prior knowledge."""
    request = _request(port, path, body, headers)
    return await _attempt(lambda: _http(request, http_client(http2=True)), deadline)


def _request(port: int, path: str, body: bytes | None, headers: Mapping[str, str] | None) -> httpx2.Request:
    method = "GET" if body is None else "POST"
    return httpx2.Request(method, f"http://127.0.0.1:{port}{path}", content=body, headers=headers)


async def _http(request: httpx2.Request, client: httpx2.AsyncClient) -> Answer:
    async with client:
        response = await client.send(request)
    text = response.text
    error = "" if response.is_success else text.strip()[:300] or response.reason_phrase
    return Answer(response.is_success, str(response.status_code), text, _principal(text), error=error)


def http_client(*, http2: bool = False, connections: int = 1, proxy: str | None = None) -> httpx2.AsyncClient:
    """A client that calls as is, or through a proxy, whatever the environment says."""
    limits = httpx2.Limits(max_connections=connections, max_keepalive_connections=connections)
    return httpx2.AsyncClient(
        http1=not http2, http2=http2, verify=False, trust_env=False, timeout=DEADLINE, limits=limits, proxy=proxy
    )


async def grpc_unary(port: int, message: str = "hello", *, by_name: str = "", deadline: float = DEADLINE) -> Answer:
    """One gRPC call: a message for a message. gRPC calls a proxy by CONNECT."""

    async def call(channel: grpc.aio.Channel) -> list[bytes]:
        method: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(_method("Unary"))
        return [await method(message.encode())]

    return await _grpc(port, call, [message], deadline, by_name)


async def grpc_server_stream(port: int, message: str = "hello", *, deadline: float = DEADLINE) -> Answer:
    """One gRPC call: three messages for one."""

    async def call(channel: grpc.aio.Channel) -> list[bytes]:
        method: grpc.aio.UnaryStreamMultiCallable[bytes, bytes] = channel.unary_stream(_method("ServerStream"))
        return [reply async for reply in method(message.encode())]

    return await _grpc(port, call, [message] * 3, deadline)


async def grpc_client_stream(
    port: int, messages: Sequence[str] = ("a", "b", "c"), *, deadline: float = DEADLINE
) -> Answer:
    """One gRPC call: one message for many."""

    def call(channel: grpc.Channel) -> list[bytes]:
        method: grpc.StreamUnaryMultiCallable[bytes, bytes] = channel.stream_unary(_method("ClientStream"))
        return [method(iter([message.encode() for message in messages]), timeout=deadline)]

    return await _grpc_in_thread(port, call, messages, deadline)


async def grpc_bidi(port: int, messages: Sequence[str] = ("a", "b", "c"), *, deadline: float = DEADLINE) -> Answer:
    """One gRPC call: a message for each, as they come."""

    def call(channel: grpc.Channel) -> list[bytes]:
        method: grpc.StreamStreamMultiCallable[bytes, bytes] = channel.stream_stream(_method("Bidi"))
        return [*method(iter([message.encode() for message in messages]), timeout=deadline)]

    return await _grpc_in_thread(port, call, messages, deadline)


def _method(name: str) -> str:
    return f"/{GRPC_SERVICE}/{name}"


async def _grpc(
    port: int,
    call: Callable[[grpc.aio.Channel], Awaitable[list[bytes]]],
    expected: Sequence[str],
    deadline: float,
    by_name: str = "",
) -> Answer:
    target = by_name or f"127.0.0.1:{port}"
    way: Sequence[tuple[str, str | int]] = [("grpc.http_proxy", _proxy(port))] if by_name else NO_PROXY

    async def made() -> list[bytes]:
        async with grpc.aio.insecure_channel(target, options=[*CHANNEL_OPTIONS, *way]) as channel:
            return await call(channel)

    return await _grpc_answer(made, expected, deadline)


async def _grpc_in_thread(
    port: int, call: Callable[[grpc.Channel], list[bytes]], expected: Sequence[str], deadline: float
) -> Answer:
    """For streams of messages: grpc.aio says INTERNAL, not the status, where a call ends while one is being sent."""

    def made() -> list[bytes]:
        with grpc.insecure_channel(f"127.0.0.1:{port}", options=[*CHANNEL_OPTIONS, *NO_PROXY]) as channel:
            return call(channel)

    # The call itself ends by its own deadline.
    return await _grpc_answer(lambda: asyncio.to_thread(made), expected, 2 * deadline)


async def _grpc_answer(made: Callable[[], Awaitable[list[bytes]]], expected: Sequence[str], deadline: float) -> Answer:
    async def attempt() -> Answer:
        try:
            replies = [reply.decode() for reply in await made()]
        except grpc.RpcError as error:
            return Answer(ok=False, status=error.code().name, error=error.details() or "")
        got = [message for reply in replies for message in json.loads(reply)["messages"]]
        return _compared(Answer(ok=True, status="OK", text="\n".join(replies)), got, list(expected))

    return await _attempt(attempt, deadline)


async def tcp_echo(
    port: int,
    message: bytes = b"ping",
    *,
    by_name: str = "",
    tls: tuple[ssl.SSLContext, str] | None = None,
    deadline: float = DEADLINE,
) -> Answer:
    """Send bytes and read as many back. A proxy is called by CONNECT; ``tls`` checks the server's name, end to end."""

    async def attempt() -> Answer:
        async with _tcp(port, tls) as (reader, writer):
            if by_name and (refusal := await _connect(reader, writer, by_name)):
                return refusal
            writer.write(message)
            got = b""
            with suppress(ConnectionError):
                while len(got) < len(message) and (data := await reader.read(65536)):
                    got += data
            if got != message:
                return Answer(ok=False, text=_text(got), error="the connection was closed before the echo")
            return Answer(ok=True, text=_text(got))

    return await _attempt(attempt, deadline)


async def _connect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, by_name: str) -> Answer | None:
    """Asks for a tunnel; the answer where there is none."""
    writer.write(f"CONNECT {by_name} HTTP/1.1\r\nhost: {by_name}\r\n\r\n".encode())
    head = _text(await reader.readuntil(b"\r\n\r\n"))
    status = head.split(" ", 2)[1]
    if status == "200":
        return None
    length = re.search(r"(?im)^content-length: (\d+)", head)
    body = _text(await reader.readexactly(int(length[1]))) if length else ""
    return Answer(ok=False, status=status, text=body, error=body.strip())


async def balanced(port: int, header: str, *, deadline: float = DEADLINE) -> Answer:
    """One GET on a connection of a load balancer, which begins with what the PROXY protocol says of its client."""

    async def attempt() -> Answer:
        async with _tcp(port) as (reader, writer):
            writer.write(f"{header}GET / HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n".encode())
            head, _, body = _text(await reader.read()).partition("\r\n\r\n")
        status = head.split(" ", 2)[1] if head else "no byte"
        return Answer(status == "200", status, body, _principal(body), error=body.strip()[:300])

    return await _attempt(attempt, deadline)


async def tcp_greeting(port: int, line: str = "NOOP", *, deadline: float = DEADLINE) -> Answer:
    """Read the greeting of a service that speaks first, then send a line and read the reply.

    ``text`` is all that arrived, so it tells whether the greeting was seen even where the call was cut afterwards.
    """

    async def attempt() -> Answer:
        async with _tcp(port) as (reader, writer):
            greeting = await _line(reader)
            if not greeting:
                return Answer(ok=False, error="the connection was closed before the greeting")
            writer.write(f"{line}\r\n".encode())
            reply = await _line(reader)
            cut = "" if reply else "the connection was closed after the greeting, at the first byte sent"
            return Answer(ok=bool(reply), text=greeting + reply, error=cut)

    return await _attempt(attempt, deadline)


async def _line(reader: asyncio.StreamReader) -> str:
    with suppress(ConnectionError):
        return _text(await reader.readline())
    return ""


@asynccontextmanager
async def _tcp(
    port: int, tls: tuple[ssl.SSLContext, str] | None = None
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    context, name = tls or (None, None)
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname=name)
    try:
        yield reader, writer
    finally:
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()


async def websocket(
    port: int, messages: Sequence[str] = ("one", "two"), *, by_name: str = "", deadline: float = DEADLINE
) -> Answer:
    """Upgrade to a WebSocket, and have each message echoed. A proxy is called by CONNECT."""
    uri, proxy = (f"ws://{by_name}/", _proxy(port)) if by_name else (f"ws://127.0.0.1:{port}/", None)
    return await _attempt(lambda: _websocket(uri, messages, proxy), deadline)


async def _websocket(uri: str, messages: Sequence[str], proxy: str | None) -> Answer:
    got: list[str] = []
    try:
        async with connect(uri, proxy=proxy, close_timeout=1) as connection:
            for message in messages:
                await connection.send(message)
                got.append(str(await connection.recv()))
            caller = connection.response.headers.get("x-principal", "") if connection.response else ""
    except InvalidStatus as refusal:
        body = bytes(refusal.response.body or b"")
        return Answer(ok=False, status=str(refusal.response.status_code), text=_text(body), error=_text(body))
    answer = Answer(ok=True, status="101", text="\n".join(got), principal=caller)
    return _compared(answer, got, list(messages))


async def _attempt(call: Callable[[], Awaitable[Answer]], deadline: float) -> Answer:
    started = time.perf_counter()
    try:
        async with asyncio.timeout(deadline):
            answer = await call()
    except (httpx2.HTTPError, WebSocketException, OSError, EOFError) as error:  # TimeoutError is an OSError
        answer = Answer(ok=False, error=words(error))
    return replace(answer, milliseconds=(time.perf_counter() - started) * 1000)


def words(error: BaseException) -> str:
    """What an answer says of an exception."""
    return f"{type(error).__name__}: {error}".rstrip(": ")


def _compared(answer: Answer, got: list[str], expected: list[str]) -> Answer:
    if got != expected:
        return replace(answer, ok=False, error=f"sent {expected}, got {got}")
    return replace(answer, principal=answer.principal or _principal(answer.text.partition("\n")[0]))


def _principal(text: str) -> str:
    with suppress(ValueError):
        document = json.loads(text)
        if isinstance(document, dict):
            return str(document.get("principal", ""))
    return ""


def _text(data: bytes) -> str:
    return data.decode(errors="replace")

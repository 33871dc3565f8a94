"""The sample services behind the lab's sidecars. They speak plain text on loopback and bind free ports.

Each starts with ``async with`` and gives the port it bound; leaving the block stops it. Every answer says which
principal the sidecar saw, so that a caller can tell what it was taken for.
"""

from __future__ import annotations

import asyncio
import json
import re
import socket
import sys
from collections import Counter
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import TYPE_CHECKING
from urllib.parse import parse_qs

import grpc
import grpc.aio
from hypercorn.asyncio import serve
from hypercorn.config import Config

from sidestep.lab.application_tls import server_context
from sidestep.lab.client_certificate import principal
from sidestep.lab.ledger import serve_ledger
from sidestep.lab.topology import Application

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
    from contextlib import AbstractAsyncContextManager

    from hypercorn.typing import (
        ASGIReceiveCallable,
        ASGISendCallable,
        HTTPScope,
        Scope,
        WebsocketScope,
    )

    Headers = dict[str, str]

GRPC_SERVICE = "sidestep.lab.Echo"
_STOP_SECONDS = 1.0


def serve_application(application: Application, name: str, pod: int = 0) -> AbstractAsyncContextManager[int]:
    """Start the sample service that answers behind a port of one pod, and give its own port."""
    starters: dict[Application, Callable[[str, int], AbstractAsyncContextManager[int]]] = {
        Application.HTTP: serve_http,
        Application.GRPC: serve_grpc,
        Application.LEDGER: serve_ledger,
        Application.TCP_ECHO: serve_tcp_echo,
        Application.TCP_GREETING: serve_tcp_greeting,
        Application.TLS: serve_tls_echo,
    }
    return starters[application](name, pod)


# HTTP/1.1, HTTP/2 with prior knowledge, and WebSocket


@asynccontextmanager
async def serve_http(name: str, pod: int = 0, *, port: int = 0) -> AsyncIterator[int]:
    """An HTTP service of one pod, on ``port`` or any free one.

    It has ``/``, ``/echo``, ``/slow…?ms=``, ``/status/<code>``, ``/stream``; WebSockets echo.
    ``/second-time/<anything>`` fails with 503 the first time that it is asked for.
    """
    stopping = asyncio.Event()
    with _listening_socket(port) as listener:
        port = int(listener.getsockname()[1])
        config = _hypercorn_config(listener.detach())  # the server closes it
        task = asyncio.create_task(serve(HttpEcho(name, pod), config, shutdown_trigger=stopping.wait))
        try:
            yield port
        finally:
            stopping.set()
            await _ended(task)


def _hypercorn_config(listener: int) -> Config:
    config = Config()
    config.bind = [f"fd://{listener}"]
    config.errorlog = None
    config.graceful_timeout = _STOP_SECONDS
    # A sidecar keeps its connections: if the service closed them on its own, requests would be lost.
    config.keep_alive_timeout = 24 * 3600
    config.keep_alive_max_requests = sys.maxsize
    return config


async def _ended(task: asyncio.Task[None]) -> None:
    """Wait for a server to end, and end it where a request keeps it."""
    _, running = await asyncio.wait({task}, timeout=2 * _STOP_SECONDS)
    if running:
        task.cancel()
    with suppress(asyncio.CancelledError):
        await task


@contextmanager
def _listening_socket(port: int) -> Iterator[socket.socket]:
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", port))
        listener.listen(128)
        yield listener


class HttpEcho:
    """The HTTP sample service, as an ASGI application."""

    def __init__(self, name: str, pod: int = 0) -> None:
        self.name = name
        self.pod = f"{name}-{pod}"
        self._heard: Counter[str] = Counter()

    async def __call__(self, scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        """One request, one WebSocket, or the server's life."""
        if scope["type"] == "lifespan":
            await _lifespan(receive, send)
        elif scope["type"] == "websocket":
            await _echo_websocket(scope, receive, send)
        else:
            await self._answer(scope, receive, send)

    async def _answer(self, scope: HTTPScope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        path, body = scope["path"], await _body(receive)
        self._heard[path] += 1
        if path.startswith("/slow"):
            await asyncio.sleep(_milliseconds(scope) / 1000)
        if path == "/stream":
            await _respond(send, 200, b"text/plain", [b"chunk %d\n" % number for number in range(10)])
        elif path == "/echo":
            await _respond(send, 200, b"application/octet-stream", [body])
        else:
            status = int(path.removeprefix("/status/")) if re.fullmatch(r"/status/[2-5]\d\d", path) else 200
            if path.startswith("/second-time/") and self._heard[path] == 1:
                status = 503
            await _respond(send, status, b"application/json", [json.dumps(self._seen(scope)).encode()])

    def _seen(self, scope: HTTPScope) -> dict[str, object]:
        headers = _headers(scope)
        return {
            "service": self.name,
            "pod": self.pod,
            "httpVersion": scope["http_version"],
            "method": scope["method"],
            "heard": self._heard[scope["path"]],
            "path": scope["path"],
            "host": headers.get("host", ""),
            "principal": principal(headers.get("x-forwarded-client-cert", "")),
            "peerMetadata": any(name.startswith("x-envoy-peer-metadata") for name in headers),
            "headers": headers,
        }


def _headers(scope: HTTPScope | WebsocketScope) -> Headers:
    headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
    authority = headers.pop(":authority", "")
    return {"host": authority, **headers} if authority else headers


def _milliseconds(scope: HTTPScope) -> float:
    [value, *_] = parse_qs(scope["query_string"].decode("latin-1")).get("ms", ["0"])
    return min(float(value), 60_000) if value.isdigit() else 0.0


async def _body(receive: ASGIReceiveCallable) -> bytes:
    chunks: list[bytes] = []
    while True:
        event = await receive()
        if event["type"] != "http.request":
            return b"".join(chunks)
        chunks.append(event["body"])
        if not event["more_body"]:
            return b"".join(chunks)


async def _respond(send: ASGISendCallable, status: int, content_type: bytes, chunks: list[bytes]) -> None:
    headers = [(b"content-type", content_type)]
    if len(chunks) == 1:
        headers.append((b"content-length", str(len(chunks[0])).encode()))
    await send({"type": "http.response.start", "status": status, "headers": headers, "trailers": False})
    for chunk in chunks:
        await send({"type": "http.response.body", "body": chunk, "more_body": True})
    await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _echo_websocket(scope: WebsocketScope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
    await receive()
    caller = principal(_headers(scope).get("x-forwarded-client-cert", ""))
    await send({"type": "websocket.accept", "subprotocol": None, "headers": [(b"x-principal", caller.encode())]})
    while True:
        event = await receive()
        if event["type"] != "websocket.receive":
            return
        await send({"type": "websocket.send", "bytes": event["bytes"], "text": event["text"]})


async def _lifespan(receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
    await receive()
    await send({"type": "lifespan.startup.complete"})
    await receive()
    await send({"type": "lifespan.shutdown.complete"})


# gRPC


@asynccontextmanager
async def serve_grpc(name: str, pod: int = 0) -> AsyncIterator[int]:
    """A gRPC service, `GRPC_SERVICE`, with one method a kind of call. Messages are JSON: no generated code."""
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    server.add_generic_rpc_handlers((_grpc_handlers(name, pod),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield int(port)
    finally:
        await server.stop(grace=_STOP_SECONDS)


def _grpc_handlers(name: str, pod: int) -> grpc.GenericRpcHandler:
    echo = GrpcEcho(name, pod)
    methods: dict[str, grpc.RpcMethodHandler[bytes, bytes]] = {
        "Unary": grpc.unary_unary_rpc_method_handler(echo.unary),
        "ServerStream": grpc.unary_stream_rpc_method_handler(echo.server_stream),
        "ClientStream": grpc.stream_unary_rpc_method_handler(echo.client_stream),
        "Bidi": grpc.stream_stream_rpc_method_handler(echo.bidi),
    }
    return grpc.method_handlers_generic_handler(GRPC_SERVICE, methods)


class GrpcEcho:
    """The gRPC sample service: it returns what it was sent, with the principal that it saw."""

    def __init__(self, name: str, pod: int = 0) -> None:
        self.name = name
        self.pod = f"{name}-{pod}"

    async def unary(self, request: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
        """One message for one."""
        return self._reply(context, [request])

    async def server_stream(
        self, request: bytes, context: grpc.aio.ServicerContext[bytes, bytes]
    ) -> AsyncIterator[bytes]:
        """Three messages for one."""
        for _ in range(3):
            yield self._reply(context, [request])

    async def client_stream(
        self, requests: AsyncIterator[bytes], context: grpc.aio.ServicerContext[bytes, bytes]
    ) -> bytes:
        """One message for many."""
        return self._reply(context, [request async for request in requests])

    async def bidi(
        self, requests: AsyncIterator[bytes], context: grpc.aio.ServicerContext[bytes, bytes]
    ) -> AsyncIterator[bytes]:
        """One message for each, as they come."""
        async for request in requests:
            yield self._reply(context, [request])

    def _reply(self, context: grpc.aio.ServicerContext[bytes, bytes], requests: list[bytes]) -> bytes:
        metadata = {str(key): str(value) for key, value in context.invocation_metadata() or ()}
        caller = principal(metadata.get("x-forwarded-client-cert", ""))
        messages = [request.decode(errors="replace") for request in requests]
        answer = {"service": self.name, "pod": self.pod, "principal": caller, "messages": messages}
        return json.dumps(answer).encode()


# TCP


@asynccontextmanager
async def serve_tcp_echo(_name: str, _pod: int = 0) -> AsyncIterator[int]:
    """A TCP service that returns the bytes it gets."""

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()

    async with _serve_tcp(echo) as port:
        yield port


@asynccontextmanager
async def serve_tcp_greeting(name: str, _pod: int = 0) -> AsyncIterator[int]:
    """A TCP service that speaks first (``220 <name> ready``), as SMTP and MySQL do, and then answers lines."""

    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(f"220 {name} ready\r\n".encode())
        while line := await reader.readline():
            writer.write(b"250 " + line.strip() + b"\r\n")
            await writer.drain()

    async with _serve_tcp(greet) as port:
        yield port


@asynccontextmanager
async def serve_tls_echo(name: str, _pod: int = 0) -> AsyncIterator[int]:
    """The same over TLS of the application's own: its certificate is for ``NAME.example`` and none of the mesh's."""

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()

    async with _serve_tcp(echo, server_context(f"{name}.example")) as port:
        yield port


@asynccontextmanager
async def _serve_tcp(
    answer: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
    tls: ssl.SSLContext | None = None,
) -> AsyncIterator[int]:
    connections: set[asyncio.Task[None]] = set()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with suppress(OSError):
                await answer(reader, writer)
        finally:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(handle(reader, writer))
        connections.add(task)
        task.add_done_callback(connections.discard)

    server = await asyncio.start_server(accept, "127.0.0.1", 0, ssl=tls)
    try:
        yield int(server.sockets[0].getsockname()[1])
    finally:
        server.close()
        for task in connections:
            task.cancel()
        await asyncio.gather(*connections, return_exceptions=True)
        await server.wait_closed()

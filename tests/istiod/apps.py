"""The sample application behind a sidecar: one process that serves every port of a service.

``python -m tests.istiod.apps CERTIFICATE KEY``; the two are for its own TLS on port 8443.
"""

from __future__ import annotations

import asyncio
import json
import ssl
import sys
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import grpc.aio
from hypercorn.asyncio import serve
from hypercorn.config import Config

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]

HTTP_PORTS = (9080, 9081, 9083)
SERVING = "Running on http://0.0.0.0:9083"
GRPC_PORT = 50051
ECHO_PORTS = (9000, 9082)
GREETING_PORT = 9001
TLS_PORT = 8443
GREETING = b"220 ready\r\n"
GRPC_SERVICE = "sidestep.test.Echo"


async def web(scope: dict[str, Any], receive: Receive, send: Send) -> None:
    """ASGI: answer with what was heard; over a WebSocket, echo."""
    if scope["type"] == "http":
        await _answer(scope, receive, send)
    elif scope["type"] == "websocket":
        await _echo_messages(receive, send)
    else:
        await send({"type": f"{(await receive())['type']}.complete"})


async def _answer(scope: dict[str, Any], receive: Receive, send: Send) -> None:
    body = b""
    while (event := await receive())["type"] == "http.request":
        body += event["body"]
        if not event.get("more_body"):
            break
    headers = [[name.decode(), value.decode()] for name, value in scope["headers"]]
    heard = {"version": scope["http_version"], "path": scope["path"], "headers": headers, "body": body.decode()}
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]})
    await send({"type": "http.response.body", "body": json.dumps(heard).encode()})


async def _echo_messages(receive: Receive, send: Send) -> None:
    while (event := await receive())["type"] != "websocket.disconnect":
        if event["type"] == "websocket.connect":
            await send({"type": "websocket.accept"})
        else:
            await send({"type": "websocket.send", "bytes": event.get("bytes"), "text": event.get("text")})


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Send back what comes."""
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    except ConnectionError:
        pass
    finally:
        writer.close()


async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Speak first, then echo."""
    writer.write(GREETING)
    await echo(reader, writer)


async def say(request: bytes, context: Any) -> bytes:
    """Unary: the request and the metadata that came with it."""
    metadata = {key: value for key, value in context.invocation_metadata() if isinstance(value, str)}
    return json.dumps({"request": request.decode(), "metadata": metadata}).encode()


async def chat(requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
    """Streaming in both directions."""
    async for request in requests:
        yield b"heard " + request


def grpc_server() -> grpc.aio.Server:
    server = grpc.aio.server()
    methods: dict[str, grpc.RpcMethodHandler[bytes, bytes]] = {
        "Say": grpc.unary_unary_rpc_method_handler(say),
        "Chat": grpc.stream_stream_rpc_method_handler(chat),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(GRPC_SERVICE, methods),))
    server.add_insecure_port(f"0.0.0.0:{GRPC_PORT}")
    return server


async def main(certificate: str, key: str) -> None:
    """Serve until killed. The HTTP ports are opened last, and Hypercorn says when."""
    own_tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    own_tls.load_cert_chain(certificate, key)
    for port in ECHO_PORTS:
        await asyncio.start_server(echo, "0.0.0.0", port)
    await asyncio.start_server(greet, "0.0.0.0", GREETING_PORT)
    await asyncio.start_server(echo, "0.0.0.0", TLS_PORT, ssl=own_tls)
    rpcs = grpc_server()
    await rpcs.start()
    config = Config()
    config.bind = [f"0.0.0.0:{port}" for port in HTTP_PORTS]
    config.accesslog = None
    await serve(web, config)  # type: ignore[arg-type]
    await rpcs.stop(None)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))

"""The machine's applications: calls to its Envoy, made in its network namespace by a process of their own.

Every call returns plain data. What a refused TCP client sees (end of stream, reset) is data too, never an exception.
"""

from __future__ import annotations

import ctypes
import http.client
import json
import socket
import ssl
import sys
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import httpx2
from websockets.sync.client import connect

from tests.envoys import eventually

from .apps import GRPC_SERVICE

if TYPE_CHECKING:
    from collections.abc import Iterator

CLONE_NEWNET = 0x40000000
LISTEN = "0A"
SECONDS = 10

Address = tuple[str, int]


def inside(namespace: str) -> ProcessPoolExecutor:
    """Processes that run functions of this module in a network namespace."""
    return ProcessPoolExecutor(3, get_context("spawn"), _enter, (namespace,))


def _enter(namespace: str) -> None:
    with Path("/run/netns", namespace).open("rb") as file:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.setns(file.fileno(), CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), "setns", namespace)


@dataclass(frozen=True)
class Response:
    """What an HTTP client got; ``heard`` is what the application says it heard, ``{}`` where none answered."""

    status: int
    headers: dict[str, str]
    body: str
    heard: dict[str, Any] = field(default_factory=dict)

    def request_headers(self, name: str) -> list[str]:
        """The values under which the application heard a header."""
        return [value for key, value in self.heard["headers"] if key == name]


@dataclass(frozen=True)
class Rpc:
    """The outcome of a gRPC call."""

    code: str
    details: str = ""
    replies: tuple[str, ...] = ()

    @property
    def heard(self) -> dict[str, Any]:
        """What the application says it heard."""
        heard: dict[str, Any] = json.loads(self.replies[0])
        return heard


@dataclass(frozen=True)
class Load:
    """The outcome of calls made one after another by several callers."""

    answered: int
    failures: tuple[str, ...]


def http_call(
    address: Address, method: str = "GET", path: str = "/", body: str = "", headers: dict[str, str] | None = None
) -> Response:
    connection = http.client.HTTPConnection(*address, timeout=SECONDS)
    try:
        return _request(connection, method, path, body, headers or {})
    finally:
        connection.close()


def _request(
    connection: http.client.HTTPConnection, method: str, path: str, body: str, headers: dict[str, str]
) -> Response:
    connection.request(method, path, body or None, headers)
    response = connection.getresponse()
    text = response.read().decode()
    heard = json.loads(text) if response.headers.get("content-type") == "application/json" else {}
    return Response(response.status, {key.lower(): value for key, value in response.getheaders()}, text, heard)


def http_load(address: Address, callers: int, stop: Path) -> Load:
    """Calls over kept-alive connections until the file ``stop`` is there."""
    with ThreadPoolExecutor(callers) as pool:
        done = list(pool.map(lambda _: _call_until(address, stop), range(callers)))
    failures = [failure for load in done for failure in load.failures]
    return Load(sum(load.answered for load in done), tuple(failures))


def _call_until(address: Address, stop: Path) -> Load:
    answered, failures = 0, []
    connection = http.client.HTTPConnection(*address, timeout=SECONDS)
    while not stop.exists():
        try:
            response = _request(connection, "GET", "/", "", {})
        except (OSError, http.client.HTTPException) as error:
            failures.append(repr(error))
            connection.close()
            continue
        answered += 1
        if response.status != 200:
            failures.append(f"{response.status} {response.body}")
    connection.close()
    return Load(answered, tuple(failures))


def exchange(address: Address, message: bytes, greeting: int = 0) -> bytes:
    """All that came back: ``greeting`` bytes are awaited before the message is sent, then as many as it has."""
    with socket.create_connection(address, SECONDS) as connection:
        first = _read(connection, greeting)
        try:
            connection.sendall(message)
        except ConnectionError:
            return first
        return first + _read(connection, len(message))


def send_and_end(address: Address, message: bytes) -> bytes:
    """Send, end only this direction, and read until the other side ends too."""
    with socket.create_connection(address, SECONDS) as connection:
        connection.sendall(message)
        connection.shutdown(socket.SHUT_WR)
        return _read(connection, len(message) + 1)


def tls_exchange(address: Address, message: bytes, *, root: str) -> bytes:
    """The application's own TLS, from end to end; its certificate has no DNS name."""
    context = ssl.create_default_context(cadata=root)
    context.check_hostname = False
    plain = socket.create_connection(address, SECONDS)
    with context.wrap_socket(plain) as connection:
        connection.sendall(message)
        return _read(connection, len(message))


def tcp_load(address: Address, callers: int, stop: Path) -> Load:
    """A new connection for each exchange, until the file ``stop`` is there."""
    with ThreadPoolExecutor(callers) as pool:
        done = list(pool.map(lambda _: _exchange_until(address, stop), range(callers)))
    failures = [failure for load in done for failure in load.failures]
    return Load(sum(load.answered for load in done), tuple(failures))


def _exchange_until(address: Address, stop: Path) -> Load:
    answered, failures = 0, []
    while not stop.exists():
        reply = exchange(address, b"ping")
        answered += 1
        if reply != b"ping":
            failures.append(repr(reply))
    return Load(answered, tuple(failures))


def _read(connection: socket.socket, count: int) -> bytes:
    data = b""
    try:
        while len(data) < count and (piece := connection.recv(count - len(data))):
            data += piece
    except ConnectionError:
        pass
    return data


def grpc_unary(address: Address, message: str) -> Rpc:
    return _rpc(address, lambda channel: [channel.unary_unary(_path("Say"))(message.encode(), timeout=SECONDS)])


def grpc_streams_at_once(address: Address, count: int) -> list[Rpc]:
    """``count`` calls, each of which lasts over several messages."""
    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(lambda number: grpc_stream(address, [str(number)] * 5), range(count)))


def grpc_stream(address: Address, messages: list[str]) -> Rpc:
    """Both directions; the next message is sent when the last one was answered."""

    def run(channel: grpc.Channel) -> list[bytes]:
        replies: list[bytes] = []
        call = channel.stream_stream(_path("Chat"), bytes, bytes)
        for reply in call(_in_turn(messages, replies), timeout=SECONDS):
            replies.append(reply)  # noqa: PERF402 - the sender looks at it meanwhile
        return replies

    return _rpc(address, run)


def _in_turn(messages: list[str], replies: list[bytes]) -> Iterator[bytes]:
    for number, message in enumerate(messages):
        eventually("a reply", partial(_as_many, replies, number), SECONDS)
        yield message.encode()


def _as_many(replies: list[bytes], number: int) -> bool:
    return len(replies) == number


def _rpc(address: Address, run: Any) -> Rpc:
    with grpc.insecure_channel(f"{address[0]}:{address[1]}", [("grpc.enable_http_proxy", 0)]) as channel:
        try:
            replies = run(channel)
        except grpc.RpcError as error:
            return Rpc(error.code().name, error.details() or "")
        return Rpc("OK", "", tuple(reply.decode() for reply in replies))


def _path(method: str) -> str:
    return f"/{GRPC_SERVICE}/{method}"


def http2_call(address: Address) -> tuple[str, Response]:
    """HTTP/2 without TLS and without an upgrade: (version of the answer, answer)."""
    with httpx2.Client(http1=False, http2=True, trust_env=False, timeout=SECONDS) as client:
        response = client.get(f"http://{address[0]}:{address[1]}/")
        answer = Response(response.status_code, dict(response.headers), response.text, response.json())
        return response.http_version, answer


def websocket(address: Address, messages: list[str]) -> list[str]:
    """Send each message and collect what comes back."""
    # Envoy closes a WebSocket's connection a second after its end, on every hop: not worth waiting for.
    with connect(f"ws://{address[0]}:{address[1]}/", proxy=None, open_timeout=SECONDS, close_timeout=0) as connection:
        replies = []
        for message in messages:
            connection.send(message)
            replies.append(str(connection.recv(SECONDS)))
        return replies


def all_listen(addresses: list[Address]) -> bool:
    """Look into the kernel's table, so that no proxy takes the question for a call."""
    rows = [line.split() for line in Path("/proc/self/net/tcp").read_text().splitlines()[1:]]
    listening = {row[1] for row in rows if row[3] == LISTEN}
    return listening.issuperset(_table_form(address) for address in addresses)


def _table_form(address: Address) -> str:
    """``0B00007F:2711``: the IPv4 address in the host's byte order, and the port."""
    number = int.from_bytes(socket.inet_aton(address[0]), sys.byteorder)
    return f"{number:08X}:{address[1]:04X}"

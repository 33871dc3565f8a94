"""An application on a machine that knows nothing of the mesh: run there, it says in JSON what it got.

``python -m tests.forwarder.client WHAT HOST:PORT [--certificates DIRECTORY] [--proxy HOST:PORT] [--first HEX]``
"""

from __future__ import annotations

import argparse
import json
import socket
import ssl
from pathlib import Path

import grpc

from sidestep.lab.services import GRPC_SERVICE

DEADLINE = 10


def main() -> None:
    """What the arguments say."""
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=["greeting", "echo", "get", "grpc", "hold"])
    parser.add_argument("address")
    parser.add_argument("--certificates", type=Path)
    parser.add_argument("--proxy")
    parser.add_argument("--first", type=bytes.fromhex, default=b"", help="what is sent before anything else")
    parser.add_argument("--connections", type=int, default=1)
    arguments = parser.parse_args()
    try:
        print(json.dumps({"got": _do(arguments), "error": ""}))
    except (OSError, grpc.RpcError) as error:
        print(json.dumps({"got": "", "error": f"{type(error).__name__}: {error}"}))


def _do(arguments: argparse.Namespace) -> str:
    if arguments.what == "grpc":
        return _grpc(arguments.address, arguments.proxy)
    if arguments.what == "hold":
        return _hold(arguments.address, arguments.connections)
    with _connected(arguments.address, arguments.certificates, arguments.first) as connection:
        if arguments.what == "greeting":
            return connection.recv(1000).decode()
        if arguments.what == "get":
            return _get(connection)
        connection.sendall(b"ping")
        return connection.recv(1000).decode()


def _get(connection: socket.socket) -> str:
    connection.sendall(b"GET / HTTP/1.1\r\nhost: reviews.bookinfo:9080\r\nconnection: close\r\n\r\n")
    return b"".join(iter(lambda: connection.recv(65536), b"")).decode()


def _connected(address: str, certificates: Path | None, first: bytes = b"") -> socket.socket:
    host, _, port = address.rpartition(":")
    connection = socket.create_connection((host, int(port)), DEADLINE)
    connection.sendall(first)
    if certificates is None:
        return connection
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False  # the forwarder's certificate holds a SPIFFE ID, and no host name
    context.load_verify_locations(certificates / "root-cert.pem")
    context.load_cert_chain(certificates / "cert-chain.pem", certificates / "key.pem")
    return context.wrap_socket(connection)


def _grpc(address: str, proxy: str | None) -> str:
    options: list[tuple[str, str | int]] = [("grpc.http_proxy", f"http://{proxy}")] if proxy else []
    with grpc.insecure_channel(address, options=[*options, ("grpc.enable_retries", 0)]) as channel:
        call: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(f"/{GRPC_SERVICE}/Unary")
        reply: bytes = call(b"ping", timeout=DEADLINE)
        return reply.decode()


def _hold(address: str, connections: int) -> str:
    """How many of so many connections stay open side by side."""
    held = [_connected(address, None) for _ in range(connections)]
    open_ = 0
    for connection in held:
        try:
            connection.sendall(b"ping")
            open_ += connection.recv(1000) == b"ping"
        except OSError:
            continue
    return str(open_)


if __name__ == "__main__":
    main()

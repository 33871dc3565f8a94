"""Several users on one connection: over HTTP/2 each tunnel has its own. There is no mesh here, and none is needed."""

from __future__ import annotations

import base64
import hashlib
import json
import socket
from typing import TYPE_CHECKING

import h2.connection
import h2.events

from sidestep.onboard import bundles, load
from tests import documents
from tests.certificates import issue_into
from tests.envoys import accepted, eventually, running
from tests.free_ports import free_port

if TYPE_CHECKING:
    from pathlib import Path

REVIEWS = "reviews.bookinfo:9080"
PASSWORDS = {"ada": "countess", "bob": "builder"}


def test_each_tunnel_of_a_connection_is_logged_with_its_user(tmp_path: Path) -> None:
    address = ("127.0.0.1", free_port())
    hashes = {name: base64.b64encode(hashlib.sha1(word.encode()).digest()).decode() for name, word in PASSWORDS.items()}
    (tmp_path / "users").write_text("".join(f"{name}:{{SHA}}{each}\n" for name, each in hashes.items()))
    proxy = {"listen": "{}:{}".format(*address)}
    clients = {"cidrs": ["127.0.0.0/8"], "credentials": "users"}
    calls = documents.egress("reviews", "none", port=9080)
    spec = documents.workload(calls, profile="forwarder", clients=clients, proxy=proxy)
    [bundle] = bundles(load([documents.write(tmp_path / "spec.yaml", documents.mesh(), spec)]))
    bundle.install(tmp_path / "bundle", validate=accepted())
    issue_into(tmp_path / "bundle")
    flushing = ("--disable-hot-restart", "--file-flush-interval-msec", "20")
    with running(tmp_path / "bundle", arguments=flushing) as envoy, socket.create_connection(address, 10) as connection:
        ask_in_tunnels(connection)

        def logged() -> dict[str, str] | None:
            lines = [line for line in envoy.log.read_text(encoding="utf-8").splitlines() if line.startswith("{")]
            found = {call["path"]: call["user"] for call in map(json.loads, lines) if call.get("method") == "GET"}
            return found if len(found) == len(PASSWORDS) else None

        assert eventually("both are logged", logged) == {"/ada": "ada", "/bob": "bob"}


def ask_in_tunnels(connection: socket.socket) -> None:
    """A tunnel for each user, and in each a request for a path that is the user's name, until all are answered."""
    protocol = h2.connection.H2Connection(h2.config.H2Configuration(validate_outbound_headers=False))
    protocol.initiate_connection()
    streams = dict(zip((1, 3), PASSWORDS, strict=True))
    for stream, name in streams.items():
        word = base64.b64encode(f"{name}:{PASSWORDS[name]}".encode()).decode()
        head = [(":method", "CONNECT"), (":authority", REVIEWS), ("proxy-authorization", f"Basic {word}")]
        protocol.send_headers(stream, head)
    connection.sendall(protocol.data_to_send())
    answered: set[int | None] = set()
    while answered != set(streams):
        for event in protocol.receive_data(connection.recv(65536)):
            if isinstance(event, h2.events.ResponseReceived) and event.stream_id:
                assert dict(event.headers or [])[b":status"] == b"200"
                request = f"GET /{streams[event.stream_id]} HTTP/1.1\r\nhost: {REVIEWS}\r\n\r\n"
                protocol.send_data(event.stream_id, request.encode())
            if isinstance(event, h2.events.DataReceived):
                answered.add(event.stream_id)
        connection.sendall(protocol.data_to_send())

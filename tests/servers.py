"""A service of the mesh, as a machine's Envoy sees it: TLS with a SPIFFE ID, which wants the caller's certificate."""

from __future__ import annotations

import json
import socket
import ssl
import threading
from contextlib import contextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

from sidestep.pki.identity import issue
from sidestep.pki.spiffe import SpiffeId
from tests.certificates import authority

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

REVIEWS_ID = "spiffe://cluster.local/ns/bookinfo/sa/reviews"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """Says who called, and by which server name."""
        assert isinstance(self.connection, ssl.SSLSocket)
        names = (self.connection.getpeercert() or {}).get("subjectAltName", ())
        said = {"caller": names[0][1], "sni": self.server.sni, "alpn": self.connection.selected_alpn_protocol()}  # type: ignore[attr-defined]
        body = json.dumps(said).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name is the base class's
        """Nothing: what matters comes back in the answer."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    sni = ""

    def __init__(self, context: ssl.SSLContext) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        context.sni_callback = self._note
        self.socket = context.wrap_socket(self.socket, server_side=True, do_handshake_on_connect=False)

    def _note(self, _socket: object, name: str | None, _context: object) -> None:
        self.sni = name or ""

    def handle_error(self, request: object, client_address: object) -> None:
        """Nothing: a caller that is refused, or goes away, is what some tests are about."""


@contextmanager
def mesh_service(directory: Path, name: str = REVIEWS_ID) -> Iterator[int]:
    """An HTTP/1.1 service with mutual TLS, in the place of gateway and sidecar; yields its port on 127.0.0.1."""
    directory.mkdir(exist_ok=True)
    identity = issue(authority(), SpiffeId.parse(name), datetime.now(UTC))
    for file, content in identity.files().items():
        (directory / file).write_bytes(content)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(directory / "cert-chain.pem", directory / "key.pem")
    context.load_verify_locations(directory / "root-cert.pem")
    context.verify_mode = ssl.CERT_REQUIRED
    context.set_alpn_protocols(["http/1.1"])
    server = _Server(context)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server.socket.getsockname()[1]
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def is_open(address: tuple[str, int]) -> bool:
    """Whether somebody listens there."""
    try:
        socket.create_connection(address, timeout=5).close()
    except ConnectionRefusedError:
        return False
    return True

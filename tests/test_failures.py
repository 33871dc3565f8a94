"""What ``docs/onboard.md`` says of calls that fail is what a machine's Envoy logs."""

from __future__ import annotations

import json
import re
import socket
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime
from http.client import HTTPConnection
from pathlib import Path
from threading import Event, Thread
from typing import Any, Final

import pytest

from sidestep import onboard
from sidestep.files import write_set
from sidestep.pki.authority import Authority
from sidestep.pki.identity import Identity, issue
from sidestep.pki.spiffe import SpiffeId
from tests import certificates, documents, envoys
from tests.pages import rows

# One after the other: each lab starts a dozen Envoys, and each of them takes inotify instances, of which there are few.
pytestmark = pytest.mark.xdist_group("lab")
Lines = list[dict[str, Any]]

ROWS: Final = [re.findall(r"`([^`]+)`", cells[0]) for cells in rows("docs/onboard.md", "When it does not work")]
REVIEWS: Final = SpiffeId.parse("spiffe://cluster.local/ns/bookinfo/sa/reviews")


@pytest.mark.parametrize("row", ROWS, ids=", ".join)
def test_a_call_that_fails_so_is_logged_so(row: list[str], tmp_path: Path) -> None:
    lines = PRODUCED[row[-1], row[0]](tmp_path)
    assert any(all(_holds(line, word) for word in row) for line in lines), lines


def test_a_tcp_connection_that_is_refused_has_no_flag(tmp_path: Path) -> None:
    lines = _in_the_lab("no-policy-tcp")(tmp_path)
    assert [line["response_flags"] for line in lines if "payroll" in line["upstream_cluster"]] == ["-"]


def test_a_call_that_passes_has_none_of_it(tmp_path: Path) -> None:
    lines = _in_the_lab("http1")(tmp_path)
    assert lines
    assert not [row for row in ROWS for line in lines if all(_holds(line, word) for word in row)]


def _holds(line: dict[str, Any], word: str) -> bool:
    """Whether a field is ``word``, lists it as response flags are listed, or holds it where it is a long one."""
    values = [str(value) for value in line.values()]
    return any(word in value.split(",") or (len(word) > 5 and word in value) for value in values)


def _in_the_lab(scenario: str) -> Callable[[Path], Lines]:
    def produce(directory: Path) -> Lines:
        command = [sys.executable, "-m", "sidestep", "lab", "--once", "--scenario", scenario, "--keep", str(directory)]
        subprocess.run(command, check=True, capture_output=True, timeout=60)
        logs = [*directory.glob("*machine*/logs/stdout.log")]
        return [json.loads(line) for log in logs for line in log.read_text(encoding="utf-8").splitlines()]

    return produce


def _no_certificate(directory: Path) -> Lines:
    return _called(directory, [_closed_port()], None)


def _useless_certificate(directory: Path) -> Lines:
    useless = {"cert-chain.pem": b"", "key.pem": b""}
    return _called(directory, [_closed_port()], {**_identity(REVIEWS).files(), **useless})


def _closed_gateway(directory: Path) -> Lines:
    return _called(directory, [_closed_port()], _identity(REVIEWS).files())


def _silent_gateways(directory: Path) -> Lines:
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as other:
        return _called(directory, [one.getsockname()[1], other.getsockname()[1]], _identity(REVIEWS).files())


def _foreign_roots(directory: Path) -> Lines:
    elsewhere = Authority.new_root(datetime.now(UTC), name="Another Root")
    with _answering(directory, issue(elsewhere, REVIEWS, datetime.now(UTC))) as port:
        return _called(directory, [port], _identity(REVIEWS).files())


def _identity(name: SpiffeId) -> Identity:
    return issue(certificates.authority(), name, datetime.now(UTC))


def _closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def _called(directory: Path, gateways: list[int], files: Mapping[str, bytes] | None) -> Lines:
    """What a bundle's Envoy logs of one call, to the second of two services, through these gateways."""
    bundle, listen = directory / "bundle", _closed_port()
    addresses = [{"address": "127.0.0.1", "port": port} for port in gateways]
    services = documents.service(documents.LEDGER, (50051, "GRPC")), documents.service()
    egress = documents.egress("ledger", listen=_closed_port()), documents.egress(listen=listen)
    mesh, caller = documents.mesh(*services, gateways=addresses), documents.workload(*egress)
    [made] = onboard.bundles(onboard.load([documents.write(directory / "spec.yaml", mesh, caller)]))
    made.install(bundle, validate=envoys.accepted())
    if files:
        write_set(bundle / "certs", files)
    with envoys.running(bundle) as envoy, closing(HTTPConnection("127.0.0.1", listen, timeout=30)) as connection:
        connection.request("GET", "/")
        assert connection.getresponse().status == 503
    return [json.loads(line) for line in envoy.log.read_text(encoding="utf-8").splitlines() if line.startswith("{")]


@contextmanager
def _answering(directory: Path, identity: Identity) -> Iterator[int]:
    """A server that shows ``identity`` to whoever comes."""
    write_set(directory / "server", identity.files())
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(directory / "server" / "cert-chain.pem", directory / "server" / "key.pem")
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.1)
        done = Event()
        thread = Thread(target=_shake_hands, args=(server, context, done))
        thread.start()
        yield server.getsockname()[1]
        done.set()
        thread.join()


def _shake_hands(server: socket.socket, context: ssl.SSLContext, done: Event) -> None:
    while not done.is_set():
        with suppress(OSError):
            connection, _ = server.accept()
            with connection, context.wrap_socket(connection, server_side=True):
                pass


PRODUCED: Final[dict[tuple[str, str], Callable[[Path], Lines]]] = {
    ("via_upstream", "403"): _in_the_lab("no-policy-http"),
    ("via_upstream", "PermissionDenied"): _in_the_lab("no-policy-grpc"),
    ("Connection_reset_by_peer", "UF"): _in_the_lab("not-exported"),
    ("SAN_matcher", "UF"): _in_the_lab("wrong-server"),
    ("unable_to_get_local_issuer_certificate", "UF"): _foreign_roots,
    ("cluster_not_found", "NC"): _useless_certificate,
    ("Secret_is_not_supplied_by_SDS", "UF"): _no_certificate,
    ("connection_termination", "UC"): _in_the_lab("expired"),
    ("Connection_refused", "UF"): _closed_gateway,
    ("connection_timeout", "UF"): _silent_gateways,
}
"""How each row of the table comes about."""

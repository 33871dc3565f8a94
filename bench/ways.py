"""Requests a second and latency of each way to call a service of the mesh, against its plain listener.

::

    client ─▶ machine ─ mTLS ─▶ gateway ─▶ sidecar ─▶ application (1 KiB)

The machine has a listener and a unix-domain socket for the service, and a proxy, which is asked by Host, in absolute
form and for a tunnel (CONNECT); it knows as many services as ``--sizes`` says. The client is one thread that speaks all
of these, so its own part is the same in each. Target: by Host at no less than nine tenths of the plain listener.
"""

from __future__ import annotations

import re
import selectors
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Final

import machines
import measure
import throughput
from sidestep.files import write_set
from sidestep.lab.identities import Authorities
from sidestep.lab.ports import Ports
from sidestep.lab.topology import Protocol

SECONDS: Final = 2.0
CONNECTIONS: Final = (1, 32)
CHANCE: Final = 0.9
SERVICE: Final = throughput.SERVICES[Protocol.HTTP]
NAME: Final = f"{SERVICE.host}:{measure.SERVICE_PORT}"
PLAIN: Final = "plain listener"
_SOCKET: Final = "service.sock"


@dataclass(frozen=True)
class Way:
    """How to call the service."""

    connect: Callable[[], socket.socket]
    request: bytes


def main() -> None:
    """Measures and prints."""
    options = measure.options(__doc__, runs=5, sizes=(1, 5000))
    heads = ("services", "way", "connections", "requests/s", "of plain", "p50 ms", "p99 ms")
    report = measure.Report("Ways to call a service", heads)
    with measure.scratch() as directory, Ports() as ports, ExitStack() as stack:
        authorities = Authorities.make(machines.TRUST_DOMAIN, datetime.now(UTC))
        _, gateway = throughput.Way(directory, ports, stack, authorities).mesh()
        for size in options.sizes:
            listen, proxy = ports.reserve(), ports.reserve()
            bundle = _bundle(directory / f"machine-{size}", size, gateway, (listen, proxy))
            write_set(bundle / "certs", machines.machine_identity(authorities).files())
            with measure.running(bundle, ("127.0.0.1", proxy)):
                for connections in CONNECTIONS:
                    subjects = {
                        name: partial(load, way, connections) for name, way in _ways(bundle, listen, proxy).items()
                    }
                    _report(report, size, connections, measure.alternate(options.runs, subjects))
    report.show(as_json=options.json)


def _report(report: measure.Report, size: int, connections: int, found: Mapping[str, list[throughput.Load]]) -> None:
    ratios = {
        name: measure.median([ours.rate / plain.rate for ours, plain in zip(loads, found[PLAIN], strict=True)])
        for name, loads in found.items()
    }
    for name, loads in found.items():
        figures = [measure.median([getattr(each, figure) for each in loads]) for figure in ("rate", "p50", "p99")]
        report.row(f"{size:,}", name, connections, figures[0], ratios[name], *figures[1:])
    text = f"{size:,} services, {connections} connections: by Host, of the plain listener"
    report.target(text, ratios["by Host"], CHANCE, at_least=True)


def _ways(bundle: Path, listen: int, proxy: int) -> dict[str, Way]:
    to_proxy = partial(_connected, proxy)
    return {
        PLAIN: Way(partial(_connected, listen), _get("/", "127.0.0.1")),
        "unix-domain socket": Way(partial(_connected_by, bundle / _SOCKET), _get("/", "localhost")),
        "by Host": Way(to_proxy, _get("/", NAME)),
        "http_proxy": Way(to_proxy, _get(f"http://{NAME}/", NAME)),
        "CONNECT": Way(partial(_tunnel, proxy), _get("/", NAME)),
    }


def _get(target: str, host: str) -> bytes:
    return f"GET {target} HTTP/1.1\r\nhost: {host}\r\n\r\n".encode()


def _connected(port: int) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", port), 10)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def _connected_by(path: Path) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(str(path))
    return connection


def _tunnel(proxy: int) -> socket.socket:
    connection = _connected(proxy)
    connection.sendall(f"CONNECT {NAME} HTTP/1.1\r\nhost: {NAME}\r\n\r\n".encode())
    said = connection.recv(65536)
    assert said.startswith(b"HTTP/1.1 200 "), said
    return connection


def load(way: Way, connections: int) -> throughput.Load:
    """Requests one after the other on so many connections, for a while."""
    with ExitStack() as stack, selectors.DefaultSelector() as waiting:
        opened = [stack.enter_context(way.connect()) for _ in range(connections)]
        for connection in opened:
            connection.sendall(way.request)
            _whole(connection)
            waiting.register(connection, selectors.EVENT_READ)
        return _repeat(opened, waiting, way.request)


def _repeat(connections: Sequence[socket.socket], waiting: selectors.BaseSelector, request: bytes) -> throughput.Load:
    by_file = {connection.fileno(): connection for connection in connections}
    sent: dict[socket.socket, float] = {}
    spent: list[float] = []
    started = time.perf_counter()
    for connection in connections:
        sent[connection] = time.perf_counter()
        connection.sendall(request)
    while time.perf_counter() < started + SECONDS:
        for connection in [by_file[key.fd] for key, _ in waiting.select()]:
            _whole(connection)
            now = time.perf_counter()
            spent.append(now - sent[connection])
            sent[connection] = now
            connection.sendall(request)
    spent.sort()
    rate = len(spent) / (time.perf_counter() - started)
    return throughput.Load(rate, spent[len(spent) // 2] * 1000, spent[len(spent) * 99 // 100] * 1000)


def _whole(connection: socket.socket) -> None:
    """Reads one response: its head, and the KiB that the application sends."""
    said = connection.recv(65536)
    assert said.startswith(b"HTTP/1.1 200 "), said
    while len(said) < said.find(b"\r\n\r\n") + 4 + 1024:
        said += connection.recv(65536)


def _bundle(directory: Path, size: int, gateway: int, ports: tuple[int, int]) -> Path:
    listen, proxy = ports
    specification = directory.with_suffix(".yaml")
    specification.write_text(_documents(size, gateway, listen, proxy))
    measure.render(specification, directory)
    return directory


def _documents(size: int, gateway: int, listen: int, proxy: int) -> str:
    """The service that is called, in two ways and by name, among others that are called by name only."""
    text = measure.documents(size - 1, [gateway])
    service = (
        f"  services:\n  - host: {SERVICE.host}\n    ports: [{{number: {measure.SERVICE_PORT}, protocol: HTTP}}]\n"
    )
    text = text.replace("  services:\n", f"{service}    serviceAccounts: [{SERVICE.account}]\n")
    text = re.sub(r"listen: [0-9.:]+}", "listen: none}", text)
    called = [
        f"  - {{host: {SERVICE.host}, listen: {where}}}\n" for where in (f"127.0.0.1:{listen}", f"'unix:./{_SOCKET}'")
    ]
    return text.replace("  egress:\n", f"  proxy: {{listen: 127.0.0.1:{proxy}}}\n  egress:\n{''.join(called)}")


if __name__ == "__main__":
    main()

"""Requests a second and latency of each way to call a service of the mesh, against its plain listener.

::

    client ─▶ machine or forwarder ─ mTLS ─▶ gateway ─▶ sidecar ─▶ application (1 KiB)

The machine has a listener and a unix-domain socket for the service, a listener for the same application as bytes (TCP),
and a proxy, which is asked by Host, in absolute form and for a tunnel (CONNECT). A forwarder beside it lets the client
in by its network or by its certificate. Both know as many services as ``--sizes`` says. The client is one thread that
speaks all of these, so its own part is the same in each, but for its TLS. Target: by Host, and through the forwarder in
plain text, at no less than nine tenths of the plain listener.
"""

from __future__ import annotations

import re
import selectors
import socket
import ssl
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
from sidestep.lab.topology import Application, Protocol, Service, ServicePort
from sidestep.pki.spiffe import SpiffeId

SECONDS: Final = 0.5
CONNECTIONS: Final = (1, 32)
LEAST: Final = 0.9
SERVICE: Final = throughput.SERVICES[Protocol.HTTP]
BYTES: Final = Service(
    "bytes",
    SERVICE.namespace,
    (ServicePort(measure.SERVICE_PORT, Protocol.TCP, Application.HTTP),),
    policy=SERVICE.policy,
)
NAME: Final = f"{SERVICE.host}:{measure.SERVICE_PORT}"
PLAIN: Final = "plain listener"
BY_HOST: Final = "by Host"
FORWARDER: Final = "forwarder, plain text"
FORWARDER_BY_HOST: Final = "forwarder, by Host"
CLIENT: Final = SpiffeId(machines.TRUST_DOMAIN, "vms", "untouched")
_SOCKET: Final = "service.sock"


@dataclass(frozen=True)
class Way:
    """How to call the service."""

    connect: Callable[[], socket.socket]
    request: bytes
    envoy: measure.Running
    """That of the machine, or of the forwarder."""


@dataclass(frozen=True)
class Ends:
    """Where a machine and a forwarder listen."""

    listen: int
    proxy: int
    tcp: int


def main() -> None:
    """Measures and prints."""
    options = measure.options(__doc__, runs=15, sizes=(1, 5000))
    heads = ("services", "way", "connections", "requests/s", "of plain", "p50 ms", "p99 ms")
    report = measure.Report("Ways to call a service", (*heads, "µs a request", "of plain's"))
    with measure.scratch() as directory, Ports() as ports, ExitStack() as stack:
        authorities = Authorities.make(machines.TRUST_DOMAIN, datetime.now(UTC))
        _, gateway = throughput.Way(directory, ports, stack, authorities).mesh([SERVICE, BYTES])
        certificate = _client(directory / "client", authorities)
        for size in options.sizes:
            machine, forwarder = (Ends(*(ports.reserve() for _ in range(3))) for _ in range(2))
            ours, beside = directory / f"machine-{size}", directory / f"forwarder-{size}"
            _render(ours, _machine(size, gateway, machine), authorities)
            _render(beside, _forwarder(_machine(size, gateway, forwarder)), authorities)
            with (
                measure.running(ours, ("127.0.0.1", machine.proxy)) as envoy,
                measure.running(beside, ("127.0.0.1", forwarder.proxy)) as other,
            ):
                ways = {**_ways(ours, machine, envoy), **_forwarded(forwarder, other, certificate)}
                for connections in CONNECTIONS:
                    subjects = {name: partial(load, way, connections) for name, way in ways.items()}
                    _report(report, size, connections, measure.alternate(options.runs, subjects))
    report.show(as_json=options.json)


def _report(report: measure.Report, size: int, connections: int, found: Mapping[str, list[throughput.Load]]) -> None:
    ratios = {name: _ratios(loads, found[PLAIN], "rate") for name, loads in found.items()}
    for name, loads in found.items():
        rate, p50, p99, cost = (
            measure.median([getattr(each, figure) for each in loads]) for figure in ("rate", "p50", "p99", "cost")
        )
        costs = measure.median(_ratios(loads, found[PLAIN], "cost"))
        report.row(f"{size:,}", name, connections, rate, measure.median(ratios[name]), p50, p99, cost, costs)
    for name in (BY_HOST, FORWARDER, FORWARDER_BY_HOST):
        text = f"{size:,} services, {connections} connections: {name}, of the plain listener"
        report.ratio(text, ratios[name], LEAST, at_least=True)


def _ratios(ours: Sequence[throughput.Load], plain: Sequence[throughput.Load], figure: str) -> list[float]:
    return [getattr(one, figure) / getattr(other, figure) for one, other in zip(ours, plain, strict=True)]


def _ways(bundle: Path, ends: Ends, envoy: measure.Running) -> dict[str, Way]:
    to_proxy = partial(_connected, ends.proxy)
    ways = {
        PLAIN: (partial(_connected, ends.listen), _get("/", "127.0.0.1")),
        "unix-domain socket": (partial(_connected_by, bundle / _SOCKET), _get("/", "localhost")),
        "TCP listener": (partial(_connected, ends.tcp), _get("/", NAME)),
        BY_HOST: (to_proxy, _get("/", NAME)),
        "http_proxy": (to_proxy, _get(f"http://{NAME}/", NAME)),
        "CONNECT": (partial(_tunnel, ends.proxy), _get("/", NAME)),
    }
    return {name: Way(*way, envoy) for name, way in ways.items()}


def _forwarded(ends: Ends, envoy: measure.Running, certificate: ssl.SSLContext) -> dict[str, Way]:
    to_listener, to_proxy = partial(_connected, ends.listen), partial(_connected, ends.proxy)
    ways = {
        FORWARDER: (to_listener, _get("/", "127.0.0.1")),
        "forwarder, mutual TLS": (partial(_connected_by_tls, ends.listen, certificate), _get("/", "127.0.0.1")),
        FORWARDER_BY_HOST: (to_proxy, _get("/", NAME)),
        "forwarder, http_proxy": (to_proxy, _get(f"http://{NAME}/", NAME)),
        "forwarder, TCP": (partial(_connected, ends.tcp), _get("/", NAME)),
    }
    return {name: Way(*way, envoy) for name, way in ways.items()}


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


def _connected_by_tls(port: int, certificate: ssl.SSLContext) -> socket.socket:
    return certificate.wrap_socket(_connected(port))


def _client(directory: Path, authorities: Authorities) -> ssl.SSLContext:
    """What a client shows to the forwarder; whom it calls is no matter here."""
    write_set(directory, authorities.machine(CLIENT).files())
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.load_cert_chain(directory / "cert-chain.pem", directory / "key.pem")
    return context


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
            throughput.whole(connection)
            waiting.register(connection, selectors.EVENT_READ)
        return _repeat(opened, waiting, way)


def _repeat(connections: Sequence[socket.socket], waiting: selectors.BaseSelector, way: Way) -> throughput.Load:
    by_file = {connection.fileno(): connection for connection in connections}
    sent: dict[socket.socket, float] = {}
    spent: list[float] = []
    started, before = time.perf_counter(), way.envoy.processor
    for connection in connections:
        sent[connection] = time.perf_counter()
        connection.sendall(way.request)
    while time.perf_counter() < started + SECONDS:
        for connection in [by_file[key.fd] for key, _ in waiting.select()]:
            throughput.whole(connection)
            now = time.perf_counter()
            spent.append(now - sent[connection])
            sent[connection] = now
            connection.sendall(way.request)
    cost = (way.envoy.processor - before) / len(spent) * 1e6
    rate = len(spent) / (time.perf_counter() - started)
    spent.sort()
    return throughput.Load(rate, spent[len(spent) // 2] * 1000, spent[len(spent) * 99 // 100] * 1000, cost)


def _render(bundle: Path, documents: str, authorities: Authorities) -> None:
    specification = bundle.with_suffix(".yaml")
    specification.write_text(documents)
    measure.render(specification, bundle)
    write_set(bundle / "certs", machines.machine_identity(authorities).files())


def _machine(size: int, gateway: int, ends: Ends) -> str:
    """The application that is called, in three ways and by name, among others that are called by name only."""
    text = re.sub(r"listen: [0-9.:]+}", "listen: none}", measure.documents(size - 1, [gateway]))
    services = [
        f"  - {{host: {each.host}, ports: [{{number: {measure.SERVICE_PORT}, protocol: {each.ports[0].protocol}}}], "
        f"serviceAccounts: [{each.account}]}}\n"
        for each in (SERVICE, BYTES)
    ]
    text = text.replace("  services:\n", f"  services:\n{''.join(services)}")
    called = [
        f"  - {{host: {SERVICE.host}, listen: 127.0.0.1:{ends.listen}}}\n",
        f"  - {{host: {SERVICE.host}, listen: 'unix:./{_SOCKET}'}}\n",
        f"  - {{host: {BYTES.host}, listen: 127.0.0.1:{ends.tcp}}}\n",
    ]
    return text.replace("  egress:\n", f"  proxy: {{listen: 127.0.0.1:{ends.proxy}}}\n  egress:\n{''.join(called)}")


def _forwarder(documents: str) -> str:
    """The same, for clients on other machines."""
    principal = str(CLIENT).removeprefix("spiffe://")
    clients = f"{{cidrs: [127.0.0.0/8], mutualTLS: {{principals: [{principal}]}}}}"
    return documents.replace("  proxy:", f"  profile: forwarder\n  clients: {clients}\n  proxy:")


if __name__ == "__main__":
    main()

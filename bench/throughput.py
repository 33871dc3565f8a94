"""Requests a second and latency from a machine to an application in the mesh, at 1 and at 32 connections.

::

    wrk ─▶ machine ─ mTLS ─▶ gateway (SNI passthrough) ─▶ sidecar (STRICT, RBAC) ─▶ application (1 KiB)

Gateway and sidecar are those of the lab; everything is an Envoy with one worker. The machine is Sidestep's bundle, or a
hand-written static configuration with the same JSON access log or with none; over HTTP/2 also one that spreads requests
over as many connections as a bundle does, so that they reach several pods. Needs ``wrk``.

Short runs of all of them take turns, and ratios are those of neighbours. What a request costs the machine's Envoy is
also measured with both loaded at once, so that they are disturbed alike. Target: no fewer requests a second, and no
more processor time, than the hand-written configuration with an access log.
"""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Final, TypeAlias

import handwritten
import machines
import measure
from sidestep.files import write_set
from sidestep.lab import gateway, sidecar, xds
from sidestep.lab.identities import Authorities
from sidestep.lab.ports import Ports
from sidestep.lab.topology import Application, AuthorizationPolicy, Protocol, Service, ServicePort
from sidestep.pki.identity import Identity
from sidestep.pki.spiffe import SpiffeId

SECONDS: Final = 1
CONNECTIONS: Final = (1, 32)
OURS: Final = "Sidestep"
PEER: Final = "hand-written"
SPREAD: Final = "hand-written, over as many connections"
STYLES: Final = {
    "hand-written, no access log": handwritten.Style(access_log=False),
    PEER: handwritten.Style(),
    SPREAD: handwritten.Style(streams=4),
}
_POLICY: Final = AuthorizationPolicy("billing", "shop", ("cluster.local/ns/vms/sa/billing",))
SERVICES: Final = {
    protocol: Service(
        protocol.lower(),
        "shop",
        (ServicePort(measure.SERVICE_PORT, protocol, Application.HTTP),),
        policy=_POLICY,
    )
    for protocol in (Protocol.HTTP, Protocol.GRPC)
}
_UNITS: Final = {"us": 1e-3, "ms": 1.0, "s": 1e3}
_FIGURES: Final = ("rate", "p50", "p99", "cost")
End: TypeAlias = tuple[int, measure.Running]
"""Where to send load, and the Envoy under it."""


@dataclass(frozen=True)
class Load:
    """What wrk found."""

    rate: float
    p50: float
    p99: float
    """Milliseconds, as the other."""
    cost: float = 0
    """Microseconds of processor time that the Envoy under load spends on a request; 0 where nobody counted."""


def main() -> None:
    """Measures and prints."""
    options = measure.options(__doc__, runs=12)
    if shutil.which("wrk") is None:
        sys.exit("wrk is not installed")
    table = report("Throughput of the whole way", "upstream", "of direct")
    with measure.scratch() as directory, Ports() as ports, ExitStack() as stack:
        way = Way(directory, ports, stack, Authorities.make(machines.TRUST_DOMAIN, datetime.now(UTC)))
        for protocol, ends in way.start().items():
            for connections in CONNECTIONS:
                measured(table, "HTTP/2" if protocol.is_http2 else "HTTP/1.1", ends, connections, options.runs)
    table.show(as_json=options.json)


def report(figure: str, first: str, nearer: str) -> measure.Report:
    """A table for `measured`; ``nearer`` heads the ratio to the end that comes first."""
    heads = [first, "way", "connections", "requests/s", nearer, "of hand-written", "p50 ms", "p99 ms"]
    return measure.Report(figure, [*heads, "µs a request", "of hand-written's"])


def measured(table: measure.Report, what: str, ends: Mapping[str, End], connections: int, runs: int) -> None:
    """Loads every end in turn, and each machine beside the hand-written one; rows and targets of what was found.

    The first end is not a machine: what lies behind.
    """
    found = measure.alternate(runs, {name: partial(load, *end, connections) for name, end in ends.items()})
    behind, *names = ends
    costs = {name: [costs_beside(ends[name], ends[PEER], connections) for _ in range(runs)] for name in names}
    for name, loads in found.items():
        rate, p50, p99, cost = (measure.median([getattr(load, figure) for load in loads]) for figure in _FIGURES)
        ratios = [measure.median(_ratios(loads, found[peer])) for peer in (behind, PEER)]
        spent = (cost, measure.median(costs[name])) if name in costs else ("", "")
        table.row(what, name, connections, rate, *ratios, p50, p99, *spent)
    text = f"{what}, {connections} connections: "
    table.ratio(f"{text}requests/s of hand-written", _ratios(found[OURS], found[PEER]), 1.0, at_least=True)
    table.ratio(f"{text}processor time of hand-written", costs[OURS], 1.0)


def _ratios(ours: Sequence[Load], theirs: Sequence[Load]) -> list[float]:
    return [one.rate / other.rate for one, other in zip(ours, theirs, strict=True)]


def load(port: int, envoy: measure.Running, connections: int) -> Load:
    """One run of wrk."""
    before = envoy.processor
    requests, said = _answered(_wrk(port, connections))
    used = envoy.processor - before
    [rate] = re.findall(r"Requests/sec:\s+([0-9.]+)", said)
    return Load(float(rate), _latency(said, 50), _latency(said, 99), used / requests * 1e6)


def costs_beside(one: End, other: End, connections: int) -> float:
    """What a request costs one machine, of what it costs another one that is under the same load at the same time."""
    before = [envoy.processor for _, envoy in (one, other)]
    both = [_wrk(port, max(1, connections // 2)) for port, _ in (one, other)]
    requests = [_answered(each)[0] for each in both]
    spent = [envoy.processor - earlier for (_, envoy), earlier in zip((one, other), before, strict=True)]
    return spent[0] / requests[0] / (spent[1] / requests[1])


def _wrk(port: int, connections: int) -> subprocess.Popen[str]:
    command = ["wrk", "-t1", f"-c{connections}", f"-d{SECONDS}s", "--latency", f"http://127.0.0.1:{port}/"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def _answered(running: subprocess.Popen[str]) -> tuple[int, str]:
    """How many requests were answered, and all that wrk says."""
    said, _ = running.communicate()
    if running.returncode or "Non-2xx" in said or "Socket errors" in said:
        sys.exit(f"requests failed:\n{said}")
    [requests] = re.findall(r"([0-9]+) requests in ", said)
    return int(requests), said


def _latency(said: str, percent: int) -> float:
    [(value, unit)] = re.findall(rf"^\s+{percent}%\s+([0-9.]+)(us|ms|s)$", said, re.MULTILINE)
    return float(value) * _UNITS[unit]


@dataclass(frozen=True)
class Way:
    """Starts what is on the way; the stack ends it."""

    directory: Path
    ports: Ports
    stack: ExitStack
    authorities: Authorities

    def start(self) -> dict[Protocol, dict[str, End]]:
        """For each protocol, where to send load: past the mesh and through each machine."""
        application, port = self.mesh()
        ends = {protocol: {"direct": application} for protocol in SERVICES}
        identity = machines.machine_identity(self.authorities)
        for name in (*STYLES, OURS):
            listens = {protocol: self.ports.reserve() for protocol in SERVICES if name != SPREAD or protocol.is_http2}
            envoy = self._machine(name, port, listens, identity)
            for protocol, listen in listens.items():
                ends[protocol][name] = listen, envoy
        return ends

    def mesh(self, services: Iterable[Service] = SERVICES.values()) -> tuple[End, int]:
        """Starts application, sidecars and gateway; the application with its port, and the port of the gateway."""
        heard = self.ports.reserve()
        direct = self.envoy("application", application(heard), heard)
        exports = [self._sidecar(service, heard) for service in services]
        port = self.ports.reserve()
        bootstrap = gateway.gateway_bootstrap("gateway", listen=port, exports=exports)
        self.envoy("gateway", bootstrap, port, http=False)
        return (heard, direct), port

    def _sidecar(self, service: Service, application: int) -> gateway.Export:
        [port] = service.ports
        listen = self.ports.reserve()
        inbound = sidecar.Inbound(port, listen, application)
        config = sidecar.sidecar_bootstrap(sidecar.Sidecar(service, (inbound,), (machines.TRUST_DOMAIN,)))
        identity = self.authorities.workload(SpiffeId(machines.TRUST_DOMAIN, service.namespace, service.account))
        secrets = {name: json.dumps(secret).encode() for name, secret in sidecar.secrets().items()}
        self.envoy(service.name, config, listen, files={**secrets, **identity.files()}, http=False)
        return gateway.Export(service.host, port, (listen,))

    def envoy(
        self,
        name: str,
        config: xds.Config,
        port: int,
        *,
        files: Mapping[str, bytes] | None = None,
        http: bool = True,
    ) -> measure.Running:
        """Starts one, until the stack ends it."""
        directory = self.directory / name
        directory.mkdir()
        for file, content in {"envoy.json": json.dumps(config).encode(), **(files or {})}.items():
            (directory / file).write_bytes(content)
        return self.stack.enter_context(measure.running(directory, ("127.0.0.1", port), http=http))

    def _machine(
        self, name: str, gateway_port: int, listens: Mapping[Protocol, int], identity: Identity
    ) -> measure.Running:
        directory = self.machine(name, gateway_port, listens, identity)
        last = [*listens.values()][-1]
        return self.stack.enter_context(measure.running(directory, ("127.0.0.1", last)))

    def machine(self, name: str, gateway_port: int, listens: Mapping[Protocol, int], identity: Identity) -> Path:
        """The files of a machine: the bundle, or one of `STYLES`."""
        directory = self.directory / name
        if name in STYLES:
            called = [_call(SERVICES[protocol], port) for protocol, port in listens.items()]
            handwritten.write(directory, [gateway_port], called, STYLES[name])
        else:
            specification = self.directory / "spec.yaml"
            specification.write_text(_documents(gateway_port, listens))
            measure.render(specification, directory)
        write_set(directory / "certs", identity.files())
        return directory


def _call(service: Service, port: int) -> handwritten.Call:
    http2 = service.ports[0].protocol.is_http2
    return handwritten.Call(service.host, service.account, ("127.0.0.1", port), http2)


def _documents(gateway_port: int, listens: Mapping[Protocol, int]) -> str:
    services = [
        {
            "host": SERVICES[protocol].host,
            "ports": [{"number": measure.SERVICE_PORT, "protocol": protocol}],
            "serviceAccounts": [SERVICES[protocol].account],
        }
        for protocol in listens
    ]
    egress = [{"host": SERVICES[protocol].host, "listen": f"127.0.0.1:{port}"} for protocol, port in listens.items()]
    mesh = {"gateways": [{"address": "127.0.0.1", "port": gateway_port}], "services": services}
    documents = [
        ("Mesh", {"name": "bench"}, mesh),
        ("Workload", {"name": "billing", "namespace": "vms"}, {"egress": egress}),
    ]
    return "\n---\n".join(
        json.dumps({"apiVersion": "sidestep/v1alpha1", "kind": kind, "metadata": metadata, "spec": spec})
        for kind, metadata, spec in documents
    )


def whole(connection: socket.socket) -> None:
    """Reads one response: its head, and the KiB that the application sends."""
    said = connection.recv(65536)
    assert said.startswith(b"HTTP/1.1 200 "), said
    while len(said) < said.find(b"\r\n\r\n") + 4 + 1024:
        said += connection.recv(65536)


def application(port: int) -> xds.Config:
    """An Envoy that answers everything with a KiB."""
    answer: xds.Config = {
        "match": {"prefix": "/"},
        "direct_response": {"status": 200, "body": {"inline_string": "x" * 1024}},
    }
    manager = xds.extension(
        "envoy.filters.network.http_connection_manager",
        "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        stat_prefix="application",
        route_config={"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [answer]}]},
        http_filters=[xds.extension("envoy.filters.http.router", "envoy.extensions.filters.http.router.v3.Router")],
    )
    listener: xds.Config = {
        "name": "application",
        "enable_reuse_port": False,
        "address": xds.address(port),
        "filter_chains": [{"filters": [manager]}],
    }
    return xds.bootstrap("application", listeners=[listener], clusters=[])


if __name__ == "__main__":
    main()

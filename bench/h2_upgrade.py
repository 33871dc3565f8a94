"""HTTP/1.1 callers carried over HTTP/2 (``h2UpgradePolicy: UPGRADE``), against the same machine without it.

::

    wrk ─▶ machine ─ mTLS ─▶ gateway ─▶ two pods: sidecar (STRICT, RBAC) ─▶ application (1 KiB)

The third machine is a hand-written static configuration over HTTP/1.1. Everything is an Envoy with one worker. Each run
starts its machine anew: the gateway gives a pod to each connection, so connections that are kept would show one lot
again and again. Needs ``wrk``. Targets: 1.15 times the hand-written one at 32 connections, and requests shared by both
pods about as evenly as over HTTP/1.1, where each caller has a connection.
"""

from __future__ import annotations

import json
import shutil
import socket
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple

import handwritten
import machines
import measure
import throughput
from sidestep.files import write_set
from sidestep.lab import gateway, sidecar, xds
from sidestep.lab.identities import Authorities
from sidestep.lab.ports import Ports
from sidestep.lab.topology import Protocol
from sidestep.pki.spiffe import SpiffeId

CONNECTIONS: Final = (1, 32)
PODS: Final = 2
SERVICE: Final = throughput.SERVICES[Protocol.HTTP]
HAND: Final = "hand-written"
OFF: Final = "Sidestep"
ON: Final = "Sidestep, UPGRADE"
TIMES_HAND: Final = 1.15
LEAST_SHARE: Final = 0.35
"""Of the requests at 32 connections, for either pod, in the middle run; a half is even."""
_UPGRADE: Final = {"trafficPolicy": {"connectionPool": {"http": {"h2UpgradePolicy": "UPGRADE"}}}}


class Machine(NamedTuple):
    """A machine's files, and where it listens."""

    directory: Path
    listen: int


@dataclass(frozen=True)
class Found:
    """What one run found."""

    load: throughput.Load
    shares: tuple[float, ...]
    """Of the requests, for each pod."""


@dataclass(frozen=True)
class Bench:
    """Starts what is on the way; the stack ends it."""

    directory: Path
    ports: Ports
    stack: ExitStack
    authorities: Authorities

    def mesh(self) -> int:
        """Starts the pods and the gateway; the port of the gateway."""
        listens = tuple(self._pod(number) for number in range(PODS))
        port = self.ports.reserve()
        exports = [gateway.Export(SERVICE.host, SERVICE.ports[0], listens)]
        self._envoy("gateway", gateway.gateway_bootstrap("gateway", listen=port, exports=exports), port)
        return port

    def _pod(self, number: int) -> int:
        application, listen = self.ports.reserve(), self.ports.reserve()
        self._envoy(f"application-{number}", throughput.application(application), application)
        inbound = sidecar.Inbound(SERVICE.ports[0], listen, application)
        config = sidecar.sidecar_bootstrap(sidecar.Sidecar(SERVICE, (inbound,), (machines.TRUST_DOMAIN,)))
        identity = self.authorities.workload(SpiffeId(machines.TRUST_DOMAIN, SERVICE.namespace, SERVICE.account))
        secrets = {name: json.dumps(secret).encode() for name, secret in sidecar.secrets().items()}
        self._envoy(f"sidecar-{number}", config, listen, {**secrets, **identity.files()})
        return listen

    def _envoy(self, name: str, config: xds.Config, port: int, files: Mapping[str, bytes] | None = None) -> None:
        directory = self.directory / name
        directory.mkdir()
        for file, content in {"envoy.json": json.dumps(config).encode(), **(files or {})}.items():
            (directory / file).write_bytes(content)
        self.stack.enter_context(measure.running(directory, ("127.0.0.1", port), http=False))

    def machines(self, gateway_port: int) -> dict[str, Machine]:
        """The machines, not started yet."""
        identity = machines.machine_identity(self.authorities)
        made = {name: Machine(self.directory / name, self.ports.reserve()) for name in (HAND, OFF, ON)}
        for name, (directory, listen) in made.items():
            if name == HAND:
                call = handwritten.Call(SERVICE.host, SERVICE.account, ("127.0.0.1", listen), http2=False)
                handwritten.write(directory, [gateway_port], [call], handwritten.Style())
            else:
                specification = self.directory / f"{name}.yaml"
                specification.write_text(_documents(gateway_port, listen, _UPGRADE if name == ON else {}))
                measure.render(specification, directory)
            write_set(directory / "certs", identity.files())
        return made

    def load(self, machine: Machine, connections: int) -> Found:
        """One run of wrk after a first one that opens the connections, and how the pods shared it."""
        with measure.running(machine.directory, ("127.0.0.1", machine.listen)) as envoy:
            throughput.load(machine.listen, envoy, connections)
            before = [self._requests(number) for number in range(PODS)]
            load = throughput.load(machine.listen, envoy, connections)
            after = [self._requests(number) for number in range(PODS)]
        each = [late - early for early, late in zip(before, after, strict=True)]
        return Found(load, tuple(count / sum(each) for count in each))

    def _requests(self, pod: int) -> int:
        """How many requests a pod's application has heard."""
        name = "http.application.downstream_rq_total"
        said = _admin(self.directory / f"application-{pod}" / xds.ADMIN_SOCKET, f"/stats?filter={name}")
        return int(said.rpartition(f"{name}: ")[2].split()[0])


def _admin(path: Path, target: str) -> str:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(path))
        connection.sendall(f"GET {target} HTTP/1.1\r\nhost: admin\r\nconnection: close\r\n\r\n".encode())
        said = b""
        while data := connection.recv(65536):
            said += data
    return said.decode()


def _documents(gateway_port: int, listen: int, traffic: Mapping[str, object]) -> str:
    ports = [{"number": measure.SERVICE_PORT, "protocol": "HTTP"}]
    service = {"host": SERVICE.host, "ports": ports, "serviceAccounts": [SERVICE.account]}
    egress = {"host": SERVICE.host, "listen": f"127.0.0.1:{listen}", **traffic}
    mesh = {"gateways": [{"address": "127.0.0.1", "port": gateway_port}], "services": [service]}
    documents = [
        ("Mesh", {"name": "bench"}, mesh),
        ("Workload", {"name": "billing", "namespace": "vms"}, {"egress": [egress]}),
    ]
    return "\n---\n".join(
        json.dumps({"apiVersion": "sidestep/v1alpha1", "kind": kind, "metadata": metadata, "spec": spec})
        for kind, metadata, spec in documents
    )


def main() -> None:
    """Measures and prints."""
    options = measure.options(__doc__, runs=10)
    if shutil.which("wrk") is None:
        sys.exit("wrk is not installed")
    heads = (
        "machine",
        "connections",
        "requests/s",
        "of hand-written",
        "of Sidestep",
        "processor time of hand-written's",
        "p50 ms",
        "p99 ms",
        "smaller share",
        "smallest",
    )
    report = measure.Report("HTTP/1.1 callers carried over HTTP/2", heads)
    with measure.scratch() as directory, Ports() as ports, ExitStack() as stack:
        bench = Bench(directory, ports, stack, Authorities.make(machines.TRUST_DOMAIN, datetime.now(UTC)))
        made = bench.machines(bench.mesh())
        for connections in CONNECTIONS:
            subjects = {name: partial(bench.load, machine, connections) for name, machine in made.items()}
            _report(report, connections, measure.alternate(options.runs, subjects))
    report.show(as_json=options.json)


def _report(report: measure.Report, connections: int, found: Mapping[str, list[Found]]) -> None:
    for name, runs in found.items():
        figures = [measure.median([getattr(each.load, figure) for each in runs]) for figure in ("rate", "p50", "p99")]
        ratios = [measure.median(_ratios(runs, found[peer])) for peer in (HAND, OFF)]
        costs = measure.median([one.load.cost / other.load.cost for one, other in zip(runs, found[HAND], strict=True)])
        report.row(name, connections, figures[0], *ratios, costs, *figures[1:], *_shares(runs))
    if connections > 1:
        text = "32 connections: "
        report.ratio(f"{text}times hand-written", _ratios(found[ON], found[HAND]), TIMES_HAND, at_least=True)
        [share, _] = _shares(found[ON])
        report.target(f"{text}the smaller of two pods' shares", share, LEAST_SHARE, at_least=True)


def _shares(runs: Sequence[Found]) -> tuple[float, float]:
    """The smaller of the pods' shares: in the middle run, and in the least even one."""
    smaller = [min(each.shares) for each in runs]
    return measure.median(smaller), min(smaller)


def _ratios(ours: Sequence[Found], theirs: Sequence[Found]) -> list[float]:
    return [one.load.rate / other.load.rate for one, other in zip(ours, theirs, strict=True)]


if __name__ == "__main__":
    main()

"""Machines outside the mesh: a rendered bundle each, run by a stock Envoy in the machine's network namespace."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import yaml

from sidestep import onboard
from sidestep.files import write_set
from tests.envoys import accepted, envoy

from . import clients
from .certificates import TRUST_DOMAIN
from .mesh import GATEWAY
from .processes import Process
from .proxies import json_lines

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from concurrent.futures import Future, ProcessPoolExecutor
    from pathlib import Path

    from sidestep.pki.identity import Identity

    from .mesh import Mesh, Service

ADDRESS = "10.99.0.100"
# Several Envoys share the kernel and its abstract socket names; the log is to be read at once.
FLAGS = ("--disable-hot-restart", "--concurrency", "1", "--file-flush-interval-msec", "20")

Egress = tuple["Service", int, str]
"""A service, one of its ports, and the protocol where the mesh declares none."""


@dataclass(frozen=True)
class Machine:
    """A running bundle, and calls to its listeners."""

    bundle: Path
    envoy: Process
    listeners: dict[tuple[str, int], clients.Address]
    _clients: ProcessPoolExecutor

    def __getitem__(self, service: str) -> Reached:
        return Reached(self, service)

    def submit(self, function: Callable[..., Any], *args: Any, **options: Any) -> Future[Any]:
        """Run a function of `clients` on the machine."""
        return self._clients.submit(function, *args, **options)

    def access_log(self, count: int) -> list[dict[str, Any]]:
        """What it logged, once that is ``count`` calls."""
        self.envoy.wait_for(lambda: len(json_lines(self.envoy.text())) >= count, "the access log")
        return json_lines(self.envoy.text())


@dataclass(frozen=True)
class Reached:
    """A service, as the machine's applications reach it."""

    machine: Machine
    service: str

    def start(self, function: Callable[..., Any], port: int, *args: Any, **options: Any) -> Future[Any]:
        return self.machine.submit(function, self.machine.listeners[self.service, port], *args, **options)

    def http(self, port: int = 9080, **options: Any) -> clients.Response:
        response: clients.Response = self.start(clients.http_call, port, **options).result()
        return response

    def http2(self) -> tuple[str, clients.Response]:
        answered: tuple[str, clients.Response] = self.start(clients.http2_call, 9083).result()
        return answered

    def unary(self, message: str = "hello") -> clients.Rpc:
        rpc: clients.Rpc = self.start(clients.grpc_unary, 50051, message).result()
        return rpc

    def stream(self, messages: list[str]) -> clients.Rpc:
        rpc: clients.Rpc = self.start(clients.grpc_stream, 50051, messages).result()
        return rpc

    def exchange(self, message: bytes, *, port: int = 9000, greeting: bytes = b"") -> bytes:
        """Listen for the greeting first, where there is one."""
        received: bytes = self.start(clients.exchange, port, message, len(greeting)).result()
        return received

    def tls_exchange(self, message: bytes, *, root: str) -> bytes:
        reply: bytes = self.start(clients.tls_exchange, 8443, message, root=root).result()
        return reply

    def websocket(self, messages: list[str]) -> list[str]:
        replies: list[str] = self.start(clients.websocket, 9080, messages).result()
        return replies


class Machines:
    """Makes machines: all in one namespace, each with a loopback address of its own."""

    def __init__(self, mesh: Mesh, pool: ProcessPoolExecutor) -> None:
        self._mesh = mesh
        self._pool = pool
        self._count = 0

    def call(self, function: Callable[..., Any], *args: Any, **options: Any) -> Any:
        """Run a function of `clients` on the machine, past any bundle."""
        return self._pool.submit(function, *args, **options).result()

    @contextlib.contextmanager
    def running(
        self,
        name: str,
        identity: Identity,
        egress: Sequence[Egress],
        *,
        service_accounts: Mapping[str, str] | None = None,
        edit: Callable[[Path], None] | None = None,
        traffic: Mapping[str, Any] | None = None,
    ) -> Iterator[Machine]:
        """Render, put the certificates in, start, and wait until it listens.

        ``service_accounts`` pins others than the true ones; ``edit`` changes the bundle before it runs; ``traffic`` is
        what every egress says besides.
        """
        self._count += 1
        address = f"127.0.0.{10 + self._count}"
        listeners = {(service.short, port): (address, 10001 + n) for n, (service, port, _) in enumerate(egress)}
        documents = [
            mesh_document(self._mesh.services.values(), service_accounts or {}),
            workload_document(name, egress, listeners, traffic or {}),
        ]
        bundle = render(documents, self._mesh.run / f"machine-{self._count}")
        write_set(bundle / "certs", identity.files())
        if edit:
            edit(bundle)
        with self._start(bundle) as envoy:
            expected = list(listeners.values())
            envoy.wait_for(lambda: self.call(clients.all_listen, expected), f"the listeners of {name}")
            yield Machine(bundle, envoy, listeners, self._pool)

    def _start(self, bundle: Path) -> Process:
        command = [envoy().path, "-c", "envoy.json", *FLAGS]
        output = bundle.with_name(f"{bundle.name}.log")
        return Process(command, output=output, namespace=self._mesh.network.pods["machine"], cwd=bundle)


def render(documents: Sequence[Mapping[str, Any]], directory: Path) -> Path:
    """What Sidestep makes of the documents, in place."""
    file = directory.with_suffix(".yaml")
    file.write_text(yaml.safe_dump_all(documents))
    (bundle,) = onboard.bundles(onboard.load([str(file)]))
    bundle.install(directory, validate=accepted())
    return directory


def mesh_document(services: Any, service_accounts: Mapping[str, str]) -> dict[str, Any]:
    """What Sidestep is told about the mesh."""
    return {
        "apiVersion": "sidestep/v1alpha1",
        "kind": "Mesh",
        "metadata": {"name": "prod"},
        "spec": {
            "trustDomain": TRUST_DOMAIN,
            "gateways": [{"address": GATEWAY.address, "port": 15443}],
            "services": [
                {
                    "host": service.host,
                    "ports": [_port(number, protocol) for number, protocol in service.ports.items()],
                    "serviceAccounts": [service_accounts.get(service.short) or service.service_account or service.name],
                }
                for service in services
            ],
        },
    }


def _port(number: int, protocol: str) -> dict[str, Any]:
    return {"number": number, "protocol": protocol} if protocol else {"number": number}


def workload_document(
    name: str,
    egress: Sequence[Egress],
    listeners: Mapping[tuple[str, int], clients.Address],
    traffic: Mapping[str, Any],
) -> dict[str, Any]:
    """What Sidestep is told about the machine."""
    entries = []
    for service, port, protocol in egress:
        host, listen = listeners[service.short, port]
        entry = {"host": service.short, "port": port, "listen": f"{host}:{listen}", **traffic}
        entries.append(entry | ({"protocol": protocol} if protocol else {}))
    return {
        "apiVersion": "sidestep/v1alpha1",
        "kind": "Workload",
        "metadata": {"name": name, "namespace": "vms"},
        "spec": {"serviceAccount": name, "egress": entries},
    }


@contextlib.contextmanager
def outside(mesh: Mesh) -> Iterator[Machines]:
    """The place of the machines, on the mesh's network but with no sidecar."""
    namespace = mesh.network.add("machine", ADDRESS)
    with clients.inside(namespace) as pool:
        yield Machines(mesh, pool)

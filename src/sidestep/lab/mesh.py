"""The mesh side of the lab, running: sample services, a sidecar for each pod, and the east-west gateways."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import orjson

from sidestep.lab.envoys import LabEnvoy
from sidestep.lab.gateway import Export, gateway_bootstrap
from sidestep.lab.services import serve_application
from sidestep.lab.sidecar import Inbound, Sidecar, secrets, sidecar_bootstrap
from sidestep.lab.xds import BOOTSTRAP_FILE
from sidestep.pki.pem import encode
from sidestep.pki.spiffe import SpiffeId

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from sidestep.lab.envoys import Runtime
    from sidestep.lab.identities import Authorities
    from sidestep.lab.topology import MeshDescription, Service
    from sidestep.lab.xds import Config
    from sidestep.pki.identity import Identity


@dataclass(frozen=True)
class Pod:
    """One pod of a service: its sidecar and what listens where, on 127.0.0.1."""

    service: Service
    sidecar: LabEnvoy
    inbound: tuple[Inbound, ...]

    def listen(self, port: int) -> int:
        """Where the sidecar listens for a port of the Service. A pod of the mesh would call this directly."""
        return next(inbound.listen for inbound in self.inbound if inbound.port.number == port)


@dataclass(frozen=True)
class Gateway:
    """One east-west gateway. ``envoy`` can be killed and started again; the ports stay."""

    address: str
    port: int
    envoy: LabEnvoy
    status: int
    """Where it says that it is ready."""


@dataclass(frozen=True)
class Mesh:
    """A running mesh."""

    description: MeshDescription
    authorities: Authorities
    gateways: tuple[Gateway, ...]
    replicas: Mapping[str, tuple[Pod, ...]]
    """Every pod, by the Service's host."""

    @property
    def pods(self) -> dict[str, Pod]:
        """The first pod of every Service, by its host."""
        return {host: pods[0] for host, pods in self.replicas.items()}

    @property
    def roots(self) -> bytes:
        """What a machine must trust, as PEM."""
        return encode(self.authorities.root.roots)


@asynccontextmanager
async def start_mesh(
    description: MeshDescription, authorities: Authorities, directory: Path, runtime: Runtime
) -> AsyncIterator[Mesh]:
    """Start everything that a description says, and stop it at the end of the block.

    Each Envoy keeps its files in a directory of its own under ``directory``.
    """
    builder = _Builder(description, authorities, directory, runtime)
    async with AsyncExitStack() as stack:
        replicas = {service.host: await builder.replicas(service, stack) for service in description.services}
        pods = [pod for each in replicas.values() for pod in each]
        gateways = builder.gateways(replicas.values())
        await _start([*(pod.sidecar for pod in pods), *(gateway.envoy for gateway in gateways)], stack)
        yield Mesh(description, authorities, gateways, replicas)


async def _start(envoys: Sequence[LabEnvoy], stack: AsyncExitStack) -> None:
    for envoy in envoys:
        stack.push_async_callback(envoy.stop)
        await envoy.launch()
    await asyncio.gather(*(envoy.ready() for envoy in envoys))


@dataclass(frozen=True)
class _Builder:
    description: MeshDescription
    authorities: Authorities
    directory: Path
    runtime: Runtime

    async def replicas(self, service: Service, stack: AsyncExitStack) -> tuple[Pod, ...]:
        """The pods of a service: their applications running, their sidecars not started yet."""
        return tuple(
            [self.pod(service, number, await self.serve(service, number, stack)) for number in range(service.pods)]
        )

    async def serve(self, service: Service, number: int, stack: AsyncExitStack) -> tuple[Inbound, ...]:
        """Start the sample services of one pod, and reserve the ports of its sidecar."""
        inbound = []
        for port in service.ports:
            serving = serve_application(port.application, service.name, number)
            application = await stack.enter_async_context(serving)
            inbound.append(Inbound(port, self.runtime.ports.reserve(), application))
        return tuple(inbound)

    def pod(self, service: Service, number: int, inbound: tuple[Inbound, ...]) -> Pod:
        """The sidecar of one pod, not started yet."""
        sidecar = Sidecar(service, inbound, self.description.trust_domains)
        contents = {name: _as_json(secret) for name, secret in secrets().items()}
        contents |= {BOOTSTRAP_FILE: _as_json(sidecar_bootstrap(sidecar)), **self._identity(service).files()}
        directory = self.directory / (f"{service.name}.{service.namespace}" + (f"-{number}" if number else ""))
        return Pod(service, LabEnvoy(directory, contents, self.runtime), inbound)

    def gateways(self, replicas: Iterable[Sequence[Pod]]) -> tuple[Gateway, ...]:
        """The gateways, not started yet. All forward to the same pods."""
        exports = [export for pods in replicas if pods[0].service.exported for export in _exports(pods)]
        return tuple(self._gateway(f"gateway-{number + 1}", exports) for number in range(self.description.gateways))

    def _gateway(self, name: str, exports: Sequence[Export]) -> Gateway:
        port, status = self.runtime.ports.reserve(), self.runtime.ports.reserve()
        bootstrap = gateway_bootstrap(name, listen=port, exports=exports, status=status)
        envoy = LabEnvoy(self.directory / name, {BOOTSTRAP_FILE: _as_json(bootstrap)}, self.runtime)
        return Gateway("127.0.0.1", port, envoy, status)

    def _identity(self, service: Service) -> Identity:
        own = service.spiffe_id(self.description.trust_domain)
        return self.authorities.workload(SpiffeId.parse(service.presents or own))


def _exports(pods: Sequence[Pod]) -> Iterator[Export]:
    """What a gateway has for a Service: every port, and every port of every subset."""
    service = pods[0].service
    for subset, numbers in {"": range(len(pods)), **service.subsets}.items():
        for port in service.ports:
            yield Export(service.host, port, tuple(pods[number].listen(port.number) for number in numbers), subset)


def _as_json(config: Config) -> bytes:
    return orjson.dumps(config, option=orjson.OPT_INDENT_2)

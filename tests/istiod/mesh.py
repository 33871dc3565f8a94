"""A mesh that the real istiod runs: its gateway, its sidecars, and the applications behind them."""

from __future__ import annotations

import contextlib
import shutil
import sys
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import yaml

from sidestep.files import write_set
from sidestep.pki.identity import issue
from sidestep.pki.spiffe import SpiffeId

from . import apps, istiod, manifests, proxies
from .certificates import CertificateAuthorities, PrivateAuthority, spiffe_id
from .network import Network
from .processes import Process
from .sds import SecretServer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sidestep.pki.identity import Identity

    from .proxies import Proxy

INPUT = Path(__file__).parent / "input"
REPOSITORY = Path(__file__).parents[2]


@dataclass(frozen=True)
class Service:
    """A service and its one pod, as its ServiceEntry declares them."""

    name: str
    namespace: str
    host: str
    ports: dict[int, str]
    """Number → protocol, empty where Istio was not told."""
    address: str
    service_account: str
    """Empty: the pod has no sidecar."""
    labels: dict[str, str]

    @property
    def short(self) -> str:
        return f"{self.name}.{self.namespace}"

    @property
    def spiffe_id(self) -> str:
        return spiffe_id(self.service_account or "default", namespace=self.namespace)

    @classmethod
    def from_object(cls, entry: dict[str, Any]) -> Self:
        """Read a ServiceEntry."""
        spec, endpoint = entry["spec"], entry["spec"]["endpoints"][0]
        return cls(
            name=entry["metadata"]["name"],
            namespace=entry["metadata"]["namespace"],
            host=spec["hosts"][0],
            ports={port["number"]: port.get("protocol", "") for port in spec["ports"]},
            address=endpoint["address"],
            service_account=endpoint.get("serviceAccount", ""),
            labels=endpoint["labels"],
        )


GATEWAY = Service(
    name="east-west",
    namespace="istio-system",
    host="",
    ports={15443: "TLS"},
    address="10.99.0.11",
    service_account="east-west",
    labels={"istio": "east-west-gateway"},
)


def read_services(objects: Path) -> dict[str, Service]:
    """The services in a folder of Istio objects, by short name."""
    documents = [document for path in objects.glob("*.yaml") for document in yaml.safe_load_all(path.read_text())]
    services = [Service.from_object(document) for document in documents if document["kind"] == "ServiceEntry"]
    return {service.short: service for service in services}


class Mesh:
    """The running mesh. What it starts belongs to ``stack``."""

    def __init__(self, run: Path, stack: contextlib.ExitStack) -> None:
        self.run = run
        self.stack = stack
        self.services = read_services(INPUT / "objects")
        self.authorities = CertificateAuthorities.new()
        self.private = PrivateAuthority.new()
        self.network = stack.enter_context(Network())
        self.proxies: dict[str, Proxy] = {}
        self._secrets = stack.enter_context(SecretServer(run / "sds"))

    @property
    def gateway(self) -> Proxy:
        return self.proxies[GATEWAY.short]

    def start(self, istiod_binary: Path) -> None:
        """Start everything, and return when all of it serves."""
        started = [self._start_app(service) for service in self.services.values()]
        objects = self._objects()
        hosts = [service.host for service in self.services.values()] + manifests.HOSTS
        control_plane = istiod.start(istiod_binary, objects, hosts, namespace=self.network.hub, run=self.run)
        self.stack.enter_context(control_plane)
        self.network.add(GATEWAY.short, GATEWAY.address)
        for service in (GATEWAY, *self.services.values()):
            if service.service_account:
                self._start_proxy("router" if service is GATEWAY else "sidecar", service)
        for proxy in self.proxies.values():
            proxy.process.wait_for(proxy.ready, f"{proxy.node_id} ready")
        for app in started:
            app.wait_for_line(apps.SERVING)

    def _objects(self) -> Path:
        """What istiod reads: the mesh's own objects, and those by which it knows machines."""
        folder = self.run / "istio" / "objects"
        shutil.copytree(INPUT, folder.parent)
        ca = self.run / "private-ca.pem"
        ca.write_bytes(self.private.pem)
        objects = manifests.for_machines(ca)
        (folder / "machines.yaml").write_text(yaml.safe_dump_all(objects))
        return folder

    def _start_app(self, service: Service) -> Process:
        namespace = self.network.add(service.short, service.address, captured=bool(service.service_account))
        folder = self.run / f"app.{service.short}"
        write_set(folder, self._issue(service).files())
        command = [sys.executable, "-m", "tests.istiod.apps", folder / "cert-chain.pem", folder / "key.pem"]
        output = self.run / f"app.{service.short}.log"
        process = Process(command, output=output, namespace=namespace, cwd=REPOSITORY)
        return self.stack.enter_context(process)

    def _issue(self, service: Service) -> Identity:
        return issue(self.authorities.mesh, SpiffeId.parse(service.spiffe_id), datetime.now(UTC))

    def _start_proxy(self, kind: str, service: Service) -> None:
        node = proxies.node_of(kind, service.name, service.namespace, service.address)
        self._secrets.identities[node] = self._issue(service)
        config = proxies.bootstrap(
            node, service.labels, service.service_account, istiod=Network.HUB_ADDRESS, run=self.run
        )
        proxy = proxies.start(config, namespace=self.network.pods[service.short], run=self.run)
        self.stack.enter_context(proxy.process)
        self.proxies[service.short] = proxy


@contextlib.contextmanager
def running(istiod_binary: Path) -> Iterator[Mesh]:
    """A mesh of its own, taken down at the end whatever happened."""
    with contextlib.ExitStack() as stack:
        run = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="sidestep-")))
        mesh = Mesh(run, stack)
        mesh.start(istiod_binary)
        yield mesh

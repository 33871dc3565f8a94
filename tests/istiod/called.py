"""Machines that the mesh calls, and a load balancer in front of them: each in a network namespace of its own."""

from __future__ import annotations

import contextlib
import json
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sidestep.files import write_set
from tests.envoys import envoy

from . import apps, clients
from .machine import FLAGS, mesh_document, render
from .manifests import LOAD_BALANCER
from .mesh import REPOSITORY
from .processes import Process
from .proxies import json_lines

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from sidestep.pki.identity import Identity

    from .mesh import Mesh

ADMITTED = "cluster.local/ns/strict/sa/open"
BALANCER = "cluster.local/ns/edge/sa/load-balancer"
BALANCED = 18443
NAME = "billing.example.com"
EXTENSIONS = "type.googleapis.com/envoy.extensions"
TLS = f"{EXTENSIONS}.transport_sockets.tls.v3"


@dataclass(frozen=True)
class CalledMachine:
    """A running bundle with its applications."""

    bundle: Path
    envoy: Process
    app: Process

    def log(self) -> list[dict[str, Any]]:
        """What its Envoy logged so far."""
        return json_lines(self.envoy.text())


@contextlib.contextmanager
def machine(mesh: Mesh, name: str, address: str, identity: Identity) -> Iterator[CalledMachine]:
    """Applications, and a bundle in front of them."""
    namespace = mesh.network.add(name, address)
    bundle = render([mesh_document(mesh.services.values(), {}), _workload(name)], mesh.run / f"called-{name}")
    write_set(bundle / "certs", identity.files())
    certificates = bundle / "certs"
    serve = [sys.executable, "-m", "tests.istiod.apps", certificates / "cert-chain.pem", certificates / "key.pem"]
    run = [envoy().path, "-c", "envoy.json", *FLAGS]
    logs = mesh.run / f"called-{name}.app.log", mesh.run / f"called-{name}.log"
    with (
        Process(serve, output=logs[0], namespace=namespace, cwd=REPOSITORY) as app,
        Process(run, output=logs[1], namespace=namespace, cwd=bundle) as proxy,
        clients.inside(namespace) as pool,
    ):
        app.wait_for_line(apps.SERVING)
        listens = [("0.0.0.0", port) for port in (18080, 60051, 12525, BALANCED)]
        proxy.wait_for(lambda: pool.submit(clients.all_listen, listens).result(), f"the listeners of {name}")
        yield CalledMachine(bundle, proxy, app)


def _workload(name: str) -> dict[str, Any]:
    """``targetPort`` of the ServiceEntry is where Envoy listens; the applications have ports of their own."""
    rules = [{"to": [{"operation": {"methods": ["GET"], "paths": ["/", "/public/*"]}}]}]
    ingress = [
        {"port": 8080, "protocol": "HTTP", "application": "127.0.0.1:9080", "listen": "0.0.0.0:18080", "rules": rules},
        {"port": 50051, "protocol": "GRPC"},
        {"port": 2525, "protocol": "TCP", "application": "127.0.0.1:9001", "listen": "0.0.0.0:12525"},
    ]
    balanced = {
        "port": 8443,
        "protocol": "HTTP",
        "application": "127.0.0.1:9081",
        "listen": f"0.0.0.0:{BALANCED}",
        "allow": [BALANCER],
        "healthCheck": {"tcpSocket": {}, "periodSeconds": 1, "failureThreshold": 1},
        "loadBalancer": {"sources": [LOAD_BALANCER]},
    }
    return {
        "apiVersion": "sidestep/v1alpha1",
        "kind": "Workload",
        "metadata": {"name": name, "namespace": "vms"},
        "spec": {"ingress": [*({**each, "allow": [ADMITTED]} for each in ingress), balanced]},
    }


@contextlib.contextmanager
def load_balancer(mesh: Mesh, machines: list[str], identity: Identity) -> Iterator[None]:
    """An HTTPS load balancer: it ends TLS with a certificate of a private CA, and asks who is well."""
    namespace = mesh.network.add("balancer", LOAD_BALANCER)
    folder = mesh.run / "balancer"
    write_set(folder / "identity", identity.files())
    certificate, key = mesh.private.server(NAME)
    (folder / "cert.pem").write_bytes(certificate)
    (folder / "key.pem").write_bytes(key)
    (folder / "envoy.json").write_text(json.dumps(_balancer(machines)))
    command = [envoy().path, "-c", "envoy.json", *FLAGS]
    with Process(command, output=mesh.run / "balancer.log", namespace=namespace, cwd=folder) as proxy:
        with clients.inside(namespace) as pool:
            proxy.wait_for(lambda: pool.submit(clients.all_listen, [("0.0.0.0", 443)]).result(), "the load balancer")
        yield


def _balancer(machines: list[str]) -> dict[str, Any]:
    """By hand, and by no code of ours."""
    own = {"certificate_chain": {"filename": "cert.pem"}, "private_key": {"filename": "key.pem"}}
    shown = {
        "certificate_chain": {"filename": "identity/cert-chain.pem"},
        "private_key": {"filename": "identity/key.pem"},
    }
    trusted = {
        "trusted_ca": {"filename": "identity/root-cert.pem"},
        "match_typed_subject_alt_names": [
            {"san_type": "URI", "matcher": {"suffix": f"/ns/vms/sa/{name}"}} for name in ("billing", "archive")
        ],
    }
    server = {"@type": f"{TLS}.DownstreamTlsContext", "common_tls_context": {"tls_certificates": [own]}}
    client = {
        "@type": f"{TLS}.UpstreamTlsContext",
        "common_tls_context": {"tls_certificates": [shown], "validation_context": trusted},
    }
    routes = [{"match": {"prefix": "/"}, "route": {"cluster": "machines"}}]
    manager = {
        "@type": f"{EXTENSIONS}.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "balancer",
        "use_remote_address": True,
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": routes}]},
        "http_filters": [
            {
                "name": "router",
                "typed_config": {"@type": f"{EXTENSIONS}.filters.http.router.v3.Router"},
            }
        ],
    }
    chain = {
        "filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}],
        "transport_socket": {"name": "envoy.transport_sockets.tls", "typed_config": server},
    }
    check = {
        "timeout": "1s",
        "interval": "0.2s",
        "no_traffic_interval": "0.2s",
        "unhealthy_threshold": 1,
        "healthy_threshold": 1,
        "http_health_check": {"path": "/healthz/ready"},
    }
    endpoints = [{"endpoint": {"address": _address(address, BALANCED)}} for address in machines]
    cluster = {
        "name": "machines",
        "connect_timeout": "2s",
        "common_lb_config": {"healthy_panic_threshold": {"value": 0}},
        "health_checks": [check],
        "load_assignment": {"cluster_name": "machines", "endpoints": [{"lb_endpoints": endpoints}]},
        "transport_socket": {"name": "envoy.transport_sockets.tls", "typed_config": client},
    }
    listener = {"name": "https", "address": _address("0.0.0.0", 443), "filter_chains": [chain]}
    return {"static_resources": {"listeners": [listener], "clusters": [cluster]}}


def _address(address: str, port: int) -> dict[str, Any]:
    return {"socket_address": {"address": address, "port_value": port}}

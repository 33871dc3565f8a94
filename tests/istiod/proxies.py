"""Stock Envoys that the real istiod configures: the gateway and the sidecars."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sidestep.errors import EnvoyStopped
from sidestep.proxy.admin import Admin
from tests.envoys import envoy, eventually

from .processes import Process

if TYPE_CHECKING:
    from collections.abc import Mapping

ISTIO_VERSION = "1.29.6"
# On this level a connection's log says why its certificate was refused; TLS 1.3 tells it to nobody else.
LOGGING = ("--log-level", "warning", "--component-log-level", "connection:debug")
FLAGS = ("--disable-hot-restart", "--concurrency", "1", "--file-flush-interval-msec", "20", *LOGGING)


class Proxy:
    """A gateway's or a sidecar's Envoy."""

    def __init__(self, node_id: str, process: Process, admin: Admin) -> None:
        self.node_id = node_id
        self.process = process
        self._admin = admin

    def get(self, path: str) -> str:
        """Ask the admin interface."""
        return self._admin.request(path).body.decode()

    def ready(self) -> bool:
        try:
            return self.get("/ready") == "LIVE\n"
        except EnvoyStopped:
            return False

    def counter(self, suffix: str) -> int:
        """The sum of all counters whose names end so."""
        stats = json.loads(self.get("/stats?format=json&type=Counters"))["stats"]
        return sum(int(stat["value"]) for stat in stats if stat.get("name", "").endswith(suffix))

    def access_log(self, **fields: str) -> list[dict[str, Any]]:
        """The lines that it logged with these fields, once there are any."""

        def logged() -> list[dict[str, Any]]:
            lines = json_lines(self.process.text())
            return [line for line in lines if fields == {name: line.get(name) for name in fields}]

        return eventually(f"a line with {fields} in {self.process.output}", logged)


def json_lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines() if line.startswith("{") and line.endswith("}")]


def node_of(kind: str, name: str, namespace: str, address: str) -> str:
    """The node ID by which istiod knows a proxy; ``kind`` is ``sidecar`` or ``router``."""
    return f"{kind}~{address}~{name}.{namespace}~{namespace}.svc.cluster.local"


def bootstrap(
    node_id: str, labels: Mapping[str, str], service_account: str, *, istiod: str, run: Path
) -> dict[str, Any]:
    """The bootstrap of an Envoy under istiod, as Istio's agent writes it."""
    _, address, name, _ = node_id.split("~")
    workload, namespace = name.rsplit(".", 1)
    metadata = {
        "ISTIO_VERSION": ISTIO_VERSION,
        "NAMESPACE": namespace,
        "INSTANCE_IPS": address,
        "LABELS": dict(labels),
        "CLUSTER_ID": "Kubernetes",
        "MESH_ID": "cluster.local",
        "SERVICE_ACCOUNT": service_account,
        "NAME": workload,
        "WORKLOAD_NAME": workload,
    }
    ads = {"ads": {}, "resource_api_version": "V3", "initial_fetch_timeout": "0s"}
    return {
        "node": {"id": node_id, "cluster": f"{workload}.{namespace}", "metadata": metadata},
        "admin": {"address": {"pipe": {"path": str(run / f"{workload}.{namespace}.admin")}}},
        "bootstrap_extensions": [
            {
                "name": "envoy.bootstrap.internal_listener",
                "typed_config": {
                    "@type": "type.googleapis.com/envoy.extensions.bootstrap.internal_listener.v3.InternalListener"
                },
            }
        ],
        "dynamic_resources": {
            "ads_config": {
                "api_type": "DELTA_GRPC",
                "transport_api_version": "V3",
                "set_node_on_first_message_only": True,
                "grpc_services": [{"envoy_grpc": {"cluster_name": "xds-grpc"}}],
            },
            "lds_config": ads,
            "cds_config": ads,
        },
        "static_resources": {
            "clusters": [
                _http2_cluster("xds-grpc", {"socket_address": {"address": istiod, "port_value": 15010}}),
                _http2_cluster("sds-grpc", {"pipe": {"path": str(run / "sds")}}),
            ]
        },
    }


def _http2_cluster(name: str, address: dict[str, Any]) -> dict[str, Any]:
    options = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
    return {
        "name": name,
        "type": "STATIC",
        "connect_timeout": "5s",
        "typed_extension_protocol_options": {
            options: {
                "@type": f"type.googleapis.com/{options}",
                "explicit_http_config": {"http2_protocol_options": {}},
            }
        },
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address}}]}],
        },
    }


def start(config: dict[str, Any], *, namespace: str, run: Path) -> Proxy:
    """Start an Envoy with this bootstrap."""
    name = config["node"]["cluster"]
    path = run / f"{name}.json"
    path.write_text(json.dumps(config))
    command = [envoy().path, "-c", path, *FLAGS]
    process = Process(command, output=run / f"{name}.log", namespace=namespace, cwd=run)
    return Proxy(config["node"]["id"], process, Admin(Path(config["admin"]["address"]["pipe"]["path"])))

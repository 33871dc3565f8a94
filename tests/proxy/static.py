"""Configurations with everything in them for real Envoys, and programs that play one."""

from __future__ import annotations

import asyncio
import json
import os
import shlex
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import sidestep
from sidestep.proxy.binary import Envoy, find
from sidestep.proxy.process import Process

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

ENVOY = find(environment={})
CHILD = os.environ | {"PYTHONPATH": str(Path(sidestep.__file__).parents[1])}
TYPE = "type.googleapis.com/envoy.extensions"

HOST = f"127.77.{os.getpid() >> 8 & 255}.{os.getpid() & 255}"
"""A loopback address of this process's own: no port on it is anybody else's, nor the near end of a connection."""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def address(port: int) -> dict[str, object]:
    return {"socket_address": {"address": HOST, "port_value": port}}


def echo(name: str, port: int) -> dict[str, object]:
    """A listener that sends back what it gets."""
    filters = [{"name": "echo", "typed_config": {"@type": f"{TYPE}.filters.network.echo.v3.Echo"}}]
    return {
        "name": name,
        "enable_reuse_port": False,
        "address": address(port),
        "filter_chains": [{"filters": filters}],
    }


def forward(name: str, port: int, to: int) -> dict[str, object]:
    """An HTTP listener whose answers come from port ``to``."""
    manager = {
        "@type": f"{TYPE}.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": name,
        "http_filters": [{"name": "router", "typed_config": {"@type": f"{TYPE}.filters.http.router.v3.Router"}}],
        "route_config": {
            "virtual_hosts": [
                {"name": "all", "domains": ["*"], "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "app"}}]}
            ]
        },
    }
    listener = echo(name, port)
    listener["filter_chains"] = [{"filters": [{"name": "http", "typed_config": manager}]}]
    return listener | {"to": to}


def write_static(directory: Path, *listeners: dict[str, object], **more: object) -> None:
    """A bootstrap with everything in it; the admin interface on a socket in ``directory``."""
    ports = [listener.pop("to") for listener in listeners if "to" in listener]
    clusters = [
        {
            "name": "app",
            "type": "STATIC",
            "load_assignment": {
                "cluster_name": "app",
                "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address(int(str(port)))}}]}],
            },
        }
        for port in ports
    ]
    bootstrap = {
        "node": {"id": "test", "cluster": "test"},
        "admin": {"address": {"pipe": {"path": "admin.sock", "mode": 0o600}}},
        "static_resources": {"listeners": listeners, "clusters": clusters},
    }
    (directory / "envoy.json").write_text(json.dumps(bootstrap | more))


def write_dynamic(directory: Path, *listeners: dict[str, object]) -> None:
    """A bootstrap whose listeners come from lds.json."""
    typed = [{"@type": "type.googleapis.com/envoy.config.listener.v3.Listener"} | one for one in listeners]
    (directory / "lds.json").write_text(json.dumps({"resources": typed}))
    source = {"path_config_source": {"path": "lds.json", "watched_directory": {"path": "."}}}
    write_static(directory, dynamic_resources={"lds_config": source})


def script(directory: Path, text: str, name: str = "envoy") -> Path:
    """A program that plays Envoy, badly."""
    path = directory / name
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def process(directory: Path, envoy: Envoy = ENVOY, **options: object) -> Process:
    return Process(envoy, directory, directory, concurrency=1, **options)  # type: ignore[arg-type]  # as the caller says


def run(test: Callable[[], Coroutine[object, object, None]]) -> None:
    asyncio.run(asyncio.wait_for(test(), 60))


def shell(directory: Path, limits: str, code: str) -> str:
    """What a Python that ran ``code`` under ``limits`` (ulimit commands) printed."""
    (directory / "code.py").write_text(code)
    command = ["sh", "-c", f"{limits}; exec {shlex.quote(sys.executable)} code.py"]
    return subprocess.run(command, cwd=directory, env=CHILD, capture_output=True, text=True, check=True).stdout.strip()

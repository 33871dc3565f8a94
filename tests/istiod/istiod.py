"""The real istiod, reading its objects from files."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from .processes import Late, Process

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

ENVIRONMENT = {
    "POD_NAMESPACE": "istio-system",
    "POD_NAME": "istiod",
    "CLUSTER_ID": "Kubernetes",
    "INJECTION_WEBHOOK_CONFIG_NAME": "",
    "VALIDATION_WEBHOOK_CONFIG_NAME": "",
    "PILOT_ENABLE_GATEWAY_API": "false",
    # Stock Envoy has neither of the two filters.
    "PILOT_ENABLE_METADATA_EXCHANGE": "false",
    "PILOT_ENABLE_ALPN_FILTER": "false",
}
ATTEMPTS = 5


def start(binary: Path, objects: Path, hosts: Iterable[str], *, namespace: str, run: Path) -> Process:
    """Start istiod, and return it once it serves every one of ``hosts`` on :15010.

    With files it sometimes starts with an empty store and stays so. Then it is started again.
    """
    command = [binary, "discovery", "--configDir", objects, "--meshConfig", objects.parent / "mesh.yaml"]
    command += ["--registries=", "--secureGRPCAddr=", "--httpsAddr=", "--monitoringAddr=:15914", "--ctrlz_port=0"]
    expected = [f"/{host}\n" for host in hosts]
    for attempt in range(ATTEMPTS):
        process = Process(command, output=run / f"istiod.{attempt}.log", namespace=namespace, cwd=run, env=ENVIRONMENT)
        try:
            process.wait_for_line("marking server ready")
            process.wait_for(partial(_serves, process, expected), "istiod's services", seconds=3)
        except Late:
            process.stop()
            if attempt == ATTEMPTS - 1:
                raise
            continue
        return process
    raise AssertionError


def _serves(process: Process, expected: list[str]) -> bool:
    log = process.text()
    return all(host in log for host in expected) and f"Pushing Services:{len(expected)} " in log

"""Two networks of machines around a forwarder: one that the spec lets in, and one that it does not.

A lab runs in the forwarder's own network namespace, beside the forwarder, which listens on the bridge. The untouched
machines are namespaces of their own, with curl, Python, and nothing of the mesh.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from sidestep.onboard import bundles, load
from tests import documents
from tests.envoys import Running, accepted, running
from tests.istiod.network import Network, run

if TYPE_CHECKING:
    from collections.abc import Iterator

ADDRESS, ANOTHER = "10.99.0.2", "10.99.0.3"
"""The forwarder's host has two, so that a second one fits beside the first."""
UNTOUCHED, STRANGER = "untouched", "stranger"
UNTOUCHED_ADDRESS, STRANGER_ADDRESS = "10.99.0.10", "10.99.0.20"
HTTP, GRPC, TCP, GREETING, TLS_PORT = 9080, 50051, 9000, 2525, 9443
PROXY, HEALTH = 3128, 15021
FLUSHING = ("--disable-hot-restart", "--file-flush-interval-msec", "20")
REVIEWS, LEDGER = "reviews.bookinfo", "ledger.pay"


def missing() -> str:
    """What this host lacks for the network; empty if nothing."""
    if sys.platform != "linux":
        return "network namespaces need Linux"
    if os.geteuid():
        return "network namespaces need root"
    absent = [command for command in ("ip", "curl") if not shutil.which(command)]
    return f"not installed: {', '.join(absent)}" if absent else ""


@dataclass(frozen=True)
class Site:
    """The machines, the mesh, and where the lab keeps its files."""

    network: Network
    lab: Path

    def run(self, machine: str, *command: str) -> subprocess.CompletedProcess[str]:
        """A command on one of the machines, without any proxy variable."""
        environment = {key: value for key, value in os.environ.items() if "proxy" not in key.lower()}
        return subprocess.run(
            [*self.on(machine), *command], capture_output=True, text=True, check=False, timeout=60, env=environment
        )

    def on(self, machine: str) -> list[str]:
        """What runs a command there."""
        return ["ip", "netns", "exec", self.network.pods[machine]]

    def curl(self, machine: str, *arguments: str) -> tuple[str, str, int]:
        """Status, body and curl's own exit status."""
        done = self.run(machine, "curl", "-sS", "-m", "10", "-w", "\n%{http_code}", *arguments)
        body, _, status = done.stdout.rpartition("\n")
        return status, body + done.stderr, done.returncode

    def client(self, machine: str, *arguments: str) -> dict[str, str]:
        """What the application of `client` got."""
        done = self.run(machine, sys.executable, "-m", "tests.forwarder.client", *arguments)
        assert not done.returncode, done.stderr
        answer: dict[str, str] = json.loads(done.stdout)
        return answer

    @contextmanager
    def program(self, machine: str, name: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
        """One of this folder's programs on one of the machines; ``ready`` is its first line."""
        command = [*self.on(machine), sys.executable, "-m", f"tests.forwarder.{name}", *arguments]
        pipe = subprocess.PIPE
        with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as process:
            try:
                assert process.stdout
                assert process.stdout.readline() == "ready\n"
                yield process
            finally:
                process.terminate()

    def certificates(self, of: str) -> Path:
        """A directory with the certificate of a pod or of the lab's machine."""
        return self.lab / "machine" / "bundle" / "certs" if of == "billing" else self.lab / "mesh" / of

    @contextmanager
    def forwarder(self, directory: Path, address: str = ANOTHER, **spec: Any) -> Iterator[Running]:
        """Renders a forwarder and runs it until the end of the block, with the identity of the lab's machine."""
        documents.write(directory / "forwarder.yaml", workload(address, **spec))
        files = [self.lab / "machine" / "spec" / "mesh.yaml", directory / "forwarder.yaml"]
        [bundle] = bundles(load(str(file) for file in files))
        bundle.install(directory / "bundle", validate=accepted())
        shutil.copytree(self.certificates("billing"), directory / "bundle" / "certs", dirs_exist_ok=True)
        with running(directory / "bundle", arguments=FLUSHING, within=self.on("forwarder")) as envoy:
            yield envoy


def workload(address: str, **spec: Any) -> documents.Fields:
    """A forwarder for every way."""
    ports = [(REVIEWS, HTTP), (LEDGER, GRPC), (LEDGER, TCP), (LEDGER, GREETING)]
    calls = [documents.egress(host, f"{address}:{port}", port=port) for host, port in ports]
    ways = {"proxy": {"listen": f"{address}:{PROXY}"}, "health": {"listen": f"{address}:{HEALTH}"}}
    return documents.workload(*calls, **{"profile": "forwarder", **ways, **spec})


@pytest.fixture(scope="package")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    if reason := missing():
        pytest.skip(reason)
    directory = tmp_path_factory.mktemp("lab")
    with Network() as network:
        network.add("forwarder", ADDRESS)
        run("ip", "-n", network.pods["forwarder"], "address", "add", f"{ANOTHER}/24", "dev", "eth0")
        network.add(UNTOUCHED, UNTOUCHED_ADDRESS)
        network.add(STRANGER, STRANGER_ADDRESS)
        site = Site(network, directory)
        command = [*site.on("forwarder"), sys.executable, "-m", "sidestep", "lab", "--scenario", "by-host"]
        with subprocess.Popen([*command, "--keep", str(directory)], stdout=subprocess.PIPE, text=True) as lab:
            assert lab.stdout
            try:
                assert any(line.startswith("✓") and "by-host" in line for line in lab.stdout), "no lab"
                yield site
            finally:
                lab.terminate()
                lab.communicate(timeout=30)

"""A network of its own for one mesh: a bridge in one namespace, and one namespace a pod.

All of it, the bridge too, lives in namespaces named after the process that made them: two meshes can use the same
addresses side by side, nothing of the host's own network is touched, and what a killed run left is found and removed.
"""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path
from typing import Self

PREFIX = "sidestep-istiod"
SERVICES = "10.98.0.0/16"
CAPTURE_EXEMPT = "15006,15020,15021,15090"


def run(*command: str, given: str = "") -> str:
    """Run a command; what it said is in the error when it fails."""
    done = subprocess.run(command, input=given, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout


class Network:
    """Pods with addresses in 10.99.0.0/24; the bridge has 10.99.0.1."""

    HUB_ADDRESS = "10.99.0.1"

    def __init__(self) -> None:
        self._owner = os.getpid()
        self.pods: dict[str, str] = {}
        """Namespace by pod."""
        self.hub = self._name("hub")

    def __enter__(self) -> Self:
        remove_left_over()
        _add(self.hub)
        try:
            setup = f"link add mesh type bridge\naddress add {self.HUB_ADDRESS}/24 dev mesh\nlink set mesh up\n"
            run("ip", "-n", self.hub, "-batch", "-", given=setup)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for namespace in [*self.pods.values(), self.hub]:
            remove(namespace)

    def add(self, pod: str, address: str, *, captured: bool = False) -> str:
        """Make a pod's namespace. ``captured``: what comes in goes to the sidecar, as Istio's init container has it."""
        namespace = self.pods[pod] = self._name(pod)
        _add(namespace)
        port = f"pod{len(self.pods)}"
        run("ip", "-n", self.hub, "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", namespace)
        run("ip", "-n", self.hub, "-batch", "-", given=f"link set {port} master mesh\nlink set {port} up\n")
        setup = f"address add {address}/24 dev eth0\nlink set eth0 up\nroute add default via {self.HUB_ADDRESS}\n"
        run("ip", "-n", namespace, "-batch", "-", given=setup)
        if captured:
            capture_inbound(namespace)
            capture_calls(namespace)
        return namespace

    def _name(self, pod: str) -> str:
        return f"{PREFIX}-{self._owner}-{pod}"


def capture_inbound(namespace: str) -> None:
    """Redirect what comes in to the sidecar's port 15006."""
    rule = f"-p tcp -m multiport ! --dports {CAPTURE_EXEMPT} -j REDIRECT --to-ports 15006"
    run("ip", "netns", "exec", namespace, "iptables", "-w", "-t", "nat", "-A", "PREROUTING", *rule.split())


def capture_calls(namespace: str) -> None:
    """Redirect calls to the addresses of services to the sidecar's port 15001. It calls pods by their own addresses."""
    rule = f"-p tcp -d {SERVICES} -j REDIRECT --to-ports 15001"
    run("ip", "netns", "exec", namespace, "iptables", "-w", "-t", "nat", "-A", "OUTPUT", *rule.split())


def _add(namespace: str) -> None:
    run("ip", "netns", "add", namespace)
    run("ip", "-n", namespace, "link", "set", "lo", "up")


def remove(namespace: str) -> None:
    """Remove a namespace, and end what still runs in it."""
    if not Path("/run/netns", namespace).exists():
        return
    for pid in run("ip", "netns", "pids", namespace).split():
        _kill(int(pid))
    run("ip", "netns", "delete", namespace)


def remove_left_over() -> None:
    """Remove the namespaces of runs that were killed."""
    for path in Path("/run/netns").glob(f"{PREFIX}-*"):
        owner = path.name.removeprefix(f"{PREFIX}-").split("-")[0]
        if not Path("/proc", owner).exists():
            remove(path.name)


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return

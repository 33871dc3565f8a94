"""Real Envoys for tests: a bundle is accepted, or runs, or it does not."""

from __future__ import annotations

import json
import os
import re
import subprocess
import time
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from typing import TYPE_CHECKING, Any, TypeVar

from sidestep.errors import EnvoyStopped
from sidestep.proxy.admin import Admin
from sidestep.proxy.binary import Envoy, find
from sidestep.proxy.validation import validate

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from sidestep.onboard import Validate

T = TypeVar("T")


@cache
def envoy() -> Envoy:
    """The Envoy that the tests run with; one in ``$SIDESTEP_ENVOY`` goes before the wheel."""
    return find(environment=os.environ)


def accepted() -> Validate:
    """Asks the real Envoy, as ``sidestep render`` does."""
    return partial(validate, envoy())


def fake_envoy(path: Path, body: str) -> Path:
    """A program that says it is Envoy, and then runs ``body`` in a shell."""
    version = f"envoy  version: {envoy().build}"
    path.write_text(f'#!/bin/sh\n[ "$1" = --version ] && echo "{version}" && exit 0\n{body}\n', encoding="utf-8")
    path.chmod(0o755)
    return path


def eventually(what: str, look: Callable[[], T | None], seconds: float = 15) -> T:
    """The first thing that ``look`` finds; fails, naming ``what`` was missed, when nothing comes in time."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found = look()
        if found:
            return found
        time.sleep(0.01)
    raise AssertionError(f"not within {seconds} seconds: {what}")


@dataclass(frozen=True)
class Running:
    """An Envoy that runs in a bundle's directory."""

    process: subprocess.Popen[bytes]
    directory: Path
    log: Path

    @property
    def _admin(self) -> Admin:
        return Admin(self.directory / "admin.sock")

    def get(self, path: str) -> Any:
        """What the admin interface says at ``path``, as JSON."""
        return json.loads(self._admin.request(path).body)

    def listeners(self) -> dict[str, tuple[str, int]]:
        """Every listener that is open: name, and address and port really bound (else its path or name, and 0)."""
        statuses = self.get("/listeners?format=json").get("listener_statuses", [])
        return {status["name"]: _bound(status["local_address"]) for status in statuses}

    def stats(self, pattern: str = "") -> dict[str, int]:
        """Counters and gauges whose name matches ``pattern``."""
        lines = self._admin.request(f"/stats?filter={pattern}").body.decode().splitlines()
        pairs = (re.fullmatch(r"(.*): (\d+)", line) for line in lines)
        return {pair[1]: int(pair[2]) for pair in pairs if pair}

    def wait_for(self, names: set[str]) -> None:
        """Waits until exactly these listeners are open."""
        eventually(f"listeners {names}", lambda: self.process.poll() is None and set(self.listeners()) == names)

    def is_ready(self) -> bool:
        """Whether it is live; fails where it has ended."""
        assert self.process.poll() is None, self.log.read_text(encoding="utf-8")
        return (self.directory / "admin.sock").is_socket() and self._said("/ready") == b"LIVE\n"

    def _said(self, path: str) -> bytes:
        try:
            return self._admin.request(path).body
        except EnvoyStopped:  # the socket is there a moment before anybody listens
            return b""


def _bound(address: Any) -> tuple[str, int]:
    if "envoy_internal_address" in address:
        return address["envoy_internal_address"]["server_listener_name"], 0
    if "pipe" in address:
        return address["pipe"]["path"], 0
    return address["socket_address"]["address"], address["socket_address"]["port_value"]


@contextmanager
def running(
    directory: Path,
    *,
    listeners: set[str] | None = None,
    arguments: Sequence[str] = ("--disable-hot-restart",),
    within: Sequence[str] = (),
) -> Iterator[Running]:
    """Runs ``envoy -c envoy.json`` in a bundle's directory until all of its listeners are open.

    ``within`` is a command that becomes the one that follows it, such as ``ip netns exec NAMESPACE``.
    """
    expected = names_in(directory / "lds.json") if listeners is None else listeners
    log = directory.parent / f"{directory.name}.log"
    command = [*within, str(envoy().path), "-c", "envoy.json", *arguments, "--concurrency", "1"]
    with log.open("wb") as stream:
        process = subprocess.Popen(command, cwd=directory, stdout=stream, stderr=stream)
    try:
        run = Running(process, directory, log)
        eventually("Envoy is live", run.is_ready)
        run.wait_for(expected)
        yield run
    finally:
        process.terminate()
        process.wait(20)


def names_in(discovery: Path) -> set[str]:
    """The names of the resources in a file of them."""
    return {resource["name"] for resource in json.loads(discovery.read_bytes())["resources"]}

"""A lab that stays up beside the tests, in a process of its own: its machine is what applications are tried on."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass(frozen=True)
class Machine:
    """The lab's machine, from outside."""

    directory: Path

    @property
    def bundle(self) -> Path:
        return self.directory / "machine" / "bundle"

    @cached_property
    def manifest(self) -> Any:
        return json.loads((self.bundle / "manifest.json").read_bytes())

    @property
    def proxy(self) -> str:
        """``HOST:PORT`` of its HTTP proxy."""
        return str(self.manifest["proxy"])

    def calls(self) -> list[Any]:
        """What its Envoy has logged."""
        written, _, _ = (self.directory / "machine" / "logs" / "stdout.log").read_bytes().rpartition(b"\n")
        return [json.loads(line) for line in written.splitlines()]


@pytest.fixture(scope="package")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    directory = tmp_path_factory.mktemp("lab")
    command = [sys.executable, "-m", "sidestep", "lab", "--scenario", "by-host", "--keep", str(directory)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as lab:
        assert lab.stdout
        try:
            assert any("by-host" in line and line.startswith("✓") for line in lab.stdout), (
                "the lab is not as it must be"
            )
            yield Machine(directory)
        finally:
            lab.terminate()
            lab.communicate(timeout=30)

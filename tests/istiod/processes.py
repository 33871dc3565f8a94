"""Processes of the mesh: one command each, its output in a file, ended for certain."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING, Self

from tests.envoys import eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path


class Late(AssertionError):
    """A process did not come so far in time, or ended before."""


class Process:
    """One process in a network namespace. Leaving the ``with`` block ends it."""

    def __init__(
        self,
        command: Sequence[object],
        *,
        output: Path,
        namespace: str = "",
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
    ) -> None:
        inside = ["ip", "netns", "exec", namespace] if namespace else []
        self.output = output
        with output.open("ab") as sink:
            self._process = subprocess.Popen(
                [*inside, *map(str, command)],
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=subprocess.STDOUT,
                cwd=cwd,
                env={**os.environ, **(env or {})},
            )

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    def text(self) -> str:
        return self.output.read_text(errors="replace")

    def wait_for(self, condition: Callable[[], object], what: str, *, seconds: float = 15) -> None:
        """Wait for ``condition()``; a process that ends, or is late, is reported with the end of its output."""

        def settled() -> bool:
            return not self.running or bool(condition())

        try:
            eventually(what, settled, seconds)
        except AssertionError as late:
            raise Late(f"{late}\n{self.text()[-3000:]}") from None
        if not self.running:
            raise Late(f"{what}: the process ended with {self._process.returncode}\n{self.text()[-3000:]}")

    def wait_for_line(self, part: str) -> None:
        """Wait until it has written this."""
        self.wait_for(lambda: part in self.text(), repr(part))

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

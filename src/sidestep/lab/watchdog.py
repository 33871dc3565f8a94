"""Ends what the lab started when the lab itself can no longer do it, even after SIGKILL.

A small process in a session of its own, so neither Ctrl-C nor the end of the terminal reaches it. It reads lines:

- ``pid N``: this process was started;
- ``done N``: it has ended, and its number may belong to somebody else from now on;
- ``dir PATH``: this directory is temporary.

When its input ends, because the lab closed it or is gone, it terminates the processes that are left, kills what is
still there after `GRACE_SECONDS`, and removes the directories. It needs nothing but the standard library.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import TracebackType

GRACE_SECONDS = 2.0


class Watchdog:
    """The lab's end of it: ``with Watchdog() as watchdog``, and tell it of everything that is started."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-I", __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def started(self, pid: int) -> None:
        """A process was started."""
        self._tell(f"pid {pid}")

    def ended(self, pid: int) -> None:
        """It is gone."""
        self._tell(f"done {pid}")

    def temporary(self, directory: Path) -> None:
        """A directory was made that nobody needs afterwards."""
        self._tell(f"dir {directory.absolute()}")

    def close(self) -> None:
        """Let it end what is left, and wait for it."""
        with suppress(BrokenPipeError):
            self._process.communicate()

    def __enter__(self) -> Watchdog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _tell(self, line: str) -> None:
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # it is a safety net: without it the lab goes on
            self._process.stdin.write(f"{line}\n".encode())
            self._process.stdin.flush()


def main() -> None:
    """Read until the input ends, then clean up."""
    processes, directories = read(sys.stdin)
    end(processes)
    for directory in directories:
        shutil.rmtree(directory, ignore_errors=True)


def read(lines: Iterable[str]) -> tuple[dict[int, str], list[Path]]:
    """The processes that are left at the end, each with its start time, and the directories."""
    processes: dict[int, str] = {}
    directories: list[Path] = []
    for line in lines:
        word, _, value = line.rstrip("\n").partition(" ")
        if word == "pid":
            processes[int(value)] = start_time(int(value))
        elif word == "done":
            processes.pop(int(value), None)
        elif word == "dir":
            directories.append(Path(value))
    return processes, directories


def end(processes: dict[int, str]) -> None:
    """Terminate each of them, and kill whatever does not heed it."""
    _signal(processes, signal.SIGTERM)
    deadline = time.monotonic() + GRACE_SECONDS
    while time.monotonic() < deadline and _left(processes):
        time.sleep(0.02)
    _signal(processes, signal.SIGKILL)


def start_time(pid: int) -> str:
    """When a process was started, which tells it from a later one of the same number; empty if there is none."""
    with suppress(OSError):
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
        return "" if state == "Z" else fields[18]
    if Path("/proc/self/stat").exists():
        return ""
    listed = subprocess.run(
        ["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL
    )
    return listed.stdout.strip()


def _left(processes: dict[int, str]) -> list[int]:
    return [pid for pid, started in processes.items() if started and start_time(pid) == started]


def _signal(processes: dict[int, str], number: signal.Signals) -> None:
    for pid in _left(processes):
        with suppress(ProcessLookupError):
            os.kill(pid, number)


if __name__ == "__main__":
    main()

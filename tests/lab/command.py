"""``sidestep lab`` as a process of its own, and what it leaves behind."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import sidestep

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MAIN = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
{}
from sidestep.cli import main
main()
"""
"""As from a terminal: where tests run in the background, children inherit that Ctrl-C is ignored."""
DEADLINE = 60.0


def command(*arguments: object, first: str = "") -> list[str]:
    """The command line; ``first`` is code that is run before."""
    return [sys.executable, "-c", MAIN.format(first), "lab", *map(str, arguments)]


def environment(temporary: Path, **more: str) -> dict[str, str]:
    """With ``temporary`` for temporary files, by which everything is known again that was started in it."""
    own = {"PYTHONPATH": str(Path(sidestep.__file__).parents[1]), "TMPDIR": str(temporary)}
    return {name: value for name, value in (os.environ | own | more).items() if name != "NO_COLOR" or name in more}


def run_lab(temporary: Path, *arguments: object, first: str = "", **more: str) -> subprocess.CompletedProcess[str]:
    """Runs it to its end."""
    return subprocess.run(
        command(*arguments, first=first),
        env=environment(temporary, **more),
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def processes(temporary: Path) -> dict[int, str]:
    """Every process that was started with this directory for temporary files: pid and command."""
    found = {}
    for process in Path("/proc").iterdir():
        with suppress(OSError):  # it ended meanwhile, or belongs to somebody else
            if process.name.isdigit() and f"TMPDIR={temporary}\0".encode() in (process / "environ").read_bytes():
                found[int(process.name)] = (process / "comm").read_text().strip()
    return found


def wait_until(holds: Callable[[], object], what: Callable[[], object]) -> None:
    """Until it holds, or fail and tell ``what`` is there instead."""
    deadline = time.monotonic() + DEADLINE
    while not holds():
        assert time.monotonic() < deadline, what()
        time.sleep(0.02)


def wait_until_gone(temporary: Path) -> None:
    """Until no process and no file is left."""
    wait_until(lambda: not processes(temporary), lambda: processes(temporary))
    wait_until(lambda: not list(temporary.iterdir()), lambda: list(temporary.iterdir()))


@dataclass
class Running:
    """A lab that runs."""

    process: subprocess.Popen[str]
    lines: list[str] = field(default_factory=list)
    """What it has printed so far."""

    def wait_for(self, text: str) -> None:
        """Until it has printed that."""

        def printed() -> bool:
            assert self.process.poll() is None or text in "".join(self.lines), "".join(self.lines)
            return text in "".join(self.lines)

        wait_until(printed, lambda: f"{text!r} is not in: {''.join(self.lines)}")

    def wait_until_up(self) -> None:
        """Until it invites to try."""
        self.wait_for("Ctrl-C ends the lab")

    def commands(self) -> list[str]:
        """What it invites to try."""
        _, _, invitation = "".join(self.lines).partition("Try, in another terminal:")
        lines = [line.strip() for line in invitation.splitlines() if line.startswith("  ")]
        return [line for line in lines if not line.startswith("#")]

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line)


@contextmanager
def running(temporary: Path, *arguments: object) -> Iterator[Running]:
    """Runs it for the length of the block, at whose end it is killed if it is still there."""
    with subprocess.Popen(
        command(*arguments),
        env=environment(temporary),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as process:
        lab = Running(process)
        reader = threading.Thread(target=lab._read)
        reader.start()
        try:
            yield lab
        finally:
            process.kill()
            reader.join()

"""Whatever the lab started is gone when the lab is, however it ended."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from sidestep.lab.watchdog import Watchdog, start_time

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PARENT = """
import subprocess, sys, time
from pathlib import Path
from sidestep.lab.watchdog import Watchdog
watchdog = Watchdog()
directory = Path(sys.argv[1]) / "left"
directory.mkdir()
(directory / "file").write_text("x")
watchdog.temporary(directory)
code = sys.argv[2]
child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
child.stdout.readline()
watchdog.started(child.pid)
print(child.pid, flush=True)
time.sleep(600)
"""
SLEEPS = "import time; print(flush=True); time.sleep(600)"
STUBBORN = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {SLEEPS}"


def wait_until_gone(pid: int) -> None:
    deadline = time.monotonic() + 20
    while start_time(pid):
        assert time.monotonic() < deadline, f"process {pid} is still there"
        time.sleep(0.01)


def wait_until_removed(path: Path) -> None:
    deadline = time.monotonic() + 20
    while path.exists():
        assert time.monotonic() < deadline, f"{path} is still there"
        time.sleep(0.01)


@contextlib.contextmanager
def sleeping() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen([sys.executable, "-c", SLEEPS], stdout=subprocess.PIPE) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("child", [SLEEPS, STUBBORN])
def test_a_child_outlives_its_parent_by_moments(tmp_path: Path, number: signal.Signals, child: str) -> None:
    command = [sys.executable, "-c", PARENT, str(tmp_path), child]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert start_time(pid)
        parent.send_signal(number)
        parent.wait()
    wait_until_gone(pid)
    wait_until_removed(tmp_path / "left")


def test_a_whole_process_group_can_be_interrupted(tmp_path: Path) -> None:
    command = [sys.executable, "-c", PARENT, str(tmp_path), STUBBORN]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        os.killpg(parent.pid, signal.SIGINT)
        parent.wait()
    wait_until_gone(pid)


def test_what_has_ended_is_left_alone() -> None:
    with sleeping() as process:
        with Watchdog() as watchdog:
            watchdog.started(process.pid)
            watchdog.ended(process.pid)
        assert process.poll() is None


def test_what_was_never_named_is_left_alone(tmp_path: Path) -> None:
    with sleeping() as process:
        with Watchdog() as watchdog:
            watchdog.temporary(tmp_path / "other")
        assert process.poll() is None
    assert tmp_path.exists()


def test_closing_it_ends_the_rest() -> None:
    with sleeping() as process:
        with Watchdog() as watchdog:
            watchdog.started(process.pid)
        assert process.wait(timeout=5) == -signal.SIGTERM


def test_the_lab_goes_on_without_it() -> None:
    with Watchdog() as watchdog:
        watchdog._process.kill()
        watchdog._process.wait()
        watchdog.started(os.getpid())

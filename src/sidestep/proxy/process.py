"""The life of one Envoy process: start, become ready, drain, stop."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
import time
from contextlib import suppress
from typing import TYPE_CHECKING, BinaryIO, Final, Self

from sidestep.errors import EnvoyNotFound, EnvoyStopped, OutputError
from sidestep.proxy.bootstrap import admin_of, at, items, listeners_of
from sidestep.proxy.complaints import essential_of
from sidestep.proxy.limits import open_files
from sidestep.proxy.validation import signal_name

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from sidestep.proxy.admin import Reply
    from sidestep.proxy.binary import Envoy

_NOT_A_LISTENER = re.compile(rb"listener\.(admin\.|.*\.worker_\d+\.)")

_FIRST_PAUSE, _LONGEST_PAUSE = 0.01, 0.25


_TIED: Final = """
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG
if os.getppid() == int(sys.argv[1]):
    os.execv(sys.argv[2], sys.argv[2:])
"""
"""Becomes Envoy, once the kernel knows what to do when the parent dies.

A program of its own and no ``preexec_fn``: that would fork this process, and gRPC's threads do not survive a fork.
"""


class Process:
    """An Envoy that runs in ``directory`` with the bootstrap ``config_file`` (JSON, relative to it).

    As a context manager it is started on entry and stopped on exit, however that comes about. It is in a session of
    its own, so that Ctrl-C in a terminal reaches whoever drains it first. ``die_with_parent`` (on Linux, else
    ignored) has the kernel end it when this process is killed outright.
    """

    def __init__(
        self,
        envoy: Envoy,
        directory: Path,
        logs: Path,
        *,
        config_file: str = "envoy.json",
        concurrency: int | None = None,
        arguments: Sequence[str] = (),
        die_with_parent: bool = False,
    ) -> None:
        """``logs`` is an existing directory that receives stdout.log and stderr.log (appended to).

        ``concurrency`` is the number of worker threads, by default one a CPU; ``arguments`` go to Envoy as they are.
        """
        self.directory = directory.absolute()
        self.stdout, self.stderr = logs / "stdout.log", logs / "stderr.log"
        self.admin_interface = admin_of(self.directory, config_file)
        self._config_file = config_file
        self._workers = concurrency or os.cpu_count() or 1
        self._command = [str(envoy.path), "-c", config_file, "--disable-hot-restart"]
        self._command += ["--concurrency", str(self._workers), *arguments]
        if die_with_parent and sys.platform == "linux":
            self._command = [sys.executable, "-I", "-S", "-c", _TIED, str(os.getpid()), *self._command]
        self._process: asyncio.subprocess.Process | None = None
        self._log_start = 0
        self._expected: frozenset[str] = frozenset()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    @property
    def pid(self) -> int:
        """The process id; `EnvoyStopped` before `start`."""
        return self._started().pid

    @property
    def running(self) -> bool:
        """Whether it was started and has not ended."""
        return self._process is not None and self._process.returncode is None

    async def start(self) -> None:
        """Start it; `wait_ready` comes next. Raises `EnvoyNotFound` when it cannot be run, `EnvoyError` when it may
        open too few files, `OutputError` when the logs cannot be written.
        """
        if self.running:
            raise EnvoyStopped(f"Envoy in {self.directory} was started already")
        self._expected = listeners_of(self.directory, self._config_file)
        with _log(self.stdout) as out, _log(self.stderr) as err, open_files(len(self._expected), self._workers):
            self._log_start = err.tell()
            try:
                self._process = await asyncio.create_subprocess_exec(
                    *self._command,
                    cwd=self.directory,
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=out,
                    stderr=err,
                    start_new_session=True,
                )
            except OSError as problem:
                raise EnvoyNotFound(f"cannot run {self._command[0]}: {problem.strerror or problem}") from problem

    async def wait_ready(self, timeout: float = 30.0) -> None:
        """Return once Envoy is live, has every listener of its files, and has loaded every secret.

        ``/ready`` alone proves nothing: it says LIVE with listeners refused and certificates missing. Raises
        `EnvoyStopped` if Envoy ends, or is not there after ``timeout`` seconds, with what is missing and what it said.
        """
        deadline, pause = time.monotonic() + timeout, _FIRST_PAUSE
        self._expected = listeners_of(self.directory, self._config_file)
        while missing := await self._missing():
            if time.monotonic() >= deadline:
                raise EnvoyStopped(self._with_log(f"Envoy is not ready after {timeout:g} s: {missing}"))
            await self._pause(pause)
            pause = min(pause * 2, _LONGEST_PAUSE)

    async def admin(self, path: str, method: str = "GET", *, timeout: float = 5.0) -> Reply:
        """One request to its admin interface, as `Admin.request`."""
        return await asyncio.to_thread(self.admin_interface.request, path, method, timeout=timeout)

    async def stop(self, *, drain: float = 5.0, grace: float = 5.0) -> int | None:
        """Let what is in flight finish for up to ``drain`` seconds, then SIGTERM, then after ``grace`` seconds SIGKILL.

        SIGTERM alone cuts requests in flight. While it drains, health checks fail and every response closes its
        connection; the wait ends early when no connection is left. Returns the exit status, None if never started;
        stopping twice is harmless, and a cancelled stop still kills.
        """
        if self._process is None:
            return None
        try:
            await self._drain(drain)
            await self._end(signal.SIGTERM, grace)
        finally:
            await self._end(signal.SIGKILL, None)
        return self._process.returncode

    async def wait(self) -> int:
        """Wait for the end of the process; its exit status, negative for a signal."""
        return await self._started().wait()

    def _started(self) -> asyncio.subprocess.Process:
        if self._process is None:
            raise EnvoyStopped(f"Envoy in {self.directory} was not started")
        return self._process

    async def _missing(self) -> str:
        """What is missing for it to be ready, in words; `EnvoyStopped` when it has ended."""
        status = self._started().returncode
        if status is not None:
            how = f"was ended by {signal_name(-status)}" if status < 0 else f"ended with status {status}"
            raise EnvoyStopped(self._with_log(f"Envoy {how} before it was ready"))
        try:
            ready = await self.admin("/ready")
            if ready.status != 200:
                return f"it says {ready.body.decode('utf-8', 'replace').strip()}"
            return await self._missing_listeners() or await self._missing_secrets()
        except EnvoyStopped as problem:
            return str(problem)

    async def _missing_listeners(self) -> str:
        statuses = items(at((await self.admin("/listeners?format=json")).json(), "listener_statuses"))
        present = {at(status, "name") for status in statuses}
        absent = sorted(self._expected - present)
        return f"no listener {', '.join(absent[:5])}{' …' if len(absent) > 5 else ''}" if absent else ""

    async def _missing_secrets(self) -> str:
        dump = (await self.admin("/config_dump?resource=dynamic_warming_secrets")).json()
        names = sorted({str(at(secret, "name")) for secret in items(at(dump, "configs"))})
        return f"no secret {', '.join(names)}" if names else ""

    def _with_log(self, message: str) -> str:
        return f"{message}\n{essential_of(self.stderr, self._log_start)}".strip()

    async def _pause(self, seconds: float) -> None:
        try:
            await asyncio.wait_for(self.wait(), seconds)
        except TimeoutError:
            return

    async def _drain(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        try:
            if self.running and seconds > 0:
                await self.admin("/healthcheck/fail", "POST", timeout=min(seconds, 5.0))
            while self.running and time.monotonic() < deadline and await self._connections() != 0:
                await self._pause(min(0.05, seconds))
        except EnvoyStopped:
            return  # it does not answer: there is nothing to drain by

    async def _connections(self) -> int | None:
        """Open downstream connections, the admin interface's aside; None where the statistics leave it out."""
        reply = await self.admin(r"/stats?filter=^listener\..*\.downstream_cx_active$")
        counts = [line for line in reply.body.splitlines() if not _NOT_A_LISTENER.match(line)]
        if not counts and self._expected:
            return None
        return sum(int(line.rpartition(b": ")[2]) for line in counts)

    async def _end(self, number: signal.Signals, seconds: float | None) -> None:
        process = self._started()
        if process.returncode is None:
            with suppress(ProcessLookupError):
                process.send_signal(number)
            try:
                await asyncio.wait_for(process.wait(), seconds)
            except TimeoutError:
                return


def _log(path: Path) -> BinaryIO:
    try:
        return path.open("ab")
    except OSError as problem:
        raise OutputError(f"cannot write {path}: {problem.strerror or problem}") from problem

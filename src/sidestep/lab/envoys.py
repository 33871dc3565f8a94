"""One Envoy of the lab: its files, its process, its access log."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sidestep.lab.access_log import AccessLog
from sidestep.lab.xds import ACCESS_LOG_FILE
from sidestep.proxy.process import Process

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from sidestep.lab.ports import Ports
    from sidestep.lab.watchdog import Watchdog
    from sidestep.proxy.binary import Envoy

_ARGUMENTS = ("--file-flush-interval-msec", "20", "--log-level", "warning")
_DRAIN_SECONDS = 0.0
"""Whatever is in flight when the lab ends is the lab's own."""


@dataclass(frozen=True)
class Runtime:
    """What every Envoy of the lab is run with."""

    envoy: Envoy
    ports: Ports
    watchdog: Watchdog


class LabEnvoy:
    """One Envoy with a static configuration. It may be killed and started again."""

    def __init__(self, directory: Path, contents: Mapping[str, bytes], runtime: Runtime) -> None:
        """``contents`` are the files of its directory (name → bytes), ``envoy.json`` among them."""
        self.directory = directory
        self.log = AccessLog(directory / ACCESS_LOG_FILE)
        self._runtime = runtime
        directory.mkdir(mode=0o700, parents=True)
        for name, content in contents.items():
            (directory / name).touch(mode=0o600)
            (directory / name).write_bytes(content)
        self._process = Process(
            runtime.envoy, directory, directory, concurrency=1, arguments=_ARGUMENTS, die_with_parent=True
        )

    @property
    def pid(self) -> int:
        """The process id; `EnvoyStopped` before the first start."""
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether there is a process."""
        return self._process.running

    async def launch(self) -> None:
        """Start the process; see `ready`."""
        await self._process.start()
        self._runtime.watchdog.started(self._process.pid)

    async def ready(self) -> None:
        """Wait until it listens, with its certificates loaded. Raises `EnvoyStopped` if that does not come."""
        await self._process.wait_ready()

    async def start(self) -> None:
        """Launch it, and wait until it is ready."""
        await self.launch()
        await self.ready()

    async def kill(self) -> None:
        """End it as a crash would: nothing is drained."""
        if self._process.running:
            os.kill(self._process.pid, signal.SIGKILL)
            await self._process.wait()
            self._runtime.watchdog.ended(self._process.pid)

    def pause(self) -> None:
        """Let it hang: the kernel goes on taking connections and bytes for it, and nothing answers."""
        os.kill(self._process.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """End a `pause`."""
        os.kill(self._process.pid, signal.SIGCONT)

    async def stop(self) -> None:
        """Terminate it. Nothing happens where it is not running."""
        if self._process.running:
            await self._process.stop(drain=_DRAIN_SECONDS)
            self._runtime.watchdog.ended(self._process.pid)

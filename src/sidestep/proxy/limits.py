"""Open files: what an Envoy needs, and what it may have."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from threading import Lock
from typing import TYPE_CHECKING, Final

from sidestep.errors import EnvoyError

if sys.platform != "win32":  # which has no such limit
    import resource

if TYPE_CHECKING:
    from collections.abc import Iterator

_FIXED, _PER_WORKER, _SPARE = 20, 4, 256
_UNLIMITED: Final = 10_240
"""What is asked for where the hard limit is infinite: macOS says so, and allows no more than this (OPEN_MAX)."""


def needed_files(listeners: int, workers: int) -> int:
    """Open files that an Envoy holds with so many listeners (``enable_reuse_port: false``) and workers, all idle.

    Measured with Envoy 1.40 on Linux, exactly 20 + 4 a worker + 1 a listener and worker, for 1 to 200 listeners and 1
    to 4 workers. Each proxied connection takes two more.
    """
    return _FIXED + _PER_WORKER * workers + listeners * workers


def shortage(listeners: int, workers: int) -> str:
    """What an Envoy that is started from here will lack, and what to do; empty where this process's limit will do."""
    if sys.platform == "win32":
        return ""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    need = needed_files(listeners, workers) + _SPARE
    if soft == resource.RLIM_INFINITY or soft >= need:
        return ""
    return (
        f"its Envoy needs {need:,} open files ({listeners:,} listeners, {workers} workers, 128 connections); "
        f"the limit here is {soft:,}: run it with ulimit -n {need}, or LimitNOFILE={need} in its systemd unit"
    )


@contextmanager
def open_files(listeners: int, workers: int) -> Iterator[None]:
    """As `raised`, for an Envoy that is to be started.

    Raises `EnvoyError` when the hard limit is less than `needed_files` and 256 to spare, that is 128 connections.
    """
    if sys.platform != "win32":
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        need = needed_files(listeners, workers) + _SPARE
        if hard != resource.RLIM_INFINITY and hard < need:
            raise EnvoyError(
                f"Envoy needs {need} open files for {listeners} listeners with {workers} workers; the limit is {hard}",
                hint="Raise it (ulimit -Hn, or LimitNOFILE= in a systemd unit), or use fewer workers (--concurrency).",
            )
    with raised():
        yield


@contextmanager
def raised() -> Iterator[None]:
    """Within, this process and those it starts may open as many files as the hard limit allows."""
    if sys.platform == "win32":
        yield
        return
    _SOFT_LIMIT.raise_it()
    try:
        yield
    finally:
        _SOFT_LIMIT.restore()


class _SoftLimit:
    """This process's own, which children inherit. Raised by the first who wants it, restored after the last.

    Starts overlap: each awaits its process, and what one would find and restore may be what another has raised.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._wanted = 0
        self._before = 0

    def raise_it(self) -> None:
        with self._lock:
            soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
            if not self._wanted:
                self._before = soft
            high = hard if hard != resource.RLIM_INFINITY else max(soft, _UNLIMITED)
            resource.setrlimit(resource.RLIMIT_NOFILE, (high, hard))
            self._wanted += 1

    def restore(self) -> None:
        with self._lock:
            self._wanted -= 1
            if not self._wanted:
                _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
                resource.setrlimit(resource.RLIMIT_NOFILE, (self._before, hard))


_SOFT_LIMIT: Final = _SoftLimit()

"""Open files: what an Envoy needs, and what it may have."""

from __future__ import annotations

import resource
from contextlib import contextmanager
from typing import TYPE_CHECKING

from sidestep.errors import EnvoyError

if TYPE_CHECKING:
    from collections.abc import Iterator

_FIXED, _PER_WORKER, _SPARE = 20, 4, 256


def needed_files(listeners: int, workers: int) -> int:
    """Open files that an Envoy holds with so many listeners (``enable_reuse_port: false``) and workers, all idle.

    Measured with Envoy 1.40 on Linux, exactly 20 + 4 a worker + 1 a listener and worker, for 1 to 200 listeners and 1
    to 4 workers. Each proxied connection takes two more.
    """
    return _FIXED + _PER_WORKER * workers + listeners * workers


@contextmanager
def open_files(listeners: int, workers: int) -> Iterator[int]:
    """Within, processes that are started may open as many files as the hard limit allows; yields that number.

    Raises `EnvoyError` when that is less than `needed_files` and 256 to spare, that is 128 connections.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    need = needed_files(listeners, workers) + _SPARE
    if hard != resource.RLIM_INFINITY and hard < need:
        raise EnvoyError(
            f"Envoy needs {need} open files for {listeners} listeners with {workers} workers; the limit is {hard}",
            hint="raise it (ulimit -Hn, or LimitNOFILE= in a systemd unit), or use fewer workers (--concurrency)",
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        yield hard
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

"""SIGTERM as an exception: whatever is under way is taken back, as with Ctrl-C."""

from __future__ import annotations

import signal
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

TERMINATED = 143


@contextmanager
def terminable() -> Iterator[None]:
    """Within, SIGTERM raises `SystemExit`; a command that waits for it itself says so to its event loop."""
    try:
        before = signal.signal(signal.SIGTERM, _terminated)
    except ValueError:  # in another thread than the first, which never gets one
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _terminated(*_: object) -> None:
    raise SystemExit(TERMINATED)

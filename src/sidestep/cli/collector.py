"""Python's cyclic garbage collector, out of the way of commands that build much and end."""

from __future__ import annotations

import gc
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def paused() -> Iterator[None]:
    """Within, nothing is searched for cycles: what these commands make lives until they end, and half of the time for
    50,000 services would go into looking through it.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.freeze()  # or the next search would go through all of it
            gc.enable()

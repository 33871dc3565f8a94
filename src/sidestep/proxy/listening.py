"""Whether somebody listens on a local address."""

from __future__ import annotations

import socket
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

from sidestep.proxy.admin import short

_POLL: Final = 0.02
_CONNECT: Final = 1.0


def listens(address: str, *, within: float = 0.0) -> bool:
    """Whether somebody accepts connections on ``HOST:PORT`` or ``unix:PATH``, or comes to within so many seconds."""
    deadline = time.monotonic() + within
    while not _accepts(address):
        if time.monotonic() >= deadline:
            return False
        time.sleep(_POLL)
    return True


def _accepts(address: str) -> bool:
    with suppress(OSError):
        if address.startswith("unix:"):
            with short(Path(address.removeprefix("unix:"))) as path, socket.socket(socket.AF_UNIX) as connection:
                connection.settimeout(_CONNECT)
                connection.connect(path)
        else:
            host, _, port = address.rpartition(":")
            socket.create_connection((host.strip("[]"), int(port)), _CONNECT).close()
        return True
    return False

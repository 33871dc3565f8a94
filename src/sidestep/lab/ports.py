"""Ports on loopback that are free, and stay ours while the lab runs."""

from __future__ import annotations

import random
import socket
import sys
from contextlib import ExitStack
from typing import TYPE_CHECKING

from sidestep.errors import EnvoyError

if TYPE_CHECKING:
    from types import TracebackType

FIRST, LAST = 20000, 32000
"""Below what Linux and macOS give to outgoing connections: a port whose Envoy was killed is not taken by a caller."""
_ATTEMPTS = 200


class Ports:
    """Reserves ports: ``with Ports() as ports: ports.reserve()``.

    On Linux a reserved port stays bound, without listening, until the end of the block: an Envoy may listen on it, be
    killed and come back, and neither another lab nor an outgoing connection gets it in between. Elsewhere the kernel
    would not let Envoy in, so there the port is only found to be free.
    """

    def __init__(self) -> None:
        self._held = ExitStack()
        self._given: set[tuple[int, str]] = set()

    def __enter__(self) -> Ports:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._held.close()

    def reserve(self) -> int:
        """A free port."""
        for _ in range(_ATTEMPTS):
            port = random.randint(FIRST, LAST)  # noqa: S311 (no secret)
            if self._hold(port):
                return port
        raise EnvoyError(f"no free port between {FIRST} and {LAST} on 127.0.0.1")

    def network(self) -> str:
        """A network of loopback addresses that no other lab has. Only where all of 127.0.0.0/8 is there: on Linux."""
        for _ in range(_ATTEMPTS):
            first, second = random.randint(64, 127), random.randint(0, 255)  # noqa: S311 (no secret)
            if self._hold(FIRST, f"127.{first}.{second}.255"):
                return f"127.{first}.{second}.0/24"
        raise EnvoyError("no free network of loopback addresses inside 127.64.0.0/10")

    def _hold(self, port: int, address: str = "127.0.0.1") -> bool:
        holder = socket.socket()
        try:
            holder.bind((address, port))
        except OSError:
            holder.close()
            return False
        if sys.platform != "linux":
            holder.close()
            if (port, address) in self._given:
                return False
            self._given.add((port, address))
            return True
        # Bound without it, so nobody else had the port; set now, so that Envoy, which sets it too, may have it.
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._held.enter_context(holder)
        return True

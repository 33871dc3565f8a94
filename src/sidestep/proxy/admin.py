"""Envoy's admin interface, over a unix socket or TCP. Blocking; each call is one connection."""

from __future__ import annotations

import json
import os
import socket
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import TYPE_CHECKING

from sidestep.errors import EnvoyError, EnvoyStopped

if TYPE_CHECKING:
    from collections.abc import Iterator

_LONGEST_SOCKET_PATH = 100
_OPEN_FILES = Path("/proc/self/fd")


@dataclass(frozen=True)
class Reply:
    """What the admin interface answered."""

    status: int
    body: bytes

    def json(self) -> object:
        """The body, read as JSON; `EnvoyError` when it is none."""
        try:
            decoded: object = json.loads(self.body)
        except ValueError as problem:
            raise EnvoyError(f"the admin interface answered {self.body[:80]!r}, which is not JSON") from problem
        return decoded


@dataclass(frozen=True)
class Admin:
    """Where an Envoy's admin interface is: the path of a unix socket, or host and port."""

    address: Path | tuple[str, int]

    def request(self, path: str, method: str = "GET", *, timeout: float = 5.0) -> Reply:
        """One request; ``path`` starts with ``/`` and may have a query. `EnvoyStopped` when nobody answers in time.

        ``timeout`` is in seconds, for each step of the exchange.
        """
        try:
            with _connection(self.address, timeout) as connection:
                connection.request(method, path, headers={"Host": "admin"})
                response = connection.getresponse()
                return Reply(response.status, response.read())
        except (OSError, HTTPException) as problem:
            raise EnvoyStopped(f"Envoy's admin interface at {self} does not answer: {problem}") from problem

    def __str__(self) -> str:
        return str(self.address) if isinstance(self.address, Path) else f"{self.address[0]}:{self.address[1]}"


@contextmanager
def _connection(address: Path | tuple[str, int], timeout: float) -> Iterator[HTTPConnection]:
    connection = HTTPConnection("admin", timeout=timeout)
    if isinstance(address, Path):
        connection.sock = _unix_socket(address, timeout)
    else:
        connection.sock = socket.create_connection(address, timeout)
    try:
        yield connection
    finally:
        connection.close()


def _unix_socket(path: Path, timeout: float) -> socket.socket:
    connected = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connected.settimeout(timeout)
    try:
        with short(path) as name:
            connected.connect(name)
    except OSError:
        connected.close()
        raise
    return connected


@contextmanager
def short(path: Path) -> Iterator[str]:
    """A name of ``path`` that fits a socket's address (108 bytes on Linux, 104 on macOS). Raises `OSError`."""
    if len(os.fsencode(path)) <= _LONGEST_SOCKET_PATH:
        yield str(path)
        return
    if sys.platform == "linux" and _OPEN_FILES.is_dir():
        directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY)
        try:
            yield f"{_OPEN_FILES}/{directory}/{path.name}"
        finally:
            os.close(directory)
        return
    from tempfile import TemporaryDirectory

    with TemporaryDirectory(prefix="sidestep-", dir="/tmp") as temporary:  # macOS' own is long
        link = Path(temporary, "to")
        link.symlink_to(path.parent.absolute())
        yield str(link / path.name)

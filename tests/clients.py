"""An application beside the machine's Envoy."""

from __future__ import annotations

import json
import threading
from contextlib import contextmanager
from http.client import HTTPConnection
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator


def get(port: int, path: str = "/") -> tuple[int, Any]:
    """What a local port answers: the status, and the body (read as JSON where it is)."""
    connection = HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        body = response.read().decode()
        return response.status, json.loads(body) if body.startswith("{") else body
    finally:
        connection.close()


class Calls:
    """What came of calls that went on and on."""

    def __init__(self) -> None:
        self.answered = 0
        self.failed: list[object] = []


@contextmanager
def calling(port: int) -> Iterator[Calls]:
    """Calls a local port without a pause, a new connection each time, until the end of the block."""
    calls, enough = Calls(), threading.Event()

    def go_on() -> None:
        while not enough.is_set():
            try:
                status, body = get(port)
            except OSError as error:
                calls.failed.append(error)
                continue
            calls.answered += status == 200
            calls.failed += [] if status == 200 else [(status, body)]

    thread = threading.Thread(target=go_on)
    thread.start()
    try:
        yield calls
    finally:
        enough.set()
        thread.join()

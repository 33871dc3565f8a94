"""Calls over and over until it is told to stop, then says in JSON how many were answered and which were not.

``python -m tests.forwarder.load HOST:PORT [--tcp]``
"""

from __future__ import annotations

import argparse
import json
import socket
import sys
from collections.abc import Callable
from contextlib import closing
from http.client import HTTPConnection, HTTPException
from threading import Event, Thread

CONCURRENCY = 8


def main() -> None:
    """Runs until a line comes in."""
    parser = argparse.ArgumentParser()
    parser.add_argument("address")
    parser.add_argument("--tcp", action="store_true")
    arguments = parser.parse_args()
    host, _, port = arguments.address.rpartition(":")
    stopping, first = Event(), Event()
    answered: list[int] = []
    failed: list[str] = []

    def work() -> None:
        count = 0
        try:
            with closing(Caller(host, int(port), tcp=arguments.tcp)) as caller:
                while not stopping.is_set():
                    caller.call()
                    count += 1
                    first.set()
        except (OSError, HTTPException, AssertionError) as error:
            failed.append(f"{type(error).__name__}: {error}")
        answered.append(count)

    workers = [Thread(target=work) for _ in range(CONCURRENCY)]
    for worker in workers:
        worker.start()
    first.wait(10)
    print("ready", flush=True)
    sys.stdin.readline()
    stopping.set()
    for worker in workers:
        worker.join()
    print(json.dumps({"answered": sum(answered), "failed": failed}))


class Caller:
    """One connection: kept as long as the server keeps it; of TCP, the same one to the end."""

    def __init__(self, host: str, port: int, *, tcp: bool) -> None:
        self._http = None if tcp else HTTPConnection(host, port, timeout=10)
        self._tcp = socket.create_connection((host, port), 10) if tcp else None
        self.call: Callable[[], None] = self._echo if tcp else self._get

    def _get(self) -> None:
        assert self._http
        self._http.request("GET", "/")
        response = self._http.getresponse()  # closes the connection where the answer says so
        response.read()
        assert response.status == 200, response.status

    def _echo(self) -> None:
        assert self._tcp
        self._tcp.sendall(b"ping")
        assert self._tcp.recv(4) == b"ping"

    def close(self) -> None:
        """Ends it."""
        for each in (self._http, self._tcp):
            if each:
                each.close()


if __name__ == "__main__":
    main()

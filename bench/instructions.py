"""Instructions that a request costs the machine's Envoy outside the kernel, counted one by one.

::

    client ─▶ machine, in valgrind ─ mTLS ─▶ gateway ─▶ sidecar ─▶ application (1 KiB)

What else the machine does has no part in this figure, so differences of one in a hundred show. Requests follow one
another on one connection; what a start costs is taken off by counting few and many. Needs ``valgrind``. Target: no more
than the hand-written configuration with an access log.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import sys
import time
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import machines
import measure
import throughput
from sidestep.lab.identities import Authorities
from sidestep.lab.ports import Ports

FEW: Final = 100
MANY: Final = 1100
_COUNTING: Final = ("valgrind", "--tool=cachegrind", "--cache-sim=no", "--cachegrind-out-file=/dev/null")
_REQUEST: Final = b"GET / HTTP/1.1\r\nhost: 127.0.0.1\r\nuser-agent: bench\r\n\r\n"
_PATIENCE: Final = 60.0


def main() -> None:
    """Counts and prints."""
    options = measure.options(__doc__, runs=1)
    if shutil.which("valgrind") is None:
        sys.exit("valgrind is not installed")
    report = measure.Report("Instructions a request", ("upstream", "way", "instructions", "of hand-written"))
    with measure.scratch() as directory, Ports() as ports, ExitStack() as stack:
        way = throughput.Way(directory, ports, stack, Authorities.make(machines.TRUST_DOMAIN, datetime.now(UTC)))
        _, gateway = way.mesh()
        identity = machines.machine_identity(way.authorities)
        for protocol in throughput.SERVICES:
            found = {}
            for name in (throughput.PEER, throughput.OURS):
                listen = ports.reserve()
                place = way.machine(name, gateway, {protocol: listen}, identity)
                found[name] = measure.median([_each(place, listen) for _ in range(options.runs)])
                shutil.rmtree(place)
            _report(report, "HTTP/2" if protocol.is_http2 else "HTTP/1.1", found)
    report.show(as_json=options.json)


def _report(report: measure.Report, upstream: str, found: dict[str, float]) -> None:
    ratios = {name: count / found[throughput.PEER] for name, count in found.items()}
    for name, count in found.items():
        report.row(upstream, name, count, ratios[name])
    report.target(f"{upstream}: of hand-written", ratios[throughput.OURS], 1.0)


def _each(directory: Path, listen: int) -> float:
    few, many = (_counted(directory, listen, requests) for requests in (FEW, MANY))
    return (many - few) / (MANY - FEW)


def _counted(directory: Path, listen: int, requests: int) -> int:
    """All that an Envoy executes from its start to its end, with so many requests between."""
    with measure.running(directory, ("127.0.0.1", listen), under=_COUNTING) as envoy:
        _ask(listen, requests)
        os.kill(envoy.pid, signal.SIGTERM)
        deadline = time.monotonic() + _PATIENCE
        while not (found := re.search(r"I +refs: +([0-9,]+)", (directory / "stdout.log").read_text())):
            if time.monotonic() > deadline:
                sys.exit(f"valgrind has not ended after {_PATIENCE:g} s")
            time.sleep(0.1)
    return int(found[1].replace(",", ""))


def _ask(listen: int, requests: int) -> None:
    with socket.create_connection(("127.0.0.1", listen), _PATIENCE) as connection:
        for _ in range(requests):
            connection.sendall(_REQUEST)
            throughput.whole(connection)


if __name__ == "__main__":
    main()

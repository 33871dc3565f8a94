"""Answers a second of `sidestep dns`, against dnsmasq and unbound with the same names; and whether all say the same.

Each server runs as a process of its own on loopback. One client keeps a number of queries under way over UDP; it is
written in Python and shares the machine, so processor time a query, of the server alone, is the steadier figure.
Servers that are not installed are left out (Debian: dnsmasq-base, unbound).
"""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import dns.exception
import dns.flags
import dns.message
import dns.query
import dns.rcode
import dns.rdatatype

import measure

NAMES: Final = 1000
QUERIES: Final = 20_000
UNDER_WAY: Final = 32
TARGET: Final = 2000
"""Answers a second: what an application that resolves at every call asks for at most."""
OURS: Final = "sidestep dns"
Answer = tuple[str, ...]


@dataclass(frozen=True)
class Server:
    """A running server."""

    port: int
    pid: int


def main() -> None:
    """Measures and prints."""
    options = measure.options(__doc__, runs=5)
    addresses = {f"service-{number}.shop": f"127.77.{number // 250}.{number % 250 + 1}" for number in range(NAMES)}
    heads = ("server", "answers/s", "server's µs each", "of ours", "other answers than ours")
    report = measure.Report("DNS answers for names of the mesh", heads)
    with measure.scratch() as directory, contextlib.ExitStack() as stack:
        servers = {
            name: stack.enter_context(start(directory / name.split()[0], addresses))
            for name, start in SERVERS.items()
            if name == OURS or shutil.which(name)
        }
        found = measure.alternate(
            options.runs, {name: partial(_load, server, [*addresses]) for name, server in servers.items()}
        )
        said = {name: {query: ask(server.port) for query, ask in QUESTIONS.items()} for name, server in servers.items()}
    ours = measure.median([rate for rate, _ in found[OURS]])
    for name, runs in found.items():
        rate, cpu = (measure.median(column) for column in zip(*runs, strict=True))
        report.row(name, rate, cpu * 1e6, rate / ours, _differences(said[name], said[OURS]))
    wrong = [query for query, expected in EXPECTED.items() if said[OURS][query] != expected]
    report.target("answers a second", ours, TARGET, at_least=True)
    report.target(f"answers that are not as they should be ({', '.join(wrong) or 'none'})", len(wrong), 0)
    report.show(as_json=options.json)


def _differences(said: Mapping[str, Answer], ours: Mapping[str, Answer]) -> str:
    return "; ".join(f"{query}: {' '.join(said[query])}" for query in QUESTIONS if said[query] != ours[query]) or "none"


def _load(server: Server, names: list[str]) -> tuple[float, float]:
    """Answers a second, and the server's processor seconds for each."""
    wires = [dns.message.make_query(name, "A").to_wire() for name in names]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.connect(("127.0.0.1", server.port))
        client.settimeout(5)
        before, started = _cpu(server.pid), time.perf_counter()
        for number in range(QUERIES + UNDER_WAY):
            if number < QUERIES:
                client.send(wires[number % len(wires)])
            if number >= UNDER_WAY:
                client.recv(4096)
        wall, cpu = time.perf_counter() - started, _cpu(server.pid) - before
    return QUERIES / wall, cpu / QUERIES


def _cpu(pid: int) -> float:
    """User and system time of a process, in seconds, where the system tells."""
    with contextlib.suppress(OSError):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / 100
    return float("nan")


# The servers


@contextlib.contextmanager
def _sidestep(directory: Path, addresses: Mapping[str, str]) -> Iterator[Server]:
    directory.mkdir()
    names: dict[str, list[str]] = {address: [name] for name, address in addresses.items()}
    manifest = {"kind": "Bundle", "workload": {"name": "w", "namespace": "n"}, "egress": [], "names": names}
    (directory / "manifest.json").write_text(json.dumps(manifest))
    port = _free()
    with _running([*measure.SIDESTEP, "dns", directory, "--listen", f"127.0.0.1:{port}"], port) as server:
        yield server


@contextlib.contextmanager
def _dnsmasq(directory: Path, addresses: Mapping[str, str]) -> Iterator[Server]:
    directory.mkdir()
    (directory / "hosts").write_text("".join(f"{address} {name}\n" for name, address in addresses.items()))
    port = _free()
    plain = ["--no-daemon", "--no-resolv", "--no-hosts", "--conf-file=/dev/null", "--bind-interfaces", "--user=root"]
    where = [f"--port={port}", "--listen-address=127.0.0.1", f"--addn-hosts={directory / 'hosts'}", "--local-ttl=30"]
    with _running(["dnsmasq", *plain, *where], port) as server:
        yield server


@contextlib.contextmanager
def _unbound(directory: Path, addresses: Mapping[str, str]) -> Iterator[Server]:
    directory.mkdir()
    port = _free()
    data = "".join(f'  local-data: "{name}. 30 IN A {address}"\n' for name, address in addresses.items())
    (directory / "unbound.conf").write_text(f"""\
server:
  interface: 127.0.0.1@{port}
  do-daemonize: no
  use-syslog: no
  chroot: ""
  username: ""
  pidfile: ""
  directory: "{directory}"
  module-config: "iterator"
  local-zone: "shop." static
  local-zone: "." refuse
{data}remote-control:
  control-enable: no
""")
    with _running(["unbound", "-d", "-p", "-c", directory / "unbound.conf"], port) as server:
        yield server


SERVERS: Final = {OURS: _sidestep, "dnsmasq": _dnsmasq, "unbound": _unbound}


def _free() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@contextlib.contextmanager
def _running(command: measure.Command, port: int) -> Iterator[Server]:
    process = subprocess.Popen([*map(str, command)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        _wait(port, str(command[0]))
        yield Server(port, process.pid)
    finally:
        process.terminate()
        process.wait(10)


def _wait(port: int, name: str) -> None:
    for _ in range(100):
        with contextlib.suppress(OSError, dns.exception.DNSException):
            dns.query.udp(dns.message.make_query(KNOWN, "A"), "127.0.0.1", 0.2, port)
            return
        time.sleep(0.1)
    sys.exit(f"{name} does not answer")


# What is asked, and what should be said

KNOWN: Final = "service-7.shop"


def _ask(name: str, kind: str, port: int, *, tcp: bool = False, edns: int | bool = False) -> Answer:
    query = dns.message.make_query(name, kind, use_edns=edns)
    try:
        response = (dns.query.tcp if tcp else dns.query.udp)(query, "127.0.0.1", 3, port)
    except dns.exception.DNSException as error:
        return (type(error).__name__,)
    records = [str(record) for rrset in response.answer for record in rrset]
    kept = ["case kept"] if str(response.question[0].name) == f"{name}." else []
    with_edns = ["EDNS"] if response.edns >= 0 else []
    return (dns.rcode.to_text(response.rcode()), *records, *kept, *with_edns)


QUESTIONS: Final[Mapping[str, Callable[[int], Answer]]] = {
    "A": partial(_ask, KNOWN, "A"),
    "AAAA": partial(_ask, KNOWN, "AAAA"),
    "HTTPS": partial(_ask, KNOWN, "HTTPS"),
    "TXT": partial(_ask, KNOWN, "TXT"),
    "case": partial(_ask, "SerVice-7.SHOP", "A"),
    "EDNS": partial(_ask, KNOWN, "A", edns=0),
    "EDNS version 1": partial(_ask, KNOWN, "A", edns=1),
    "TCP": partial(_ask, KNOWN, "A", tcp=True),
    "AAAA by TCP": partial(_ask, KNOWN, "AAAA", tcp=True),
    "another name": partial(_ask, "other.example", "A"),
    "a name below": partial(_ask, f"x.{KNOWN}", "A"),
}
_FOUND: Final = ("NOERROR", "127.77.0.8", "case kept")
_NO_DATA: Final = ("NOERROR", "case kept")
_REFUSED: Final = ("REFUSED", "case kept")
EXPECTED: Final[Mapping[str, Answer]] = {
    **dict.fromkeys(("A", "case", "TCP"), _FOUND),
    **dict.fromkeys(("AAAA", "HTTPS", "TXT", "AAAA by TCP"), _NO_DATA),
    "EDNS": (*_FOUND, "EDNS"),
    "EDNS version 1": ("BADVERS", "case kept", "EDNS"),
    # Not NXDOMAIN: somebody else may know them, and a search path goes on.
    **dict.fromkeys(("another name", "a name below"), _REFUSED),
}


if __name__ == "__main__":
    main()

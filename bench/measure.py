"""What every figure needs: paired runs, Envoys that end with the script, documents of any size, a table or JSON."""

from __future__ import annotations

import argparse
import atexit
import contextlib
import json
import math
import os
import resource
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Final, TypeAlias, TypeVar

from sidestep.proxy import binary

T = TypeVar("T")
Command: TypeAlias = Sequence[str | Path]

SERVICE_PORT: Final = 9080
SIDESTEP: Final = (str(Path(sys.executable).with_name("sidestep")),)
"""The command as users run it."""
_QUIETLY: Final = ("--disable-hot-restart", "-l", "error")
_START_SECONDS: Final = 120.0
_TOO_FEW: Final = 6


@dataclass(frozen=True)
class Options:
    """What the command line says."""

    runs: int
    json: bool
    sizes: tuple[int, ...]


def options(description: str | None, *, runs: int, sizes: Sequence[int] = ()) -> Options:
    """Reads ``--runs``, ``--json`` and, where there are sizes, ``--sizes``; makes SIGTERM end the script in order.

    What it starts may open as many files as the system allows.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=runs, metavar="N", help=f"paired runs (default: {runs})")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of tables")
    if sizes:
        parser.add_argument(
            "--sizes", type=int, nargs="+", default=list(sizes), metavar="N", help="numbers of services"
        )
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    return Options(max(1, arguments.runs), arguments.json, tuple(getattr(arguments, "sizes", ())))


@dataclass(frozen=True)
class Spent:
    """What one run of a command took."""

    wall: float
    cpu: float
    """User and system time, in seconds: hardly disturbed by whatever else the machine does."""


def run(command: Command, *, directory: Path | None = None) -> Spent:
    """Runs a command that must succeed, without showing what it prints."""
    environment = _as_installed()
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    ran = subprocess.run(command, cwd=directory, capture_output=True, check=False, env=environment)
    wall, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    if ran.returncode:
        sys.exit(f"{' '.join(map(str, command))} ended with {ran.returncode}:\n{ran.stderr.decode()[-2000:]}")
    return Spent(wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)


@cache
def _as_installed() -> Mapping[str, str]:
    """The environment in which Python finds byte code for every module, as pip leaves them; here it may have none."""
    compiled = tempfile.mkdtemp(prefix="sidestep-bench-")
    atexit.register(shutil.rmtree, compiled, ignore_errors=True)
    environment = {**os.environ, "PYTHONPYCACHEPREFIX": compiled}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    # Once unmeasured, so that it is there: whatever a render imports, and the peer.
    with scratch() as directory:
        (directory / "spec.yaml").write_text(documents(1, (15443,)))
        out: Command = [directory / "spec.yaml", "-o", directory / "bundle", "--unsafe-skip-validation"]
        subprocess.run([*SIDESTEP, "render", *out], env=environment, check=True, capture_output=True)
    return environment


def alternate(runs: int, subjects: Mapping[str, Callable[[], T]]) -> dict[str, list[T]]:
    """Measures the subjects in turn, again and again, so that whatever disturbs the machine disturbs all of them.

    Every other round is the other way about: nobody always comes after the same one.
    """
    results: dict[str, list[T]] = {name: [] for name in subjects}
    for number in range(runs):
        names = list(subjects)
        for name in names if number % 2 == 0 else names[::-1]:
            results[name].append(subjects[name]())
    return results


def median(values: Sequence[float]) -> float:
    """The median, to six digits."""
    return float(f"{statistics.median(values):.6g}")


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Where the median of such values lies, but for one time in twenty, by their ranks. Fewer than six tell nothing."""
    if len(values) < _TOO_FEW:
        return 0.0, math.inf
    ordered = sorted(values)
    rank = math.floor(len(values) / 2 - 0.98 * math.sqrt(len(values)))
    return ordered[rank], ordered[len(values) - 1 - rank]


@dataclass
class Report:
    """What a script found: rows for people, the same values for programs, and whether its targets are met."""

    figure: str
    heads: Sequence[str]
    rows: list[Sequence[str | float]] = field(default_factory=list)
    targets: list[Target] = field(default_factory=list)

    def row(self, *cells: str | float) -> None:
        """One line of the table."""
        self.rows.append(cells)

    def target(self, text: str, measured: float, limit: float, *, at_least: bool = False) -> None:
        """A stated target: at most ``limit``, or at least that."""
        met = measured >= limit if at_least else measured <= limit
        self.targets.append(Target(text, measured, limit, "met" if met else "MISSED"))

    def ratio(self, text: str, pairs: Sequence[float], limit: float, *, at_least: bool = False) -> None:
        """A target for the median of ratios, which chance may hide: then it is neither met nor missed."""
        low, high = interval(pairs)
        middle = median(pairs)
        met = middle >= limit if at_least else middle <= limit
        verdict = "met" if met else "within chance" if low <= limit <= high else "MISSED"
        self.targets.append(Target(f"{text} ({low:.2f} to {high:.2f})", middle, limit, verdict))

    def show(self, *, as_json: bool) -> None:
        """Prints it, as a table or as one JSON object."""
        if as_json:
            rows = [dict(zip(self.heads, row, strict=True)) for row in self.rows]
            targets = [asdict(target) for target in self.targets]
            print(json.dumps({"figure": self.figure, "rows": rows, "targets": targets}, indent=2))
            return
        cells = [list(self.heads), *([_cell(value) for value in row] for row in self.rows)]
        widths = [max(len(row[column]) for row in cells) for column in range(len(self.heads))]
        print(f"{self.figure}\n")
        for row in cells:
            print(
                "  ".join(cell.rjust(width) if i else cell.ljust(width) for i, (cell, width) in _aligned(row, widths))
            )
        for target in self.targets:
            print(f"\n{target.verdict}: {target.text}: {_cell(target.measured)}", end="")
        print()


@dataclass(frozen=True)
class Target:
    """A target, and what was measured."""

    text: str
    measured: float
    limit: float
    verdict: str


def _aligned(row: Sequence[str], widths: Sequence[int]) -> Iterator[tuple[int, tuple[str, int]]]:
    return enumerate(zip(row, widths, strict=True))


def _cell(value: str | float) -> str:
    if isinstance(value, str):
        return value
    return f"{value:,.0f}" if abs(value) >= 100 or value == int(value) else f"{value:.3g}"


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """A directory that is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="sidestep-bench-") as directory:
        yield Path(directory)


def envoy() -> Path:
    """The Envoy to measure, found as the product finds it."""
    return binary.find().path


def validate(directory: Path, config_file: str) -> Spent:
    """Envoy's own validation of a configuration."""
    command: Command = [envoy(), "--mode", "validate", "-c", config_file, *_QUIETLY]
    return run(command, directory=directory)


@dataclass(frozen=True)
class Running:
    """An Envoy that runs."""

    pid: int
    seconds: float
    """From its start until a listener answered."""

    @property
    def resident(self) -> float:
        """Resident memory, in MiB."""
        lines = Path(f"/proc/{self.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:")) / 1024

    @property
    def processor(self) -> float:
        """User and system time that it has used so far, in seconds: Linux's own clock for it, finer than its ticks."""
        return time.clock_gettime(~self.pid << 3 | 2)  # as clock_getcpuclockid(3) makes it

    @property
    def files(self) -> int:
        """Open files."""
        return len(os.listdir(f"/proc/{self.pid}/fd"))  # noqa: PTH208 (names only)


@contextlib.contextmanager
def running(
    directory: Path,
    address: tuple[str, int],
    *,
    workers: int = 1,
    http: bool = True,
    config_file: str = "envoy.json",
    under: Sequence[str] = (),
) -> Iterator[Running]:
    """An Envoy in ``directory``, from the moment that ``address`` answers. What it prints goes to ``stdout.log``.

    ``under`` is a command that runs the one which follows it, as the same process.
    """
    command: Command = [
        *under,
        envoy(),
        "-c",
        config_file,
        "--disable-hot-restart",
        "-l",
        "critical",
        "--concurrency",
        str(workers),
    ]
    with (directory / "stdout.log").open("wb") as log:
        started = time.perf_counter()
        process = subprocess.Popen(command, cwd=directory, stdout=log, stderr=log)
    try:
        if not _answers(process, address, http):
            said = (directory / "stdout.log").read_text(errors="replace")[:2000]
            sys.exit(f"Envoy does not answer at {address}; its exit status is {process.poll()}:\n{said}")
        yield Running(process.pid, time.perf_counter() - started)
    finally:
        process.kill()
        process.wait()


def _answers(process: subprocess.Popen[bytes], address: tuple[str, int], http: bool) -> bool:
    deadline = time.monotonic() + _START_SECONDS
    while not _answer(address, http):
        if process.poll() is not None or time.monotonic() > deadline:
            return False
        time.sleep(0.002)
    return True


def _answer(address: tuple[str, int], http: bool) -> bool:
    try:
        with socket.create_connection(address, 5) as connection:
            if not http:
                return True
            connection.sendall(b"GET / HTTP/1.1\r\nhost: bench\r\nconnection: close\r\n\r\n")
            return connection.recv(16).startswith(b"HTTP/1.1 ")
    except OSError:
        return False


def address(index: int) -> str:
    """A loopback address of its own for each of up to four million services."""
    return f"127.{64 + (index >> 16)}.{index >> 8 & 255}.{index & 255}"


def host(index: int) -> str:
    """The host name of a service: a hundred a namespace."""
    return f"service-{index}.namespace-{index // 100}.svc.cluster.local"


def documents(services: int, gateways: Sequence[int]) -> str:
    """A Mesh and a Workload that calls every service of it, with gateways on these ports of 127.0.0.1."""
    lines = ["apiVersion: sidestep/v1alpha1", "kind: Mesh", "metadata: {name: bench}", "spec:", "  gateways:"]
    lines += [f"  - {{address: 127.0.0.1, port: {port}}}" for port in gateways]
    lines.append("  services:")
    for index in range(services):
        lines.append(f"  - host: {host(index)}")
        lines.append(f"    ports: [{{number: {SERVICE_PORT}, protocol: HTTP}}]")
        lines.append(f"    serviceAccounts: [service-{index}]")
    lines += ["---", "apiVersion: sidestep/v1alpha1", "kind: Workload", "metadata: {name: billing, namespace: vms}"]
    lines += ["spec:", "  egress:"]
    for index in range(services):
        name, _, _ = host(index).partition(".svc.")
        lines.append(f"  - {{host: {name}, listen: {address(index)}:{SERVICE_PORT}}}")
    return "\n".join(lines) + "\n"


def render(specification: Path, bundle: Path, *, validate: bool = False) -> Spent:
    """``sidestep render``, whole; without asking Envoy unless told to."""
    skip = [] if validate else ["--unsafe-skip-validation"]
    return run([*SIDESTEP, "render", specification, "-o", bundle, *skip])


def settled(value: Callable[[], float]) -> float:
    """A value once it stays within one in a hundred for a second."""
    last, since, deadline = value(), time.monotonic(), time.monotonic() + _START_SECONDS
    while time.monotonic() - since < 1 and time.monotonic() < deadline:
        time.sleep(0.1)
        now = value()
        if abs(now - last) > last / 100:
            last, since = now, time.monotonic()
    return value()

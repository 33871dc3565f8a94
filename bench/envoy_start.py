"""Envoy's own validation of the configuration, and how long it takes from its start until the last listener answers.

Sidestep's bundle (files that Envoy watches; validated as one static file, as ``sidestep render`` does it) beside
hand-written static configuration in the same run; one worker, two gateways. Target: at most the time of the
hand-written configuration with certificate files in every cluster.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Final

import machines
import measure
from sidestep import onboard
from sidestep.files import create
from sidestep.outputs import envoy

_STATIC: Final = "static.json"


def main() -> None:
    """Measures and prints."""
    options = measure.options(__doc__, runs=3, sizes=(10, 1_000, 5_000))
    heads = ("services", "configuration", "validation s", "start to serving s", "of Sidestep's", "processor s")
    report = measure.Report("Envoy's validation and start", heads)
    with machines.machines() as made:
        for services in options.sizes:
            _measure(report, made, services, options.runs if services < 5_000 else 1)
    report.show(as_json=options.json)


def _measure(report: measure.Report, made: machines.Machines, services: int, runs: int) -> None:
    directories = made.all(services)
    _write_static(made.directory / f"spec-{services}.yaml", directories["Sidestep"])
    found = measure.alternate(
        runs, {name: partial(_start, directory, services) for name, directory in directories.items()}
    )
    start = {name: measure.median([started for _, started, _ in results]) for name, results in found.items()}
    for name, results in found.items():
        validation, used = (measure.median([result[index] for result in results]) for index in (0, 2))
        report.row(services, name, validation, start[name], start[name] / start["Sidestep"], used)
    ratio = start["Sidestep"] / start[next(iter(machines.PEERS))]
    report.target(f"{services:,} services: serving no later than the peer with certificate files", ratio, 1.0)


def _write_static(specification: Path, bundle: Path) -> None:
    [bundled] = onboard.bundles(onboard.load([str(specification)]))
    create(bundle / _STATIC, envoy.validation(bundled.plan))


def _start(directory: Path, services: int) -> tuple[float, float, float]:
    static = _STATIC if (directory / _STATIC).exists() else "envoy.json"
    validated = measure.validate(directory, static).wall
    last = (measure.address(services - 1), measure.SERVICE_PORT)
    with measure.running(directory, last) as running:
        return validated, running.seconds, running.processor


if __name__ == "__main__":
    main()

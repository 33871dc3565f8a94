"""The resident memory and open files of the machine's Envoy, at rest, for 10 to 5,000 services.

Sidestep's bundle beside hand-written configuration in the same run; two workers, two gateways. Target: at most what the
hand-written configuration with certificate files in every cluster takes, and what the fact sheet's takes, here and on
the sheet; two in a hundred are left to chance.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Final

import machines
import measure

WORKERS: Final = 2
FACT_SHEET: Final = {10: 66, 1_000: 196, 5_000: 717}
"""MiB, hand-written, a listener for each service, certificate files in each cluster."""
CHANCE: Final = 1.02


def main() -> None:
    """Measures and prints."""
    options = measure.options(__doc__, runs=1, sizes=(10, 1_000, 5_000))
    heads = ("services", "configuration", "resident MiB", "of Sidestep's", "KiB a service", "open files")
    report = measure.Report("Memory of the machine's Envoy", heads)
    with machines.machines() as made:
        for services in options.sizes:
            _measure(report, made, services, options.runs)
    report.show(as_json=options.json)


def _measure(report: measure.Report, made: machines.Machines, services: int, runs: int) -> None:
    subjects = {name: partial(_at_rest, path, services) for name, path in made.all(services).items()}
    found = measure.alternate(runs, subjects)
    memory = {name: measure.median([resident for resident, _ in results]) for name, results in found.items()}
    for name, results in found.items():
        ratio, each = memory[name] / memory["Sidestep"], memory[name] * 1024 / services
        report.row(services, name, memory[name], ratio, each, results[0][1])
    best, peer = memory["Sidestep"], memory[next(iter(machines.PEERS))]
    report.target(f"{services:,} services: at most the peer with certificate files", best / peer, CHANCE)
    sheet = memory[machines.AS_ON_THE_FACT_SHEET]
    report.target(f"{services:,} services: at most what the fact sheet's takes in this run", best / sheet, CHANCE)
    if services in FACT_SHEET:
        report.target(
            f"{services:,} services: at most the fact sheet's {FACT_SHEET[services]} MiB",
            best,
            FACT_SHEET[services] * CHANCE,
        )


def _at_rest(directory: Path, services: int) -> tuple[float, int]:
    last = (measure.address(services - 1), measure.SERVICE_PORT)
    with measure.running(directory, last, workers=WORKERS) as envoy:
        return measure.settled(lambda: envoy.resident), envoy.files


if __name__ == "__main__":
    main()

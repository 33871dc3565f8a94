"""How long ``sidestep render`` takes for 10 to 50,000 services, before Envoy validates.

The peer reads the same documents with PyYAML's C loader and writes hand-written configuration for as many services with
``json.dumps``: no checks, no digests, no safe writing. Target: at most 0.5 s for 5,000 services.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final

import measure

TARGET_SECONDS: Final = 0.5
TARGET_SERVICES: Final = 5_000
VALIDATED: Final = 5_000
"""Envoy's validation is timed up to this many services."""
_PEER: Final = """
import sys, yaml, handwritten
from pathlib import Path
documents, directory, services = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
with open(documents) as stream:
    list(yaml.load_all(stream, yaml.CSafeLoader))
handwritten.write(directory, GATEWAYS, handwritten.calls(services), handwritten.Style())
""".replace("GATEWAYS", "(15443, 15444)")


def main() -> None:
    """Measures and prints."""
    options = measure.options(__doc__, runs=5, sizes=(10, 1_000, 5_000, 50_000))
    heads = (
        "services",
        "render s",
        "processor s",
        "µs a service",
        "bundle MiB",
        "peer s",
        "of peer",
        "Envoy validates s",
    )
    report = measure.Report("sidestep render, whole command without Envoy's validation", heads)
    for services in options.sizes:
        with measure.scratch() as directory:
            _measure(report, directory, services, options.runs if services <= VALIDATED else 1)
    report.show(as_json=options.json)


def _measure(report: measure.Report, directory: Path, services: int, runs: int) -> None:
    specification = directory / "spec.yaml"
    specification.write_text(measure.documents(services, (15443, 15444)))
    peer: measure.Command = [sys.executable, "-c", _PEER, specification, directory / "peer", str(services)]
    fresh = iter(range(runs))
    subjects: dict[str, Callable[[], measure.Spent]] = {
        "render": lambda: measure.render(specification, directory / f"bundle-{next(fresh)}"),
        "peer": partial(measure.run, peer, directory=Path(__file__).parent),
    }
    spent = measure.alternate(runs, subjects)
    wall = measure.median([one.wall for one in spent["render"]])
    cpu = measure.median([one.cpu for one in spent["render"]])
    other = measure.median([one.wall for one in spent["peer"]])
    size = sum(file.stat().st_size for file in (directory / "bundle-0").rglob("*") if file.is_file()) / 2**20
    validated: str | float = "-"
    if services <= VALIDATED:
        with_envoy = measure.render(specification, directory / "validated", validate=True)
        validated = with_envoy.wall - wall
    report.row(services, wall, cpu, wall / services * 1e6, size, other, wall / other, validated)
    if services == TARGET_SERVICES:
        report.target(f"at most {TARGET_SECONDS} s for {services:,} services", wall, TARGET_SECONDS)


if __name__ == "__main__":
    main()

"""What it costs to say what is wrong: ``sidestep validate`` of documents with mistakes, against the same without.

One mistake is in the last egress, ten thousand are port numbers of the Mesh. Target: at most twice the sound documents.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final

import measure

TARGET: Final = 2.0
_REFUSED: Final = ("sh", "-c", '"$@"; test $? = 3', "sh")
"""Runs a command that has to find the documents wrong."""


def main() -> None:
    """Measures and prints."""
    options = measure.options(__doc__, runs=3, sizes=(5_000, 50_000))
    report = measure.Report(
        "sidestep validate, whole command", ("services", "mistakes", "s", "processor s", "of sound")
    )
    for services in options.sizes:
        with measure.scratch() as directory:
            _measure(report, directory, services, options.runs)
    report.show(as_json=options.json)


def _measure(report: measure.Report, directory: Path, services: int, runs: int) -> None:
    sound = measure.documents(services, (15443, 15444))
    number = f"number: {measure.SERVICE_PORT}"
    texts = {
        "none": sound,
        "1": sound.removesuffix("}\n") + "0}\n",
        f"{min(services, 10_000):,}": sound.replace(number, f"{number}0", 10_000),
    }
    subjects = {mistakes: _validate(directory / mistakes, text, sound) for mistakes, text in texts.items()}
    spent = measure.alternate(runs, subjects)
    sound_cpu = measure.median([one.cpu for one in spent["none"]])
    for mistakes, each in spent.items():
        wall, cpu = (measure.median(values) for values in ([one.wall for one in each], [one.cpu for one in each]))
        report.row(services, mistakes, wall, cpu, cpu / sound_cpu)
        if mistakes != "none":
            report.target(f"{mistakes} in {services:,} services: at most {TARGET} of sound", cpu / sound_cpu, TARGET)


def _validate(specification: Path, text: str, sound: str) -> Callable[[], measure.Spent]:
    specification.write_text(text)
    command: measure.Command = [*measure.SIDESTEP, "validate", specification]
    return partial(measure.run, command if text == sound else [*_REFUSED, *command])


if __name__ == "__main__":
    main()

"""How long ``sidestep --version`` and ``--help`` take, beside what Python and click take for nothing.

Target: under 100 ms for ``--version``.
"""

from __future__ import annotations

import sys
from functools import partial
from typing import Final

import measure

TARGET: Final = 0.1
COMMANDS: Final = {
    "python -c pass": (sys.executable, "-c", "pass"),
    "python -c 'import click'": (sys.executable, "-c", "import click"),
    "sidestep --version": (*measure.SIDESTEP, "--version"),
    "sidestep --help": (*measure.SIDESTEP, "--help"),
}


def main() -> None:
    """Measures and prints."""
    options = measure.options(__doc__, runs=15)
    spent = measure.alternate(options.runs, {name: partial(measure.run, each) for name, each in COMMANDS.items()})
    report = measure.Report("CLI start-up", ("command", "wall ms", "processor ms", "of import click"))
    click = measure.median([one.wall for one in spent["python -c 'import click'"]])
    for name, runs in spent.items():
        wall, cpu = measure.median([one.wall for one in runs]), measure.median([one.cpu for one in runs])
        report.row(name, wall * 1e3, cpu * 1e3, wall / click)
    version = measure.median([one.wall for one in spent["sidestep --version"]])
    report.target("sidestep --version in at most 100 ms", version * 1e3, TARGET * 1e3)
    report.show(as_json=options.json)


if __name__ == "__main__":
    main()

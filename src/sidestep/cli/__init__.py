"""The ``sidestep`` command: arguments in, exit code out. The library does the work, this is how it looks."""

from __future__ import annotations

import sys
from io import TextIOWrapper
from typing import TYPE_CHECKING

from sidestep.cli.commands import sidestep
from sidestep.cli.output import checked
from sidestep.cli.signals import terminable
from sidestep.cli.terminal import Terminal

if TYPE_CHECKING:
    from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line and exits: the one place where errors are printed and exit codes chosen."""
    if isinstance(sys.stderr, TextIOWrapper):
        sys.stderr.reconfigure(errors="backslashreplace")  # as standard output
    with checked(), terminable():
        code = _run([*(sys.argv[1:] if arguments is None else arguments)])
    sys.exit(code)


def _run(arguments: Sequence[str]) -> int:
    """The exit code: what a command gave to ctx.exit is returned by click; else None."""
    terminal = Terminal(arguments)
    try:
        code = sidestep.main(args=[*arguments], prog_name="sidestep", standalone_mode=False, obj=terminal)
        if sys.stdout:  # none where it was closed before the start
            sys.stdout.flush()
    except BaseException as error:  # whatever it is, the user gets a line and a code
        return terminal.fail(error)
    return code or 0

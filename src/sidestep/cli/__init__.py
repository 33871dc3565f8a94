"""The ``sidestep`` command: arguments in, exit code out. The library does the work, this is how it looks."""

from __future__ import annotations

import sys
from io import TextIOWrapper
from typing import TYPE_CHECKING

from sidestep.cli.commands import sidestep
from sidestep.cli.terminal import Terminal

if TYPE_CHECKING:
    from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line and exits: the one place where errors are printed and exit codes chosen."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a character that the terminal lacks is no reason to fail
    given = [*(sys.argv[1:] if arguments is None else arguments)]
    terminal = Terminal(given)
    try:
        code = sidestep.main(args=given, prog_name="sidestep", standalone_mode=False, obj=terminal)
    except BaseException as error:  # whatever it is, the user gets a line and a code
        code = terminal.fail(error)
    sys.exit(code)  # what a command gave to ctx.exit is returned by click; else None

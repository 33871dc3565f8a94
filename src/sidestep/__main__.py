"""The ``sidestep`` command, also as ``python -m sidestep``."""

import os
import sys
from contextlib import suppress

from sidestep import cli


def main() -> None:
    """Runs the command line and ends the process.

    At once: Python would take everything apart first that was built, which is a sixth of the time of a large `render`.
    """
    try:
        cli.main()
    except SystemExit as end:
        for stream in (sys.stdout, sys.stderr):
            if stream:  # none where it was closed before the start
                with suppress(OSError):  # there is nobody left to tell
                    stream.flush()
        os._exit(end.code if isinstance(end.code, int) else bool(end.code))


if __name__ == "__main__":
    main()

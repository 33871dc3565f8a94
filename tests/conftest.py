"""What every test may ask for."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.users import GROUP, USER

# Shells start what runs in the background with SIGINT ignored, nohup with SIGHUP, and every process of the tests would
# inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def pytest_addoption(parser: pytest.Parser) -> None:
    """``--update-golden`` writes anew what the golden cases expect; read the difference before keeping it."""
    parser.addoption("--update-golden", action="store_true", help="write what the golden cases expect anew")


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Names for what is made anew in every process, such as certificates: workers must agree on the names of tests."""
    return argname if isinstance(val, bytes) else None


@pytest.fixture
def theirs() -> Iterator[Path]:
    """A directory of another user, which root and that user can get to; for tests that are marked ``as_root``."""
    with TemporaryDirectory() as directory:
        Path(directory).chmod(0o755)
        place = Path(directory) / "theirs"
        place.mkdir(mode=0o700)
        os.chown(place, USER, GROUP)
        yield place

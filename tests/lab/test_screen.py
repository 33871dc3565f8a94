"""What ``sidestep lab`` looks like to somebody who watches a terminal of 80 columns."""

from __future__ import annotations

import fcntl
import os
import re
import struct
import subprocess
import termios
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from tests.lab.command import command, environment

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.xdist_group("lab")
COLOUR = re.compile(r"\x1b\[[0-9;]*m")
REPLACED = re.compile(r"\r\x1b\[K[^\r\n]*(?=\r\x1b\[K)")


def screen(temporary: Path, *arguments: object, **more: str) -> str:
    """Everything that it wrote to a terminal."""
    ours, theirs = os.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    settings = environment(temporary, TERM="xterm", **more)
    settings.pop("COLUMNS", None)
    with subprocess.Popen(command(*arguments), env=settings, stdin=theirs, stdout=theirs, stderr=theirs) as process:
        os.close(theirs)
        written = b""
        with suppress(OSError):  # that is how a terminal tells that nobody writes any more
            while part := os.read(ours, 65536):
                written += part
    os.close(ours)
    assert process.returncode == 0, written.decode()
    return written.decode()


def test_it_fits_and_says_what_is_being_done(tmp_path: Path) -> None:
    names = ("http1", "no-policy-tcp", "outside-name-constraint")
    seen = screen(tmp_path, "--once", *(f"--scenario={name}" for name in names))
    for text in ("… gateways, sidecars", *(f"… {name}: " for name in names), "… stopping"):
        assert f"\r\x1b[K{text}" in seen, "progress is shown"
    assert COLOUR.search(seen)
    left = COLOUR.sub("", REPLACED.sub("", seen)).replace("\r\x1b[K", "").replace("\r\n", "\n")
    _, _, results = left.partition("What passes, and what is refused\n")
    assert max(map(len, results.splitlines())) <= 80
    assert results.startswith("✓ http1                      HTTP/1.1 to a STRICT service\n    passes: 200 from")
    assert "…" not in results, "progress goes"


@pytest.mark.parametrize("arguments", [["--list"], ["--once", "--scenario=http1", "--scenario=no-policy-http"]])
def test_no_color_means_none(tmp_path: Path, arguments: list[str]) -> None:
    assert not COLOUR.search(screen(tmp_path, *arguments, NO_COLOR="1"))
    assert COLOUR.search(screen(tmp_path, "--list"))

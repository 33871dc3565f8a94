"""Standard output that says so where it takes no more: a full disk is no bug of ours."""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager, suppress
from io import TextIOWrapper
from typing import TYPE_CHECKING

from sidestep.errors import OutputRefused

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def checked() -> Iterator[None]:
    """Within, standard output raises `OutputRefused`. A reader who has left is no error but click's matter."""
    stream = sys.stdout
    if not isinstance(stream, TextIOWrapper):  # closed before the start, or somebody else's
        yield
        return
    sys.stdout = output = _Output(stream)
    try:
        yield
    finally:
        sys.stdout = stream
        try:
            output.detach()
        except (OSError, OutputRefused):  # whoever was to read the rest has left
            discard()


def discard() -> None:
    """Takes standard output away: what it still holds would fail again when Python ends, with a code of Python's."""
    with suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class _Output(TextIOWrapper):
    """In place of a stream: the same, but for how it fails."""

    def __init__(self, stream: TextIOWrapper) -> None:
        super().__init__(
            stream.buffer,
            stream.encoding,
            errors="backslashreplace",  # a character that the terminal lacks is no reason to fail
            line_buffering=stream.line_buffering,
            write_through=stream.write_through,
        )

    def write(self, text: str) -> int:
        with _refusal():
            return super().write(text)

    def flush(self) -> None:
        with _refusal():
            super().flush()


@contextmanager
def _refusal() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise OutputRefused(f"standard output cannot be written: {error.strerror}") from error

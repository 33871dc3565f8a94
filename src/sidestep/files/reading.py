"""Reading a file that somebody else may have put there: only a regular one, so that it ends."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from errno import EFBIG, EINVAL
from hashlib import file_digest
from io import BufferedReader
from pathlib import Path
from stat import S_ISREG
from typing import Final

_MOST: Final = 256 * 1024 * 1024
"""Bytes; a manifest of 50,000 services has 7 MB."""
_AT_ONCE: Final = getattr(os, "O_NONBLOCK", 0)
"""Opening a pipe would wait for a writer."""


class NotAFile(OSError):
    """What has the name is a directory, a pipe, a device: nothing to be read to its end."""


def read(path: Path, most: int = _MOST) -> bytes:
    """What a file of at most so many bytes holds. Raises `OSError`, for what is no regular file `NotAFile`."""
    with _opened(path) as stream:
        content = stream.read(most + 1)
    if len(content) > most:
        raise OSError(EFBIG, f"it has more than {most:,} bytes", str(path))
    return content


def digest_of(path: Path) -> str:
    """SHA-256 of what a file holds, in hexadecimal. Raises `OSError`, for what is no regular file `NotAFile`."""
    with _opened(path) as stream:
        return file_digest(stream, "sha256").hexdigest()


@contextmanager
def _opened(path: Path) -> Iterator[BufferedReader]:
    descriptor = os.open(path, os.O_RDONLY | _AT_ONCE)
    try:
        if not S_ISREG(os.fstat(descriptor).st_mode):
            raise NotAFile(EINVAL, "it is no regular file", str(path))
        with os.fdopen(descriptor, "rb", closefd=False) as stream:
            yield stream
    finally:
        os.close(descriptor)

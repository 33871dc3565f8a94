"""Writing one file, keeping other writers out, and saying what went wrong."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from errno import EBADF, ENOLCK, ENOSYS, EOPNOTSUPP
from hashlib import sha256
from pathlib import Path
from typing import BinaryIO, Final

from sidestep.errors import OutputError
from sidestep.files.ownership import as_owner

if sys.platform != "win32":
    import fcntl

_BUFFER: Final = 1024 * 1024
_NO_LOCKS: Final = (EBADF, ENOLCK, ENOSYS, EOPNOTSUPP)
"""What file systems say that lock no directory, such as NFS."""
_POLL: Final = 0.02


class Output:
    """A file while it is written, and the digest of what it holds so far."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._sha256 = sha256()

    def write(self, part: bytes | memoryview) -> None:
        """Adds to its end."""
        self._sha256.update(part)
        self._stream.write(part)

    @property
    def digest(self) -> str:
        """SHA-256, in hexadecimal."""
        return self._sha256.hexdigest()


@dataclass(frozen=True, eq=False)
class File:
    """What a file is to hold, and its mode."""

    write_to: Callable[[Output], object] = field(repr=False)
    """Writes the content, the same at every call. All of it need never be in memory at once."""
    mode: int = 0o644

    @classmethod
    def of(cls, content: bytes, mode: int = 0o644) -> File:
        """A file that holds ``content``."""
        return cls(lambda output: output.write(content), mode)


def create(path: Path, file: File, *, durable: bool = True) -> str:
    """Writes a new file with exactly its mode, unless not ``durable`` down to the disk; returns its digest (SHA-256).

    Never opens one that is there. Raises `OSError`.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, file.mode)
    with os.fdopen(descriptor, "wb", _BUFFER) as stream:
        _set_mode(descriptor, path, file.mode)
        output = Output(stream)
        file.write_to(output)
        stream.flush()
        if durable:
            os.fsync(descriptor)
    return output.digest


def _set_mode(descriptor: int, path: Path, mode: int) -> None:
    if sys.platform == "win32":  # before Python 3.13 it has no other way
        path.chmod(mode)
    else:
        os.fchmod(descriptor, mode)


def announce(directory: Path) -> None:
    """Has whoever watches a directory look at its files again: renames something into it, and leaves nothing.

    An Envoy that has refused a file because of another one, which is mended since, would not ask by itself. Where the
    directory cannot be written, nothing happens.
    """
    new, moved = directory / ".sidestep-announced", directory / ".sidestep-announced-now"
    with suppress(OSError, OutputError), as_owner(directory):
        new.unlink(missing_ok=True)
        create(new, File.of(b""), durable=False)
        new.replace(moved)
        moved.unlink()


@contextmanager
def locked(directory: Path, *, wait: float = 0) -> Iterator[None]:
    """Keeps other writers out of ``directory``, where the system has locks for directories.

    Raises `OutputError` where another writer is at it for longer than ``wait`` seconds: whoever may read a directory
    can lock it, and must not keep us for ever.
    """
    if sys.platform == "win32":
        yield
        return
    with translated(directory):
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        deadline = time.monotonic() + wait
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    raise OutputError(f"{directory}: another process is writing there") from None
            except OSError as error:
                if error.errno not in _NO_LOCKS:
                    raise
                break
            time.sleep(_POLL)
        with translated(directory):
            replaced = not os.path.samestat(os.fstat(descriptor), directory.stat())
        if replaced:  # by a writer that found nothing there, failed, and removed what it had made
            raise OutputError(f"{directory}: another process is writing there")
        yield
        with translated(directory):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def translated(directory: Path, hint: str = "") -> Iterator[None]:
    """What the system refuses, as an `OutputError`."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise OutputError(f"{directory}: cannot be written: {reason}", hint=hint) from error

"""A block of names in a hosts file: put there, brought up to date, taken out; no other line is ever touched.

The block of a workload stands between two comments that name it, so that several workloads can share a machine::

    # BEGIN sidestep vms/billing
    127.77.12.3 reviews.bookinfo reviews.bookinfo.svc reviews.bookinfo.svc.cluster.local
    # END sidestep vms/billing
"""

from __future__ import annotations

import errno
import os
import shutil
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final

from sidestep.errors import OutputError
from sidestep.files import as_owner, locked, read

_ATTEMPTS: Final = 100
_PATIENCE: Final = 10.0
"""Seconds to wait for other writers."""
DEFAULT: Final = (
    Path(os.environ.get("SYSTEMROOT", r"C:\Windows"), "System32", "drivers", "etc", "hosts")
    if sys.platform == "win32"
    else Path("/etc/hosts")
)


def block(owner: str, names: Mapping[str, Sequence[str]]) -> list[str]:
    """The lines of a workload's block; none if it has no names. ``names`` has the names of each address."""
    if not names:
        return []
    lines = [f"{address} {' '.join(each)}" for address, each in sorted(names.items(), key=_numerically)]
    return [_begin(owner), *lines, _end(owner)]


def replaced(text: str, owner: str, lines: Sequence[str]) -> str:
    """``text`` with the block of ``owner`` replaced by ``lines``: appended where it had none, removed without lines.

    Line ends are those that the file has. Raises `OutputError` if the block's end is missing or it stands twice:
    then nobody can tell which lines are ours.
    """
    end_of_line = "\r\n" if "\r\n" in text else "\n"
    present = text.splitlines(keepends=True)
    begins = [at for at, line in enumerate(present) if line.strip() == _begin(owner)]
    ends = [at for at, line in enumerate(present) if line.strip() == _end(owner)]
    if len(begins) != len(ends) or len(begins) > 1 or (begins and ends[0] < begins[0]):
        raise OutputError(
            f"the block of {owner} is damaged: {len(begins)} × {_begin(owner)!r}, {len(ends)} × {_end(owner)!r}",
            hint="Mend it by hand: what is between the two lines is ours, nothing else.",
        )
    new = [line + end_of_line for line in lines]
    if begins:
        return "".join([*present[: begins[0]], *new, *present[ends[0] + 1 :]])
    if new and present and not present[-1].endswith("\n"):
        new.insert(0, end_of_line)
    return text + "".join(new)


def update(path: Path, owner: str, lines: Sequence[str]) -> bool:
    """Brings the block of ``owner`` in a hosts file up to date; whether that changed anything. Raises `OutputError`.

    Whoever does the same for another workload at this moment waits; what somebody else has changed meanwhile is kept.
    """
    try:
        path = path.resolve(strict=True)
        with as_owner(path), locked(path.parent, wait=_PATIENCE):
            for _ in range(_ATTEMPTS):
                present = read(path)
                text = replaced(present.decode("utf-8", "surrogateescape"), owner, lines)
                new = text.encode("utf-8", "surrogateescape")
                if new == present or _replace(path, present, new):
                    return new != present
            raise OutputError(f"{path}: others change it all the time", hint="Run it again.")
    except OSError as error:
        hint = "Run it as root, or print the block and add it yourself." if isinstance(error, PermissionError) else ""
        raise OutputError(f"{path}: {error.strerror or error}", hint=hint) from error


def _replace(path: Path, present: bytes, new: bytes) -> bool:
    """As a whole, with the same owner, mode and attributes; in place where the directory does not let us.

    False where the file is not as it was any more.
    """
    try:
        descriptor, name = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    except OSError as error:
        if error.errno not in {errno.EACCES, errno.EPERM, errno.EROFS}:
            raise
        path.write_bytes(new)
        return True
    try:
        with os.fdopen(descriptor, "wb") as stream:
            status = path.stat()
            if hasattr(os, "fchown"):
                os.fchown(descriptor, status.st_uid, status.st_gid)
            shutil.copystat(path, name)
            stream.write(new)
            stream.flush()
            os.fsync(descriptor)
        if read(path) != present:
            return False
        _rename(Path(name), path, new)
        return True
    finally:
        Path(name).unlink(missing_ok=True)


def _rename(new: Path, path: Path, content: bytes) -> None:
    try:
        new.replace(path)
    except OSError:  # a container's /etc/hosts is a mount: it can be written, not replaced
        path.write_bytes(content)


def _begin(owner: str) -> str:
    return f"# BEGIN sidestep {owner}"


def _end(owner: str) -> str:
    return f"# END sidestep {owner}"


def _numerically(item: tuple[str, Iterable[str]]) -> tuple[int, ...]:
    return tuple(int(part) for part in item[0].split(".")) if item[0].count(".") == 3 else (256,)

"""A tree of files that is completed beside the present one, then put in its place file by file."""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Final

from sidestep.errors import OutputError
from sidestep.files.writing import locked, translated, write

STAGING: Final = ".sidestep-staging"
"""Directory inside the target in which new files are completed; one that is left over tells of an interrupted write."""


@dataclass(frozen=True)
class File:
    """The content of a file and its mode."""

    content: bytes = field(repr=False)
    mode: int = 0o644

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the content, in hexadecimal."""
        return sha256(self.content).hexdigest()


@dataclass(frozen=True)
class FileTree:
    """Files by path (relative, with ``/``), and directories with their modes."""

    files: Mapping[str, File]
    directories: Mapping[str, int] = field(default_factory=dict)


@contextlib.contextmanager
def staged(tree: FileTree, target: Path) -> Iterator[Path]:
    """Writes ``tree`` completely into a staging directory inside ``target`` and yields that directory.

    Nothing that was in ``target`` is touched; afterwards the staging directory is gone, and ``target`` too where it was
    made for this and is still empty. Raises `OutputError`, also where another process is writing there.
    """
    created = _make_directory(target)
    staging = target / STAGING
    try:
        with locked(target, wait=False):
            try:
                _fill(staging, tree)
                yield staging
            finally:
                shutil.rmtree(staging, ignore_errors=True)
    finally:
        for directory in reversed(created):
            with contextlib.suppress(OSError):
                directory.rmdir()


def _fill(staging: Path, tree: FileTree) -> None:
    with translated(staging.parent):
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir(mode=0o700)
        for name, mode in tree.directories.items():
            (staging / name).mkdir(mode=mode)
        for name, file in tree.files.items():
            write(staging / name, file.content, file.mode)


def put_in_place(staging: Path, target: Path, names: Sequence[str]) -> None:
    """Renames staged files over those of ``target``, in the order of ``names``.

    Should a rename fail, those already done are taken back. Directories that are watched are never replaced.
    Raises `OutputError`.
    """
    kept = staging / ".replaced"
    done: list[str] = []
    try:
        with translated(target):
            for directory in [path for path in staging.iterdir() if path.is_dir()]:
                _like(directory, target / directory.name)
            for name in names:
                _keep(target / name, kept / name)
            for name in names:
                done.append(name)
                (staging / name).replace(target / name)
    except OutputError:
        _take_back(kept, target, done)
        raise


def _like(staged_directory: Path, directory: Path) -> None:
    if not directory.is_dir():
        directory.mkdir(mode=stat.S_IMODE(staged_directory.stat().st_mode))


def _keep(file: Path, kept: Path) -> None:
    """A second name for the present file, so that it can come back."""
    if file.is_file() and not file.is_symlink():
        kept.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(file, kept)
        except OSError:  # not every file system has hard links
            shutil.copy2(file, kept)


def _take_back(kept: Path, target: Path, names: list[str]) -> None:
    for name in names:
        with contextlib.suppress(OSError):
            if (kept / name).exists():
                (kept / name).replace(target / name)
            else:
                (target / name).unlink(missing_ok=True)


def _make_directory(target: Path) -> list[Path]:
    """Makes a directory and those above it; returns the ones that were missing, outermost first."""
    missing = [path for path in (target, *target.parents) if not path.exists()][::-1]
    with translated(target):
        target.mkdir(parents=True, exist_ok=True)
    return missing

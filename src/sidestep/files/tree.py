"""A tree of files that is completed beside the present one, then put in its place file by file."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from pathlib import Path, PurePosixPath
from typing import Final

from sidestep.errors import OutputError
from sidestep.files.writing import locked, translated, write

STAGING: Final = ".sidestep-staging"
"""Directory inside the target in which new files are completed; one that is left over tells of an interrupted write."""

_KEPT: Final = ".replaced"
"""Inside it: the files that were there before."""
_JOURNAL: Final = ".journal"
"""Inside it, as long as files are being put in place: which, with digests."""


@dataclass(frozen=True)
class File:
    """The content of a file and its mode."""

    content: bytes = field(repr=False)
    mode: int = 0o644
    digest: str = field(default="", repr=False)
    """SHA-256 of the content, in hexadecimal; worked out unless it is given."""

    def __post_init__(self) -> None:
        if not self.digest:
            object.__setattr__(self, "digest", sha256(self.content).hexdigest())


@dataclass(frozen=True)
class FileTree:
    """Files by path (relative, with ``/``), and directories with their modes."""

    files: Mapping[str, File]
    directories: Mapping[str, int] = field(default_factory=dict)


@contextlib.contextmanager
def exclusive(target: Path, mode: int = 0o755) -> Iterator[None]:
    """Keeps other writers out of the directory ``target``, and takes back what an interrupted one left half done.

    Where there is no such directory it is made with ``mode``, and goes again if all fails. Raises `OutputError`, also
    where another process is writing there.
    """
    created = _make_directory(target, mode)
    with locked(target):
        try:
            with translated(target):
                _take_back(target)
                shutil.rmtree(target / STAGING, ignore_errors=True)
            yield
        except BaseException:
            for directory in reversed(created):
                with contextlib.suppress(OSError):
                    directory.rmdir()
            raise


@contextlib.contextmanager
def staged(tree: FileTree, target: Path) -> Iterator[Path]:
    """Writes ``tree`` completely into a staging directory inside ``target`` and yields that directory.

    Nothing that was in ``target`` is touched; afterwards the staging directory is gone. Only to be used within
    `exclusive`. Raises `OutputError`.
    """
    staging = target / STAGING
    try:
        with translated(target):
            _fill(staging, tree)
        yield staging
    finally:
        if not (staging / _JOURNAL).exists():
            shutil.rmtree(staging, ignore_errors=True)


def put_in_place(staging: Path, target: Path, tree: FileTree, names: Sequence[str]) -> None:
    """Renames files of ``tree``, which is staged, over those of ``target``, in the order of ``names``.

    Should that fail or be interrupted, what was done is taken back: at once, or by the next writer if this process is
    killed. Directories that are watched are never replaced, and none is written to that is a symbolic link. Raises
    `OutputError`.
    """
    for name in names:
        _check_within(target, name)
    with translated(target):
        for name in names:
            _keep(target / name, staging / _KEPT / name)
        directories = [path.name for path in staging.iterdir() if path.is_dir() and path.name != _KEPT]
        missing = [name for name in directories if not (target / name).is_dir()]
        journal = _Journal({name: tree.files[name].digest for name in names}, missing)
        write(staging / _JOURNAL, json.dumps(asdict(journal)).encode(), 0o600)
        try:
            for name in missing:
                (target / name).mkdir(mode=stat.S_IMODE((staging / name).stat().st_mode))
            for name in names:
                (staging / name).replace(target / name)
            (staging / _JOURNAL).unlink()
        except BaseException:
            _take_back(target)
            raise


@dataclass(frozen=True)
class _Journal:
    """What is about to be done, written down before it is."""

    files: Mapping[str, str | None] = field(default_factory=dict)
    """Names and digests of the new files."""
    directories: Sequence[str] = ()
    """Directories to be made for them."""

    @classmethod
    def read(cls, staging: Path) -> _Journal:
        # Whoever owns the directory may have written it: what leads out of it, or makes no sense, is not ours.
        try:
            journal = json.loads((staging / _JOURNAL).read_bytes())
            files, directories = dict(journal["files"]), [*journal["directories"]]
            for name in (f"{STAGING}/{_JOURNAL}", *files, *directories):
                _check_within(staging.parent, name)
                _check_within(staging, f"{_KEPT}/{name}")
        except (FileNotFoundError, NotADirectoryError, ValueError, TypeError, KeyError, RecursionError, OutputError):
            return cls()  # half a journal: nothing was done yet
        return cls({name: digest for name, digest in files.items() if isinstance(digest, str)}, directories)


def _check_within(directory: Path, name: str) -> None:
    """Raises `OutputError` where a file of this name would be somewhere else than in ``directory``."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or not path.parts or "\0" in name:
        raise OutputError(f"{directory}: no file in it has the name {name!r}")
    for parent in path.parents:
        if (directory / parent).is_symlink() and parent.parts:
            raise OutputError(f"{directory / parent} is a symbolic link, so nothing is written through it")


def _fill(staging: Path, tree: FileTree) -> None:
    staging.mkdir(mode=0o700)
    for name, mode in tree.directories.items():
        (staging / name).mkdir(mode=mode)
    for name, file in tree.files.items():
        write(staging / name, file.content, file.mode)


def _keep(file: Path, kept: Path) -> None:
    """A second name for the present file (or symbolic link), so that it can come back."""
    if os.path.lexists(file) and (file.is_symlink() or not file.is_dir()):
        kept.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(file, kept, follow_symlinks=False)
        except OSError:  # not every file system has hard links
            shutil.copy2(file, kept, follow_symlinks=False)


def _take_back(target: Path) -> None:
    """Undoes what the journal tells of; without one, nothing was put in place, or all of it was.

    A file that is not the one that was put there is left alone: it is somebody else's by now.
    """
    staging = target / STAGING
    journal = _Journal.read(staging)
    for name, digest in journal.files.items():
        if _digest(target / name) == digest:
            if os.path.lexists(staging / _KEPT / name):
                (staging / _KEPT / name).replace(target / name)
            else:
                (target / name).unlink()
    for directory in journal.directories:
        with contextlib.suppress(OSError):  # not empty any more, or never made
            (target / directory).rmdir()
    (staging / _JOURNAL).unlink(missing_ok=True)


def _digest(file: Path) -> str | None:
    try:
        return sha256(file.read_bytes()).hexdigest()
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        return None


def _make_directory(target: Path, mode: int) -> list[Path]:
    """Makes a directory and those above it; returns the ones that were missing, outermost first."""
    with translated(target):
        missing = [path for path in (target, *target.parents) if not path.exists()][::-1]
        target.mkdir(mode=mode, parents=True, exist_ok=True)
    return missing

"""A tree of files that is completed beside the present one, then put in its place file by file."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from hashlib import file_digest
from pathlib import Path, PurePosixPath
from typing import Final

from sidestep.errors import OutputError
from sidestep.files.writing import Output, locked, new_file, translated, write

STAGING: Final = ".sidestep-staging"
"""Directory inside the target in which new files are completed; one that is left over tells of an interrupted write."""

_KEPT: Final = ".replaced"
"""Inside it: the files that were there before."""
_JOURNAL: Final = ".journal"
"""Inside it, as long as files are being put in place: which, with digests."""


@dataclass(frozen=True)
class File:
    """What a file is to hold, and its mode."""

    write: Callable[[Output], object] = field(repr=False)
    """Writes the content, the same at every call. All of it need never be in memory at once."""
    mode: int = 0o644

    @classmethod
    def of(cls, content: bytes, mode: int = 0o644) -> File:
        """A file that holds ``content``."""
        return cls(lambda output: output.write(content), mode)


@dataclass(frozen=True)
class Manifest:
    """A file that tells the digests of all others in its tree."""

    name: str
    content: Callable[[Mapping[str, str]], bytes] = field(repr=False)
    """Of the digests (SHA-256, in hexadecimal) by path."""


@dataclass(frozen=True)
class FileTree:
    """Files by path (relative, with ``/``), and directories with their modes."""

    files: Mapping[str, File]
    directories: Mapping[str, int] = field(default_factory=dict)
    manifest: Manifest | None = None


@dataclass(frozen=True)
class Staged:
    """A tree that is written down, and not in its place yet."""

    directory: Path
    digests: Mapping[str, str]
    """Of each file, by path: SHA-256, in hexadecimal. Those of the tree in its order, then the manifest."""


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
def staged(tree: FileTree, target: Path) -> Iterator[Staged]:
    """Writes ``tree`` completely into a staging directory inside ``target``.

    Nothing that was in ``target`` is touched; afterwards the staging directory is gone. Only to be used within
    `exclusive`. Raises `OutputError`.
    """
    staging = target / STAGING
    try:
        with translated(target):
            digests = _fill(staging, tree)
        yield Staged(staging, digests)
    finally:
        if not (staging / _JOURNAL).exists():
            shutil.rmtree(staging, ignore_errors=True)


def put_in_place(made: Staged, target: Path, names: Sequence[str]) -> None:
    """Renames files of a tree that is staged over those of ``target``, in the order of ``names``.

    Should that fail or be interrupted, what was done is taken back: at once, or by the next writer if this process is
    killed. Directories that are watched are never replaced, and none is written to that is a symbolic link. Raises
    `OutputError`.
    """
    staging = made.directory
    for name in names:
        _check_within(target, name)
    with translated(target):
        for name in names:
            _keep(target / name, staging / _KEPT / name)
        directories = [path.name for path in staging.iterdir() if path.is_dir() and path.name != _KEPT]
        missing = [name for name in directories if not (target / name).is_dir()]
        journal = _Journal({name: made.digests[name] for name in names}, missing)
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


def _fill(staging: Path, tree: FileTree) -> dict[str, str]:
    staging.mkdir(mode=0o700)
    for name, mode in tree.directories.items():
        (staging / name).mkdir(mode=mode)
    digests = {name: write_file(staging / name, file) for name, file in tree.files.items()}
    if tree.manifest:
        content = tree.manifest.content(digests)
        digests[tree.manifest.name] = write_file(staging / tree.manifest.name, File.of(content))
    return digests


def write_file(path: Path, file: File) -> str:
    """Writes a new file, down to the disk; returns its digest. Never opens one that is there. Raises `OSError`."""
    with new_file(path, file.mode) as output:
        file.write(output)
        return output.digest


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
        with file.open("rb") as stream:
            return file_digest(stream, "sha256").hexdigest()
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        return None


def _make_directory(target: Path, mode: int) -> list[Path]:
    """Makes a directory and those above it; returns the ones that were missing, outermost first."""
    with translated(target):
        missing = [path for path in (target, *target.parents) if not path.exists()][::-1]
        target.mkdir(mode=mode, parents=True, exist_ok=True)
    return missing

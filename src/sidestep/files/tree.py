"""A tree of files that is completed beside the present one, then put in its place file by file."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from errno import ENOTDIR
from pathlib import Path, PurePosixPath
from typing import Final, NamedTuple

from sidestep.errors import OutputError
from sidestep.files.ownership import as_owner
from sidestep.files.reading import NotAFile, digest_of, read
from sidestep.files.writing import File, create, locked, translated

STAGING: Final = ".sidestep-staging"
"""Directory inside the target in which new files are completed; one that is left over tells of an interrupted write."""

_KEPT: Final = ".replaced"
"""Inside it: the files that were there before."""
_JOURNAL: Final = ".journal"
"""Inside it, as long as files are being put in place: which, with digests."""
_LONGEST_NAME: Final = 255
"""Bytes, on every usual file system."""
_UNCHANGED: Final = "What was there is unchanged."


@dataclass(frozen=True)
class Manifest:
    """A file that tells the digests of all others in its tree."""

    name: str
    content: Callable[[Mapping[str, str]], bytes] = field(repr=False)
    """Of the digests (SHA-256, in hexadecimal) by path."""


@dataclass(frozen=True, eq=False)
class FileTree:
    """Files by path (relative, with ``/``), and directories with their modes."""

    files: Mapping[str, File]
    directories: Mapping[str, int] = field(default_factory=dict)
    manifest: Manifest | None = None


class Staged(NamedTuple):
    """A tree that is written down, and not in its place yet."""

    directory: Path
    directories: Mapping[str, int]
    digests: Mapping[str, str]
    """Of each file, by path: SHA-256, in hexadecimal. Those of the tree in its order, then the manifest."""


@contextlib.contextmanager
def exclusive(target: Path) -> Iterator[None]:
    """Keeps other writers out of the directory ``target``, and takes back what an interrupted one left half done.

    Root works there as the directory's owner (`as_owner`). Where there is no such directory it is made, and goes again
    if all fails. Raises `OutputError`, also where another process is writing there.
    """
    created: list[Path] = []
    with as_owner(target):
        with translated(target, _UNCHANGED), _removed_again(created):
            _make_directory(target, created)
        with locked(target), _removed_again(created):  # never before it is locked: another writer may count on it
            with translated(target):
                _check_staging(target / STAGING)
                _take_back(target)
                shutil.rmtree(target / STAGING, ignore_errors=True)
            yield


@contextlib.contextmanager
def _removed_again(directories: Sequence[Path]) -> Iterator[None]:
    """Takes new directories away where something fails, as far as they are empty."""
    try:
        yield
    except BaseException:
        for directory in reversed(directories):
            with contextlib.suppress(OSError):
                directory.rmdir()
        raise


@contextlib.contextmanager
def staged(tree: FileTree, target: Path, others: Mapping[str, str] | None = None) -> Iterator[Staged]:
    """Writes ``tree`` completely into a staging directory inside ``target``.

    ``others`` are the digests of files in ``target`` that the manifest is to tell, too. Nothing that was in ``target``
    is touched; afterwards the staging directory is gone. Only to be used within `exclusive`. Raises `OutputError`.
    """
    staging = target / STAGING
    try:
        with translated(target, _UNCHANGED):
            digests = _fill(staging, tree, others or {})
        yield Staged(staging, tree.directories, digests)
    finally:
        if not (staging / _JOURNAL).exists():
            shutil.rmtree(staging, ignore_errors=True)


@contextlib.contextmanager
def in_place(made: Staged, target: Path, names: Sequence[str], stale: Sequence[str] = ()) -> Iterator[None]:
    """Renames files of a staged tree over those of ``target``, in the order of ``names``; removes those in ``stale``.

    Should that fail or be interrupted, or something within the block, what was done is taken back: at once, or by the
    next writer if this process is killed. Directories that are watched are never replaced, and none is written to that
    is a symbolic link. Raises `OutputError`.
    """
    staging = made.directory
    for name in (*names, *stale):
        _check_within(target, name)
    with translated(target, _UNCHANGED):
        missing = [name for name in made.directories if _is_missing(target / name)]
        for name in (*names, *stale):
            _keep(target / name, staging / _KEPT / name)
        journal = _Journal({**{name: made.digests[name] for name in names}, **dict.fromkeys(stale)}, missing)
        create(staging / _JOURNAL, File.of(json.dumps(asdict(journal)).encode(), 0o600))
    try:
        with translated(target, _UNCHANGED):
            for name in missing:
                _make(target / name, made.directories[name])
            for name in names:
                (staging / name).replace(target / name)
            for name in stale:
                (target / name).unlink()
        yield
        with translated(target, _UNCHANGED):
            (staging / _JOURNAL).unlink()
    except BaseException:
        with translated(target):
            _take_back(target)
        raise
    for name in stale:
        if (parent := (target / name).parent) != target and parent.name not in made.directories:
            with contextlib.suppress(OSError):  # something else is in it
                parent.rmdir()


@dataclass(frozen=True)
class _Journal:
    """What is about to be done, written down before it is."""

    files: Mapping[str, str | None] = field(default_factory=dict)
    """Names and digests of the new files; None for those that are to go."""
    directories: Sequence[str] = ()
    """Directories to be made for them."""

    @classmethod
    def read(cls, staging: Path) -> _Journal:
        # Whoever owns the directory may have written it: what leads out of it, or makes no sense, is not ours.
        try:
            journal = json.loads(read(staging / _JOURNAL))
            files, directories = dict(journal["files"]), [*journal["directories"]]
            for name in (f"{STAGING}/{_JOURNAL}", *files, *directories):
                _check_within(staging.parent, name)
                _check_within(staging, f"{_KEPT}/{name}")
        except (FileNotFoundError, NotADirectoryError, NotAFile, OutputError):
            return cls()
        except (ValueError, TypeError, KeyError, RecursionError):
            return cls()  # half a journal: nothing was done yet
        return cls(
            {name: digest for name, digest in files.items() if digest is None or isinstance(digest, str)}, directories
        )


def _check_within(directory: Path, name: str) -> None:
    """Raises `OutputError` where a file of this name would be somewhere else than in ``directory``, or nowhere."""
    path = PurePosixPath(name)
    parts = path.parts
    if not parts or path.is_absolute() or ".." in parts or "\0" in name or any(map(_is_no_name, parts)):
        raise OutputError(f"{directory}: no file in it has the name {name!r}")
    for parent in path.parents:
        if (directory / parent).is_symlink() and parent.parts:
            raise OutputError(f"{directory / parent} is a symbolic link, so nothing is written through it")


def _is_no_name(part: str) -> bool:
    try:
        return len(os.fsencode(part)) > _LONGEST_NAME
    except UnicodeEncodeError:
        return True


def _check_staging(staging: Path) -> None:
    if os.path.lexists(staging) and (staging.is_symlink() or not staging.is_dir()):
        raise OutputError(f"{staging} is no directory of ours", hint="Remove it.")


def _is_missing(directory: Path) -> bool:
    if os.path.lexists(directory) and not directory.is_dir():
        raise OutputError(f"{directory} is no directory, so it is not ours to replace")
    return not directory.exists()


def _make(directory: Path, mode: int) -> None:
    directory.mkdir(mode=mode)
    directory.chmod(mode)  # whatever the umask says, as for files


def _fill(staging: Path, tree: FileTree, others: Mapping[str, str]) -> dict[str, str]:
    staging.mkdir(mode=0o700)
    for name, mode in tree.directories.items():
        _make(staging / name, mode)
    digests = {name: create(staging / name, file) for name, file in tree.files.items()}
    if tree.manifest:
        content = tree.manifest.content({**others, **digests})
        digests[tree.manifest.name] = create(staging / tree.manifest.name, File.of(content))
    return digests


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
        if _is_as_put(target / name, digest):
            if os.path.lexists(staging / _KEPT / name):
                (staging / _KEPT / name).replace(target / name)
            elif digest:
                (target / name).unlink()
    for directory in journal.directories:
        with contextlib.suppress(OSError):  # not empty any more, or never made
            (target / directory).rmdir()
    if not (staging / _JOURNAL).is_dir():
        (staging / _JOURNAL).unlink(missing_ok=True)


def _is_as_put(file: Path, digest: str | None) -> bool:
    if digest is None:
        return not os.path.lexists(file)
    try:
        return digest_of(file) == digest
    except (FileNotFoundError, NotADirectoryError, NotAFile):
        return False


def _make_directory(target: Path, created: list[Path]) -> None:
    """Makes a directory and those above it; adds those that were missing to ``created``, outermost first."""
    for path in [path for path in (target, *target.parents) if not path.exists()][::-1]:
        path.mkdir(mode=0o755, exist_ok=True)
        created.append(path)
    if not target.is_dir():
        raise NotADirectoryError(ENOTDIR, os.strerror(ENOTDIR), str(target))

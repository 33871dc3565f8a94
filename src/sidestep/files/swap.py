"""A set of files that changes as one, in the way Kubernetes mounts secrets."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from sidestep.errors import OutputError
from sidestep.files.ownership import as_owner
from sidestep.files.reading import NotAFile, read
from sidestep.files.writing import File, create, locked, translated

if TYPE_CHECKING:
    from collections.abc import Mapping

_CURRENT = "..data"
_VERSION = "..version-"
_LINK = "..link-"
_PATIENCE = 60.0
"""Seconds to wait for other writers."""


def write_set(directory: Path, contents: Mapping[str, bytes], *, mode: int = 0o600) -> None:
    """Put ``contents`` (name → bytes) into ``directory`` so that a reader sees the old set or the new, never a mixture.

    As Kubernetes mounts secrets: ``NAME → ..data/NAME``, ``..data → ..version-…``, and the swap is one rename of
    ``..data`` within the directory, which is also what a watching Envoy reloads at. Plain files of these names are
    adopted first: their own bytes become the first version, so that turning them into links changes nothing that a
    reader sees. Names of the last set that are not in this one go; other files are left alone.

    Files get ``mode``, their directory 0700. Root works as the owner of ``directory`` (`as_owner`), who must be able to
    read them, and to renew them without root. Writers wait for one another, a minute at most. Raises `OutputError` when
    something cannot be written or is not ours to replace; the set in place is then still whole.
    """
    _check_names(contents)
    with as_owner(directory), translated(directory):
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        with locked(directory, wait=_PATIENCE):
            with translated(directory, "What was there is unchanged."):
                _check_replaceable(directory, contents)
                _adopt(directory, [name for name in contents if _is_foreign(directory, name)], mode)
                _swap(directory, contents, mode)
            for name in contents:
                _link(directory, name, f"{_CURRENT}/{name}")
            _remove_stale(directory, contents)


def _check_names(contents: Mapping[str, bytes]) -> None:
    for name in contents:
        if not name or name.startswith("..") or name == "." or "/" in name or "\0" in name:
            raise OutputError(f"not the name of a file in a set: {name!r}")


def _check_replaceable(directory: Path, contents: Mapping[str, bytes]) -> None:
    current = directory / _CURRENT
    if os.path.lexists(current) and not current.is_symlink():
        raise OutputError(f"{current} is not a symbolic link, so it is not ours to replace")
    for path in (directory / name for name in contents):
        if path.is_dir():
            raise OutputError(f"{path} is a directory, so it is not ours to replace")


def _is_foreign(directory: Path, name: str) -> bool:
    path = directory / name
    return path.exists() and not _is_ours(path)


def _is_ours(path: Path) -> bool:
    return path.is_symlink() and path.readlink() == Path(_CURRENT, path.name)


def _adopt(directory: Path, names: list[str], mode: int) -> None:
    if not names:
        return
    linked = [path.name for path in directory.iterdir() if _is_ours(path) and path.exists()]
    try:
        present = {name: read(directory / name) for name in [*linked, *names]}
    except NotAFile as problem:
        raise OutputError(f"{problem.filename} is no file, so it is not ours to replace") from problem
    _swap(directory, present, mode)
    for name in names:
        _link(directory, name, f"{_CURRENT}/{name}")


def _swap(directory: Path, contents: Mapping[str, bytes], mode: int) -> None:
    version = Path(tempfile.mkdtemp(prefix=_VERSION, dir=directory))
    try:
        for name, content in contents.items():
            create(version / name, File.of(content, mode))
        _link(directory, _CURRENT, version.name)
    except BaseException:
        shutil.rmtree(version, ignore_errors=True)
        raise


def _link(directory: Path, name: str, target: str) -> None:
    """Make ``name`` a link to ``target`` by renaming a new link over whatever has the name; nothing where it is one."""
    path, fresh = directory / name, directory / f"{_LINK}{name.lstrip('.')}"
    if path.is_symlink() and path.readlink() == Path(target):
        return
    fresh.unlink(missing_ok=True)
    fresh.symlink_to(target)
    fresh.replace(path)


def _remove_stale(directory: Path, contents: Mapping[str, bytes]) -> None:
    current = (directory / _CURRENT).readlink().name
    for path in directory.iterdir():
        if path.name.startswith(_VERSION) and path.name != current:
            shutil.rmtree(path, ignore_errors=True)
        elif path.name.startswith(_LINK) or (_is_ours(path) and path.name not in contents):
            path.unlink()

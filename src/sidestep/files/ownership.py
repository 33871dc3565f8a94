"""Root at work where another user may be at work, too: as that user, so that no trick of theirs gains them anything."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from sidestep.errors import OutputError


def foreign_owners(path: Path) -> dict[int, os.stat_result]:
    """Users, but for root and ourselves, who own something on the way to ``path``: directories, links, itself."""
    if sys.platform == "win32":
        return {}
    way = path.absolute()
    found: dict[int, os.stat_result] = {}
    nobody_else = {0, os.geteuid(), _without_number()}
    for status in (*_statuses(way), *_statuses(Path(os.path.realpath(way)))):
        if status.st_uid not in nobody_else:
            found[status.st_uid] = status
    return found


def _without_number() -> int | None:
    """Whom a user namespace shows in place of all that it has no number for: the host's root among them."""
    try:
        if Path("/proc/self/uid_map").read_text(encoding="ascii").split() == ["0", "0", str(2**32 - 1)]:
            return None
        return int(Path("/proc/sys/kernel/overflowuid").read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None


def _statuses(way: Path) -> Iterator[os.stat_result]:
    """Of each place on a way, as far as there is one."""
    with suppress(OSError):
        for place in (*reversed(way.parents), way):
            yield place.lstat()


@contextmanager
def as_owner(path: Path) -> Iterator[None]:
    """Within, root is who owns the way to ``path``, and so can do there what that user could do, and nothing else.

    It holds for every thread of the process. For others than root, and where all of the way is root's, nothing changes.
    Raises `OutputError` where several users own parts of it, or root cannot become that user.
    """
    if sys.platform == "win32" or os.geteuid() != 0 or not (owners := foreign_owners(path)):
        yield
        return
    if len(owners) > 1:
        users = " and ".join(map(str, sorted(owners)))
        raise OutputError(f"{path}: the way there belongs to several users ({users})", hint="Run it as one of them.")
    [owner] = owners.values()
    before = os.getgroups(), os.getegid()
    try:
        _become([owner.st_gid], owner.st_gid, owner.st_uid)
    except OSError as error:
        with suppress(OSError):
            _become(*before, 0)
        raise OutputError(f"{path} belongs to user {owner.st_uid}, whom root cannot become here") from error
    try:
        yield
    finally:
        os.seteuid(0)
        _become(*before, 0)


def _become(groups: list[int], group: int, user: int) -> None:
    os.setgroups(groups)
    os.setegid(group)
    os.seteuid(user)

"""Unix-domain sockets as local addresses: written ``unix:PATH``, with a mode of their own."""

from __future__ import annotations

import re
from posixpath import normpath
from typing import Annotated, Final, Literal, NamedTuple, TypeAlias

from sidestep.spec.checked import checked
from sidestep.spec.scalars import Listen, parse_listen

NONE: Final = "none"
OWNER_ONLY: Final = 0o600
MAX_PATH: Final = 100
"""Bytes. The kernel takes 107 on Linux and 103 on macOS."""

_PREFIX: Final = "unix:"
_RELATIVE = re.compile(r"\./[A-Za-z0-9_][-A-Za-z0-9_.]*\.sock")
_RESERVED: Final = frozenset({"./admin.sock"})
_ABSOLUTE = re.compile(r"/[^/ ][^ ]*")


class UnixSocket(NamedTuple):
    """A socket in the file system to listen on."""

    path: str
    """Absolute, or ``./NAME.sock`` in the bundle's directory."""
    mode: int = OWNER_ONLY
    """Who may connect: whoever may write to the file."""

    def __str__(self) -> str:
        return f"{_PREFIX}{self.path}"

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach it: always."""
        return True

    @property
    def is_in_bundle(self) -> bool:
        """Whether it is in the bundle's own directory."""
        return self.path.startswith("./")


LocalAddress: TypeAlias = Listen | UnixSocket


def parse_local(value: object) -> LocalAddress:
    """What `ListenOn` allows. Raises `ValueError`."""
    if type(value) is str and value.startswith(_PREFIX):
        return UnixSocket(_path(value.removeprefix(_PREFIX)))
    return parse_listen(value)


def _path(path: str) -> str:
    if len(path.encode(errors="surrogateescape")) > MAX_PATH:
        raise ValueError("the path is too long for a socket")
    if path.startswith("./"):
        # Envoy unlinks whatever has the socket's name, so no file of a bundle may have it.
        if path in _RESERVED or not _RELATIVE.fullmatch(path):
            raise ValueError("not a free name in the bundle's directory")
    # POSIX leaves two slashes at the beginning as they are, so `normpath` does, too.
    elif not _ABSOLUTE.fullmatch(path) or normpath(path) != path or not path.isprintable():
        raise ValueError("not an absolute path in its shortest form")
    return path


def _egress(value: object) -> LocalAddress | str:
    return NONE if value == NONE else parse_local(value)


def _mode(value: object) -> int:
    if type(value) is str and re.fullmatch(r"0?[67][0-7]{2}", value):
        return int(value, 8)
    raise ValueError("not a mode in quotes" if isinstance(value, int) else "")


_WHERE: Final = "an IP address and a port (127.0.0.1:9080, [::1]:9080), unix:/PATH, unix:./NAME.sock"

ListenOn = Annotated[LocalAddress, checked(parse_local, _WHERE)]
ListenOnOrNone = Annotated[LocalAddress | Literal["none"], checked(_egress, f"{_WHERE}, or none")]
SocketMode = Annotated[
    int,
    checked(
        _mode,
        'a mode in quotes, such as "0660", in which the owner may read and write',
        {"type": "string", "pattern": "^0?[67][0-7]{2}$"},
    ),
]

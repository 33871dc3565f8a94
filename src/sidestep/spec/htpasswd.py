"""User names and passwords as a proxy is to check them: an htpasswd file of the one form that Envoy reads.

Envoy's ``basic_auth`` takes ``{SHA}`` alone, and refuses a whole listener for any other line.
"""

from __future__ import annotations

import re
from typing import Final

ALLOWED: Final = "lines of htpasswd -s: NAME:{SHA}HASH"
MOST: Final = 1024 * 1024
"""Bytes of a file that is still read."""
_LINE = re.compile(r"(?P<name>[!-9;-~]{1,255}):(?P<hash>.*)")
_SHA = re.compile(r"\{SHA\}[A-Za-z0-9+/]{27}=")
_OTHERS: Final = {"$2": "bcrypt", "$apr1$": "MD5", "$5$": "SHA-256", "$6$": "SHA-512", "$1$": "MD5"}


def normal(content: bytes) -> bytes:
    """The file as Envoy takes it: without comments and empty lines. Raises `ValueError`, never showing a password."""
    users: dict[str, str] = {}
    for number, line in enumerate(_text(content).splitlines(), 1):
        if line.strip() and not line.startswith("#"):
            name, hashed = _user(line.strip(), number)
            if name in users:
                raise ValueError(f"line {number}: the user {name} is already listed")
            users[name] = hashed
    if not users:
        raise ValueError("the file names no user")
    return "".join(f"{name}:{hashed}\n" for name, hashed in users.items()).encode()


def _text(content: bytes) -> str:
    if len(content) > MOST:
        raise ValueError("the file is too large")
    try:
        return content.decode("ascii")
    except UnicodeDecodeError:
        raise ValueError("the file holds other characters than ASCII") from None


def _user(line: str, number: int) -> tuple[str, str]:
    parts = _LINE.fullmatch(line)
    if parts is None:
        raise ValueError(f"line {number}: not NAME:{{SHA}}HASH")
    if not _SHA.fullmatch(parts["hash"]):
        raise ValueError(f"line {number}: the password of {parts['name']} is {_kind(parts['hash'])}")
    return parts["name"], parts["hash"]


def _kind(hashed: str) -> str:
    other = next((name for prefix, name in _OTHERS.items() if hashed.startswith(prefix)), "")
    return f"hashed by {other}, which Envoy cannot read" if other else "no {SHA} hash"

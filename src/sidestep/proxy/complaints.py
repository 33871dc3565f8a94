"""What matters in an Envoy's log, without the configuration that it repeats in full."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

_ENTRY = re.compile(r"^\[\d{4}-\d\d-\d\d [\d:.]+\]\[\d+\]\[(\w+)\]\[(\w+)\] (?:\[[^\]\n]*\] )?", re.MULTILINE)
_DEBUG_DUMP = re.compile(r"goo\.gle/debug\w+.*\n: ", re.DOTALL)
_DEBUG_MARK = re.compile(r"goo\.gle/debug\w+\s*")
_JSON_DUMP = re.compile(r"(Unable to parse JSON as proto \(.*?\)): *[{\[].*", re.DOTALL)
_PREFIX = re.compile(r"^error initializing configuration '[^']*': ")

_CRASH = "backtrace"
"""The logger of a crash's addresses."""
_LONGEST = 700
_TAIL = 256 * 1024
_MOST = 3


def essential(log: str) -> str:
    """The last three different entries of the gravest level in ``log``, one a line, each at most 700 characters.

    A crash's addresses, which come last, are left out where anything else of that level says what it was about.
    Without entries of level warning or above (a crash, say) the last lines as they are.
    """
    entries = _entries(log)
    for gravest in ("critical", "error", "warning"):
        of_level = [(logger, text) for level, logger, text in entries if level == gravest]
        telling = [text for logger, text in of_level if logger != _CRASH] or [text for _, text in of_level]
        grave = dict.fromkeys(_shortened(text) for text in telling)
        if grave:
            return "\n".join(list(grave)[-_MOST:])
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    return "\n".join(_truncated(line) for line in lines[-_MOST:])


def essential_of(path: Path, offset: int = 0) -> str:
    """`essential` of the log file at ``path`` from byte ``offset`` on, its last 256 KiB; "" if there is none."""
    try:
        with path.open("rb") as file:
            file.seek(max(offset, path.stat().st_size - _TAIL))
            return essential(file.read().decode("utf-8", "replace"))
    except OSError:
        return ""


def _entries(log: str) -> list[tuple[str, str, str]]:
    """Level, logger and text of each entry."""
    heads = list(_ENTRY.finditer(log))
    ends = [*(head.start() for head in heads[1:]), len(log)]
    return [(head[1], head[2], log[head.end() : end]) for head, end in zip(heads, ends, strict=False)]


def _shortened(text: str) -> str:
    text = _DEBUG_MARK.sub("", _JSON_DUMP.sub(r"\1", _DEBUG_DUMP.sub("", text)))
    return _truncated(_PREFIX.sub("", " ".join(text.split())))


def _truncated(text: str) -> str:
    half = _LONGEST // 2 - 3
    return text if len(text) <= _LONGEST else f"{text[:half]} […] {text[-half:]}"

"""Every error that Sidestep raises on purpose.

::

    SidestepError                   exit code
    ├── SpecError                   3   the documents say something that cannot be done; lists every problem found
    ├── EnvoyError                  4   no usable Envoy
    │   ├── EnvoyNotFound           4     none was found, or the one named is not there
    │   ├── EnvoyUnsupported        4     it is too old
    │   ├── EnvoyRejected           5     it refuses the configuration that we made
    │   └── EnvoyStopped            5     it ended, or never became ready
    ├── OutputError                 6   files cannot be written, or are not ours to replace
    │   └── OutputRefused           6     standard output takes nothing more
    ├── CertificateError            7   a certificate, key or CA cannot be read, made or trusted
    ├── MissingDependency           8   an optional package is not installed
    ├── CommandNotExecutable        126 the command of `sidestep exec` cannot be run
    ├── CommandNotFound             127 there is no such command
    └── Unfulfilled                 1   everything ran, and the answer is no: of the lab, or of a service that was asked

A user's mistake never shows a traceback. The command line prints ``str(error)`` and, on a line of its own, ``hint``;
whatever is not a `SidestepError` is our bug (exit code 70).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

_SHOWN_PROBLEMS: Final = 100


def printable(text: str) -> str:
    """The text with control characters escaped, so that it stays on its line."""
    return text if text.isprintable() else "".join(c if c.isprintable() else _escape(c) for c in text)


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode()


class SidestepError(Exception):
    """The root. ``hint`` says what to do about it, where we know."""

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class Problem(NamedTuple):
    """One thing that is wrong in a document, and where."""

    file: str
    line: int
    """1-based; 0 where the file as a whole is meant."""
    column: int
    field: str
    """Path of the field, such as ``spec.egress[0].port``; empty for a document as a whole."""
    found: str
    allowed: str
    message: str
    """One sentence; ``found`` and ``allowed`` are not repeated in it."""

    def __str__(self) -> str:
        file = printable(self.file)
        place = f"{file}:{self.line}:{self.column}" if self.line else file
        parts = [f"{place}: ", f"{self.field}: " if self.field else "", self.message]
        details = [f"found {self.found}"] if self.found else []
        details += [f"allowed: {self.allowed}"] if self.allowed else []
        return "".join(parts) + (f" ({'; '.join(details)})" if details else "")

    def as_dict(self) -> dict[str, str | int]:
        """The problem for programs, one key a field."""
        return self._asdict()


class SpecError(SidestepError):
    """The documents cannot be used. ``problems`` is all that is wrong, by file and line; the message, the first 100."""

    exit_code = 3

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(sorted(set(problems)))
        lines, more = (
            [str(problem) for problem in self.problems[:_SHOWN_PROBLEMS]],
            len(self.problems) - _SHOWN_PROBLEMS,
        )
        hint = "`sidestep validate -o json` lists every problem." if more > 0 else ""
        super().__init__("\n".join([*lines, f"… and {more:,} more"] if more > 0 else lines), hint=hint)


class EnvoyError(SidestepError):
    """There is no usable Envoy."""

    exit_code = 4


class EnvoyNotFound(EnvoyError):
    """No Envoy was found, or the one that was named is not there."""


class EnvoyUnsupported(EnvoyError):
    """The Envoy that was found is too old."""


class EnvoyRejected(EnvoyError):
    """Envoy refuses a configuration that we made. The files in place were not touched."""

    exit_code = 5


class EnvoyStopped(EnvoyError):
    """An Envoy ended by itself, or did not become ready in time."""

    exit_code = 5


class OutputError(SidestepError):
    """Files cannot be written, or are not ours to replace."""

    exit_code = 6


class OutputRefused(OutputError):
    """Standard output takes nothing more."""


class CertificateError(SidestepError):
    """A certificate, key or CA cannot be read, made or trusted."""

    exit_code = 7


class MissingDependency(SidestepError):
    """A package that belongs to an extra is not installed."""

    exit_code = 8


class CommandNotExecutable(SidestepError):
    """The command that was to be run cannot be run. The exit code is that of shells and of env(1)."""

    exit_code = 126


class CommandNotFound(SidestepError):
    """There is no such command. The exit code is that of shells and of env(1)."""

    exit_code = 127


class Unfulfilled(SidestepError):
    """Everything ran, and the answer is no."""

"""What the user sees: text for people, JSON for programs, one line for an error."""

from __future__ import annotations

import os
import sys
import tempfile
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from sidestep.errors import SidestepError, SpecError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

EXIT_CODES: Final[Mapping[int, str]] = {
    0: "done",
    1: "everything ran, and the answer is no: a scenario of the lab did not hold",
    2: "wrong arguments",
    3: "a document is wrong",
    4: "no usable Envoy",
    5: "Envoy refused the configuration, or stopped",
    6: "files cannot be written, or are not ours to replace",
    7: "a certificate, key or CA is wrong",
    8: "an optional package is missing",
    70: "a bug of ours",
    130: "interrupted",
}
_SHOWN_ROWS: Final = 40


class Terminal:
    """Where a command prints. Standard output is for results, standard error for everything about them."""

    def __init__(self) -> None:
        self.json = False
        self.color: bool | None = False if os.environ.get("NO_COLOR") else None

    def say(self, text: str = "") -> None:
        """A line of the result, for people only."""
        if not self.json:
            click.echo(text, color=self.color)

    def remark(self, text: str) -> None:
        """A line beside the result: progress, a warning."""
        click.echo(text, err=True, color=self.color)

    def warn(self, warnings: Iterable[str]) -> None:
        """Warnings, a line each."""
        for warning in warnings:
            self.remark(f"{click.style('warning:', fg='yellow')} {warning}")

    def answer(self, value: object) -> None:
        """The result as one JSON object, for programs only."""
        if self.json:
            import json  # which, unlike orjson, takes file names that are no Unicode

            click.echo(json.dumps(value, indent=2))

    def table(self, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Rows under heads, for people only; the first forty of them."""
        shown = [heads, *rows[:_SHOWN_ROWS]]
        widths = [max(len(row[column]) for row in shown) for column in range(len(heads))]
        for index, row in enumerate(shown):
            line = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            self.say(click.style(line, bold=True) if index == 0 else line)
        if len(rows) > _SHOWN_ROWS:
            self.say(f"… and {len(rows) - _SHOWN_ROWS:,} more")

    def fail(self, error: BaseException) -> int:
        """Prints an error that ended the command and returns the exit code."""
        if isinstance(error, click.exceptions.Exit):
            return error.exit_code
        if isinstance(error, click.ClickException):
            error.show()
            return error.exit_code
        if isinstance(error, (click.Abort, KeyboardInterrupt)):
            self.remark("interrupted")
            return 130
        if isinstance(error, BrokenPipeError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0
        if isinstance(error, SystemExit):
            return error.code if isinstance(error.code, int) else 1
        return self._ours(error) if isinstance(error, SidestepError) else self._bug(error)

    def _ours(self, error: SidestepError) -> int:
        if self.json:
            problems = [problem.as_dict() for problem in error.problems] if isinstance(error, SpecError) else []
            details = {"message": str(error), "hint": error.hint, "problems": problems, "exit_code": error.exit_code}
            self.answer({"ok": False, "error": details})
        else:
            self.remark(f"{click.style('error:', fg='red')} {error}")
            if error.hint:
                self.remark(f"{click.style('hint:', fg='cyan')} {error.hint}")
        return error.exit_code

    def _bug(self, error: BaseException) -> int:
        with tempfile.NamedTemporaryFile("w", prefix="sidestep-", suffix=".log", delete=False) as log:
            log.writelines(traceback.format_exception(error))
        message = f"this is a bug of ours ({type(error).__name__}); the details are in {Path(log.name)}"
        self.remark(f"{click.style('error:', fg='red')} {message}")
        return 70


def _format(ctx: click.Context, _parameter: click.Parameter, value: str) -> None:
    ctx.ensure_object(Terminal).json = value == "json"


def format_option(*names: str) -> Callable[[Any], Any]:
    """``-o json``: results for programs."""
    return click.option(
        *(names or ("-o", "--format")),
        type=click.Choice(["text", "json"]),
        default="text",
        show_default=True,
        expose_value=False,
        is_eager=True,
        callback=_format,
        help="For people, or for programs.",
    )

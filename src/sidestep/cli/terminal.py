"""What the user sees: text for people, JSON for programs, one line for an error."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
import textwrap
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TextIO

import click

from sidestep.cli.output import discard
from sidestep.errors import OutputError, OutputRefused, SidestepError, SpecError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

EXIT_CODES: Final[Mapping[int, str]] = {
    0: "done",
    1: "everything ran, and the answer is no: of the lab, or of a service that was asked",
    2: "wrong arguments",
    3: "a document is wrong",
    4: "no usable Envoy",
    5: "Envoy refused the configuration, or stopped",
    6: "files cannot be written, or are not ours to replace",
    7: "a certificate, key or CA is wrong",
    8: "an optional package is missing",
    70: "a bug of ours",
    126: "the command of `exec` cannot be run",
    127: "there is no such command",
    130: "interrupted (Ctrl-C)",
    141: "nobody reads the output any more",
    143: "terminated",
}
_SHOWN_ROWS: Final = 40


class Terminal:
    """Where a command prints. Standard output is for results, standard error for everything about them."""

    def __init__(self, arguments: Sequence[str] = ()) -> None:
        """``arguments`` are those of the command line: they tell the form of an error that ends the reading of them."""
        self._arguments = arguments
        self._in_progress = False
        self._kept: tuple[object, ...] = ()
        self.json = False
        self.color: bool | None = False if os.environ.get("NO_COLOR") else None

    def keep(self, *values: object) -> None:
        """Keeps what is done with as long as this is kept: taking thousands of services apart takes its time, too."""
        self._kept = values

    def say(self, text: str = "") -> None:
        """A line of the result, for people only."""
        if not self.json:
            self.progress("")
            self._print(text)

    def remark(self, text: str) -> None:
        """A line beside the result: a warning, how things stand."""
        with suppress(OSError):  # whoever cannot be told so still gets the exit code
            self.progress("")
            click.echo(text, err=True, color=self.color)

    def progress(self, text: str) -> None:
        """What is being done now, where somebody watches; whatever is printed next takes its place."""
        if (text or self._in_progress) and _is_watched(sys.stderr) and os.environ.get("TERM") != "dumb":
            click.echo(f"\r\x1b[K{text[: self.width - 1]}", err=True, nl=False, color=True)
        self._in_progress = bool(text)

    def wrapped(self, text: str, *, indent: int) -> str:
        """``text`` with an indent, in lines that fit where somebody watches; else in one."""
        if not _is_watched(sys.stdout):
            return " " * indent + text
        prefix = " " * indent
        return textwrap.fill(text, self.width, initial_indent=prefix, subsequent_indent=prefix, break_on_hyphens=False)

    @property
    def width(self) -> int:
        """Columns of the terminal."""
        return shutil.get_terminal_size().columns

    def warn(self, warnings: Iterable[str]) -> None:
        """Warnings, a line each."""
        for warning in warnings:
            self.remark(f"{click.style('warning:', fg='yellow')} {warning}")

    def answer(self, value: object) -> None:
        """The result as one JSON object, for programs only."""
        if self.json:
            import json  # which, unlike orjson, takes file names that are no Unicode

            self._print(json.dumps(value, indent=2))

    def _print(self, text: str) -> None:
        click.echo(text, color=self.color)

    def table(self, heads: Sequence[str], rows: Sequence[Sequence[str]], *, most: int = _SHOWN_ROWS) -> None:
        """Rows under heads, for people only; the first forty of them unless said otherwise."""
        shown = [heads, *rows[:most]]
        widths = [max(len(row[column]) for row in shown) for column in range(len(heads))]
        for index, row in enumerate(shown):
            line = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            self.say(click.style(line, bold=True) if index == 0 else line)
        if len(rows) > most:
            self.say(f"… and {len(rows) - most:,} more")

    def fail(self, error: BaseException) -> int:
        """Prints an error that ended the command and returns the exit code."""
        try:
            return self._tell(error)
        except OutputRefused as refused:
            return self._tell(refused)

    def _tell(self, error: BaseException) -> int:
        if isinstance(error, OutputRefused):
            discard()
            self.json = False
        if isinstance(error, click.ClickException):
            return self._misused(error)
        if isinstance(error, (click.Abort, KeyboardInterrupt)):
            self.remark("interrupted")
            return 130
        if isinstance(error, SystemExit):
            return _exit_code(error)
        if isinstance(error, FileNotFoundError) and not _is_somewhere():
            error = OutputError("the working directory is gone", hint="Change to one that is there.")
        return self._ours(error) if isinstance(error, SidestepError) else self._bug(error)

    def _misused(self, error: click.ClickException) -> int:
        self.json = self.json or _asks_for_json(error, self._arguments)
        if self.json:
            usage = error.ctx.get_usage() if isinstance(error, click.UsageError) and error.ctx else ""
            self._answer_error(error.format_message(), usage, error.exit_code)
        else:
            with suppress(OSError):
                if sys.stderr:  # or it would go where results do
                    error.show()
        return error.exit_code

    def _ours(self, error: SidestepError) -> int:
        if self.json:
            problems = [problem.as_dict() for problem in error.problems] if isinstance(error, SpecError) else []
            self._answer_error(str(error), error.hint, error.exit_code, problems)
        else:
            self.remark(f"{click.style('error:', fg='red')} {error}")
            if error.hint:
                self.remark(f"{click.style('hint:', fg='cyan')} {error.hint}")
        return error.exit_code

    def _bug(self, error: BaseException) -> int:
        import tempfile
        import traceback

        trace = "".join(traceback.format_exception(error))
        message = f"this is a bug of ours ({type(error).__name__})"
        try:
            with tempfile.NamedTemporaryFile(prefix="sidestep-", suffix=".log", delete=False) as log:
                log.write(trace.encode("utf-8", "backslashreplace"))
            message = f"{message}; the details are in {Path(log.name)}"
        except OSError:  # no directory takes it
            self.remark(trace)
        if self.json:
            self._answer_error(message, "", 70)
        else:
            self.remark(f"{click.style('error:', fg='red')} {message}")
        return 70

    def _answer_error(self, message: str, hint: str, exit_code: int, problems: Sequence[object] = ()) -> None:
        details = {"message": message, "hint": hint, "problems": problems, "exit_code": exit_code}
        self.answer({"ok": False, "error": details})


def _is_watched(stream: TextIO | None) -> bool:
    """Whether it ends at a terminal; there is no stream where it was closed before the start."""
    return stream is not None and stream.isatty()


def start_command(bundle: Path) -> str:
    """What runs a bundle's Envoy, to be copied into a shell."""
    name = shlex.quote(f"./{bundle}" if str(bundle).startswith("-") else str(bundle))
    return f"cd {name} && envoy -c envoy.json --disable-hot-restart"


def _is_somewhere() -> bool:
    try:
        return bool(Path.cwd())
    except FileNotFoundError:
        return False


def _exit_code(end: SystemExit) -> int:
    """Click ends with 1 at a broken pipe, having seen to that nothing more is written; no command of ours does."""
    return end.code if isinstance(end.code, int) and end.code != 1 else 141


def _asks_for_json(error: click.ClickException, arguments: Sequence[str]) -> bool:
    """Whether the command line has ``-o json``, where an argument before it was wrong and it was never come to."""
    ctx = error.ctx if isinstance(error, click.UsageError) else None
    options = [option for option in ctx.command.params if option.callback is _format] if ctx else []
    names = [name for option in options for name in option.opts]
    spelt = [f"{name}=json" if name.startswith("--") else f"{name}json" for name in names]
    apart = [*pairwise(arguments)]
    return any(one in arguments for one in spelt) or any((name, "json") in apart for name in names)


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

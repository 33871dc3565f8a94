"""Names of files and directories on a command line."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

if TYPE_CHECKING:
    from os import PathLike


class _Named(click.Path):
    """One that is not empty. That is what an unset variable leaves, and `Path` takes it for the working directory."""

    def convert(self, value: str | PathLike[str], param: click.Parameter | None, ctx: click.Context | None) -> Any:  # noqa: ANN401  # as its base class says
        if value == "":
            self.fail("the name is empty (the working directory is .)", param, ctx)
        return super().convert(value, param, ctx)


PATH: Final = _Named(path_type=Path)
NAME: Final = _Named(readable=False)
"""As it is written: ``-`` means standard input where documents are read."""

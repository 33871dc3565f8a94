"""``sidestep completion``."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class


@click.command(short_help="Print the shell's completion script.")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print the shell's completion script.

    \b
    Examples:
      eval "$(sidestep completion bash)"                                   # this shell
      sidestep completion zsh > ~/.zfunc/_sidestep                         # for ever
      sidestep completion fish > ~/.config/fish/completions/sidestep.fish
    """
    completion_class = get_completion_class(shell)
    assert completion_class is not None
    click.echo(completion_class(ctx.find_root().command, {}, "sidestep", "_SIDESTEP_COMPLETE").source())

"""The command group: names and summaries here, each command in a module that is imported when it is called."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Final

import click

from sidestep import __version__
from sidestep.cli.terminal import EXIT_CODES, Terminal

if TYPE_CHECKING:
    from collections.abc import Mapping

COMMANDS: Final[Mapping[str, str]] = {
    "lab": "Start a mini mesh of real Envoys here and watch a machine call it.",
    "validate": "Check documents and show what they mean.",
    "render": "Write each workload's bundle: an ordinary Envoy directory.",
    "env": "Print the variables by which applications find a bundle's services.",
    "exec": "Run a command that finds a bundle's services.",
    "hosts": "Names for a bundle's services, in a hosts file.",
    "dns": "A small DNS server for the names of a bundle's services.",
    "ca": "A certificate authority for the mesh and for machines.",
    "transcode": "REST for gRPC services: see the routes, write OpenAPI, ask a server for its descriptors.",
    "schema": "Print the JSON Schema of the documents, for editors.",
    "completion": "Print the shell's completion script.",
}


class _LazyGroup(click.Group):
    """Knows its commands by name; importing one costs its libraries, and ``--version`` needs none of them."""

    def list_commands(self, _ctx: click.Context) -> list[str]:
        return [*COMMANDS]

    def get_command(self, _ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        command: click.Command = getattr(import_module(f"sidestep.cli.{name}"), name)
        return command

    def format_commands(self, _ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([*COMMANDS.items()])


def _no_color(ctx: click.Context, _parameter: click.Parameter, value: bool) -> None:
    if value:
        ctx.color = False
        ctx.ensure_object(Terminal).color = False


@click.command(
    cls=_LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    epilog="\b\nExit codes:\n" + "\n".join(f"  {code:>3}  {meaning}" for code, meaning in EXIT_CODES.items()),
)
@click.option(
    "--no-color",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_no_color,
    help="No colours (as NO_COLOR=1).",
)
@click.version_option(__version__, message="sidestep %(version)s")
def sidestep() -> None:
    """Put any machine into an Istio mesh without connecting it to istiod.

    \b
    See it work, all on this machine:
      sidestep lab
    \b
    Make a machine's bundle and run it:
      sidestep render mesh.yaml billing.yaml -o bundle/
      sidestep ca init ca/
      sidestep ca issue ca/ --bundle bundle/
      cd bundle && envoy -c envoy.json --disable-hot-restart
    """

"""``sidestep env``."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from sidestep.cli.paths import NAME
from sidestep.cli.terminal import Terminal, format_option

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_EXCEPT_MESH: Final = "only names of the mesh go through http_proxy: other http:// calls of this process get a 404"


def _sh(name: str, value: str) -> str:
    return f"export {name}='" + value.replace("'", "'\\''") + "'"


def _fish(name: str, value: str) -> str:
    return f"set -gx {name} '" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _powershell(name: str, value: str) -> str:
    """Typographic quotes end a string of PowerShell's, too, and doubled they stand for themselves."""
    return f"$env:{name} = '" + re.sub("(['\u2018\u2019\u201a\u201b])", r"\1\1", value) + "'"


SHELLS: Final[Mapping[str, Callable[[str, str], str]]] = {"sh": _sh, "fish": _fish, "powershell": _powershell}


@click.command(short_help="Print the variables by which applications find a bundle's services.")
@click.argument("sources", type=NAME, nargs=-1, required=True, metavar="BUNDLE|FILE…")
@click.option("--workload", metavar="[NAMESPACE/]NAME", help="Of several workloads in FILEs, this one.")
@click.option("--shell", type=click.Choice([*SHELLS]), default="sh", show_default=True, help="Whose syntax.")
@format_option()
@click.pass_obj
def env(terminal: Terminal, sources: tuple[str, ...], workload: str | None, shell: str) -> None:
    """Print the variables by which applications find the services of BUNDLE, or of what FILEs describe.

    SERVICE_NAMESPACE_PORT is a service's local address, with _URL after it a URL of it. Where the workload has a
    proxy, http_proxy and grpc_proxy name it; what no_proxy excepts already stays excepted, unless that is a name of
    the mesh.

    \b
    Examples:
      eval "$(sidestep env bundle/)"
      sidestep env bundle/ --shell fish | source
      sidestep env bundle/ --shell powershell | Out-String | Invoke-Expression
      sidestep env mesh.yaml billing.yaml -o json
    """
    from sidestep.outputs import environment

    manifest, directory = _described(sources, workload)
    variables = environment.variables(manifest, directory, os.environ)
    terminal.answer({"ok": True, "proxy": environment.proxy(manifest, directory), "variables": variables})
    for name, value in variables.items():
        terminal.say(SHELLS[shell](name, value))
    if "http_proxy" in variables:
        terminal.remark(f"note: {_EXCEPT_MESH}")


def _described(sources: tuple[str, ...], workload: str | None) -> tuple[Mapping[str, Any], str]:
    """A manifest, and the directory that its sockets are in."""
    from sidestep import onboard
    from sidestep.outputs import envoy

    [first, *others] = sources
    if not others and os.path.isdir(first):  # noqa: PTH112 (which never fails, whatever the name)
        if workload:
            raise click.UsageError("--workload chooses among FILEs: a BUNDLE is of one workload")
        return onboard.manifest(Path(first)), Path(first).absolute().as_posix()
    bundles = onboard.bundles(onboard.load(sources), workload)
    if len(bundles) > 1:
        names = ", ".join(f"{each.workload['namespace']}/{each.workload['name']}" for each in bundles)
        raise click.UsageError(f"there are several workloads ({names}): say which with --workload")
    return envoy.manifest(bundles[0].plan.machine), Path.cwd().as_posix()

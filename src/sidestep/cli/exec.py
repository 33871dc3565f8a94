"""``sidestep exec``."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import click

from sidestep.cli.paths import PATH
from sidestep.cli.terminal import start_command
from sidestep.errors import CommandNotExecutable, CommandNotFound, EnvoyStopped


def _command(_ctx: click.Context, _parameter: click.Parameter, value: tuple[str, ...]) -> tuple[str, ...]:
    words = value[1:] if value[0] == "--" else value
    if not words:
        raise click.BadParameter("found nothing; allowed: a command and its arguments")
    return words


@click.command(
    short_help="Run a command that finds a bundle's services.",
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
)
@click.option("--wait", type=click.FloatRange(0, 3600), default=0.0, metavar="SECONDS", help="Wait for its Envoy.")
@click.argument("bundle", type=PATH)
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED, callback=_command, metavar="-- COMMAND…")
def exec(wait: float, bundle: Path, command: tuple[str, ...]) -> None:  # noqa: A001 (the command's name)
    """Run COMMAND with the variables of `sidestep env BUNDLE`, in place of this process.

    Refuses where the bundle's Envoy does not listen. The exit code is the command's; 127 where there is no such
    command, 126 where it cannot be run.

    \b
    Examples:
      sidestep exec bundle/ -- curl http://reviews.bookinfo:9080/
      sidestep exec --wait 10 bundle/ -- ./report.sh --monthly
    """
    from sidestep import onboard
    from sidestep.outputs import environment
    from sidestep.proxy.listening import listens

    manifest, directory = onboard.manifest(bundle), bundle.absolute().as_posix()
    addresses = [
        environment.proxy(manifest, directory),
        *(each.listen for each in environment.egresses(manifest, directory)),
    ]
    address = next((address for address in addresses if address), None)  # none where it is only called
    if address and not listens(address, within=wait):
        raise EnvoyStopped(
            f"the Envoy of {bundle} does not run: nobody listens on {address}", hint=start_command(bundle)
        )
    _become(command, {**os.environ, **environment.variables(manifest, directory, os.environ)})


def _become(command: tuple[str, ...], environment: dict[str, str]) -> None:
    program = command[0]
    for name in ("SIGPIPE", "SIGXFSZ"):  # Python ignores them, and what is ignored stays so
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_DFL)
    try:
        if program:
            os.execvpe(program, command, environment)  # noqa: S606 (no shell is wanted)
    except FileNotFoundError:
        pass
    except OSError as error:
        raise CommandNotExecutable(f"{program}: {error.strerror}") from None
    raise CommandNotFound(f"{program}: there is no such command")

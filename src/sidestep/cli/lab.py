"""``sidestep lab``."""

from __future__ import annotations

import asyncio
import shutil
import signal
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from sidestep.cli import lab_report
from sidestep.cli.paths import NAME, PATH
from sidestep.cli.terminal import Terminal, format_option
from sidestep.errors import MissingDependency, OutputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sidestep.lab.scenarios import Scenario
    from sidestep.lab.session import Lab
    from sidestep.lab.watchdog import Watchdog
    from sidestep.proxy.binary import Envoy


@click.command(short_help="Start a mini mesh of real Envoys here and watch a machine call it.")
@click.option("--once", is_flag=True, help="Run the scenarios and exit: 0 only if every one holds.")
@click.option("--scenario", "names", multiple=True, metavar="NAME", help="Only this one. May be repeated.")
@click.option("--list", "listing", is_flag=True, help="List the scenarios and exit.")
@click.option("--keep", type=PATH, metavar="DIR", help="Leave every file in DIR.")
@click.option(
    "--envoy-path", type=NAME, metavar="FILE", help="The Envoy to use.  [default: $SIDESTEP_ENVOY, the wheel, PATH]"
)
@format_option()
@click.pass_context
def lab(
    ctx: click.Context, once: bool, names: tuple[str, ...], listing: bool, keep: Path | None, envoy_path: str | None
) -> None:
    """Start a mini mesh of real Envoys on loopback, onboard a machine into it, and call through it.

    Two east-west gateways and a sidecar in front of every sample service stand for the mesh, as strict as Istio
    makes them. The machine is what you would have: a spec, the bundle rendered from it, a certificate, an Envoy.
    Then everything stays up for you to try, until Ctrl-C. Needs no root and opens loopback ports only.

    \b
    Examples:
      sidestep lab
      sidestep lab --once -o json
      sidestep lab --once --scenario expired --keep /tmp/lab
    """
    terminal = ctx.ensure_object(Terminal)
    chosen = _scenarios(names)
    if listing:
        terminal.answer(
            {"scenarios": [{"name": each.name, "expect": each.expect, "title": each.title} for each in chosen]}
        )
        rows = [[each.name, each.expect, each.title] for each in chosen]
        terminal.table(["NAME", "EXPECT", "WHAT"], rows, most=len(rows))
        return
    from sidestep.proxy.binary import find

    stay = not once and not terminal.json
    try:
        fine = asyncio.run(_play(terminal, find(envoy_path), chosen, keep, stay=stay))
    except asyncio.CancelledError:
        terminal.remark("terminated")
        ctx.exit(143)
    ctx.exit(0 if fine else 1)


def _scenarios(names: Sequence[str]) -> list[Scenario]:
    try:
        from sidestep.lab.scenarios import SCENARIOS
    except ModuleNotFoundError as missing:
        module = (missing.name or "").partition(".")[0]
        if module == "sidestep":
            raise
        message = f"the lab needs a package that is not installed: no module is named {module}"
        raise MissingDependency(message, hint="pip install 'sidestep[lab]'") from None
    known = {scenario.name: scenario for scenario in SCENARIOS}
    for name in names:
        if name not in known:
            raise click.BadParameter(f"{name!r} is none of: {', '.join(known)}", param_hint="--scenario")
    return [known[name] for name in dict.fromkeys(names)] if names else [*SCENARIOS]


async def _play(
    terminal: Terminal, envoy: Envoy, scenarios: Sequence[Scenario], keep: Path | None, *, stay: bool
) -> bool:
    from sidestep.lab.session import open_lab, run
    from sidestep.lab.watchdog import Watchdog

    _end_on_sigterm()
    with Watchdog() as watchdog, _directory(terminal, keep, watchdog) as directory:
        version = ".".join(map(str, envoy.version))
        terminal.remark(f"Starting real Envoys on loopback ({version}, from {envoy.source})")
        terminal.progress("… gateways, sidecars, sample services, the machine: a few seconds")
        async with open_lab(envoy, directory, watchdog) as lab:
            lab_report.introduce(terminal, lab)
            results = []
            async for result in run(lab, _announced(terminal, scenarios)):
                lab_report.show(terminal, result)
                results.append(result)
            lab_report.conclude(terminal, results)
            if stay:
                await _stay(terminal, lab, kept=keep is not None)
            terminal.progress("… stopping")
    terminal.progress("")
    return all(result.outcome.ok for result in results)


def _announced(terminal: Terminal, scenarios: Iterable[Scenario]) -> Iterator[Scenario]:
    for scenario in scenarios:
        terminal.progress(f"… {scenario.name}: {scenario.title}")
        yield scenario


async def _stay(terminal: Terminal, lab: Lab, *, kept: bool) -> None:
    """Until Ctrl-C, which is the usual end from here on."""
    from sidestep.lab.watch import watch

    async def tell() -> None:
        async for call in watch(lab):
            lab_report.seen(terminal, call)

    ended, loop, telling = asyncio.Event(), asyncio.get_running_loop(), asyncio.create_task(tell())
    loop.add_signal_handler(signal.SIGINT, ended.set)
    lab_report.invite(terminal, lab, kept=kept)
    try:
        waiting = asyncio.create_task(ended.wait())
        await asyncio.wait([waiting, telling], return_when=asyncio.FIRST_COMPLETED)
        if telling.done():
            await telling
    finally:
        loop.remove_signal_handler(signal.SIGINT)
        telling.cancel()
    terminal.remark("")  # after the terminal's ^C


def _end_on_sigterm() -> None:
    """SIGTERM ends the lab as Ctrl-C does: everything that it started goes with it."""
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)


@contextmanager
def _directory(terminal: Terminal, keep: Path | None, watchdog: Watchdog) -> Iterator[Path]:
    if keep is None:
        directory = Path(tempfile.mkdtemp(prefix="sidestep-lab-"))
        watchdog.temporary(directory)
        try:
            yield directory
        finally:
            shutil.rmtree(directory, ignore_errors=True)
        return
    try:
        keep.mkdir(parents=True, exist_ok=True)
        occupied = any(keep.iterdir())
    except OSError as error:
        raise OutputError(f"{keep}: {error.strerror}") from error
    if occupied:
        raise OutputError(f"{keep}: is not empty", hint="Choose an empty or new directory for --keep.")
    try:
        yield keep.absolute()
    finally:
        terminal.remark(f"Everything is in {keep}")

"""``sidestep lab``."""

from __future__ import annotations

import asyncio
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from sidestep.cli.terminal import Terminal, format_option
from sidestep.errors import MissingDependency, OutputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sidestep.lab.scenarios import Scenario
    from sidestep.lab.session import Lab, Result
    from sidestep.lab.watchdog import Watchdog
    from sidestep.proxy.binary import Envoy


@click.command(short_help="Start a mini mesh of real Envoys here and watch a machine call it.")
@click.option("--once", is_flag=True, help="Run the scenarios and exit: 0 only if every one holds.")
@click.option("--scenario", "names", multiple=True, metavar="NAME", help="Only this one. May be repeated.")
@click.option("--list", "listing", is_flag=True, help="List the scenarios and exit.")
@click.option("--keep", type=click.Path(path_type=Path), metavar="DIR", help="Leave every file in DIR.")
@click.option("--envoy-path", metavar="FILE", help="The Envoy to use.  [default: $SIDESTEP_ENVOY, the wheel, PATH]")
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
        terminal.table(["NAME", "EXPECT", "WHAT"], [[each.name, each.expect, each.title] for each in chosen])
        return
    from sidestep.proxy.binary import find

    fine = asyncio.run(_play(terminal, find(envoy_path), chosen, keep, stay=not once and not terminal.json))
    ctx.exit(0 if fine else 1)


def _scenarios(names: Sequence[str]) -> list[Scenario]:
    try:
        from sidestep.lab.scenarios import SCENARIOS
    except ModuleNotFoundError as missing:
        raise MissingDependency(
            f"the lab needs the package {missing.name}", hint="pip install 'sidestep[lab]'"
        ) from None
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
    version = ".".join(map(str, envoy.version))
    with Watchdog() as watchdog, _directory(keep, watchdog) as directory:
        terminal.remark(f"Starting a mesh of real Envoys ({version}, from {envoy.source}) on loopback …")
        async with open_lab(envoy, directory, watchdog) as opened:
            _introduce(terminal, opened)
            results = [_shown(terminal, result) async for result in run(opened, scenarios)]
            _conclude(terminal, results)
            if stay:
                _invite(terminal, opened)
                await asyncio.Event().wait()
    return all(result.outcome.ok for result in results)


def _end_on_sigterm() -> None:
    """SIGTERM ends the lab as Ctrl-C does: everything that it started goes with it."""
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)


@contextmanager
def _directory(keep: Path | None, watchdog: Watchdog) -> Iterator[Path]:
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
    yield keep.absolute()
    print(f"Everything is in {keep}", file=sys.stderr)


def _introduce(terminal: Terminal, lab: Lab) -> None:
    gateways = " and ".join(f"{gateway.address}:{gateway.port}" for gateway in lab.mesh.gateways)
    services = ", ".join(
        f"{pod.service.name}.{pod.service.namespace} ({pod.service.mtls})" for pod in lab.mesh.pods.values()
    )
    terminal.say(f"mesh:     east-west gateways {gateways}, mode AUTO_PASSTHROUGH")
    terminal.say(f"          {services}, each behind a sidecar")
    terminal.say(f"machine:  {lab.machine.spiffe_id}, from this spec:")
    terminal.say()
    terminal.say(_indented(lab.machine.spec[1].read_text()))


def _indented(text: str) -> str:
    return "\n".join(f"    {line}" for line in text.splitlines()) + "\n"


def _shown(terminal: Terminal, result: Result) -> Result:
    outcome, scenario = result.outcome, result.scenario
    mark = click.style("✓", fg="green") if outcome.ok else click.style("✗", fg="red")
    expected = "passes" if scenario.expect == "allow" else "refused"
    terminal.say(f"{mark} {scenario.name:<26} {expected:<8} {scenario.title} ({result.milliseconds:.0f} ms)")
    terminal.say(click.style(f"      {outcome.detail}", dim=outcome.ok))
    return result


def _conclude(terminal: Terminal, results: Sequence[Result]) -> None:
    failed = [result.scenario.name for result in results if not result.outcome.ok]
    terminal.say()
    terminal.say(
        f"{len(results) - len(failed)} of {len(results)} as they must be"
        + (f"; not: {', '.join(failed)}" if failed else "")
    )
    scenarios = [
        {
            "name": result.scenario.name,
            "expect": result.scenario.expect,
            "result": result.outcome.result,
            "ok": result.outcome.ok,
            "detail": result.outcome.detail,
            "ms": result.milliseconds,
        }
        for result in results
    ]
    terminal.answer({"scenarios": scenarios, "ok": not failed})


def _invite(terminal: Terminal, lab: Lab) -> None:
    from sidestep.lab import sample

    listen = lab.machine.listen
    bundle = lab.machine.bundle
    terminal.say()
    terminal.say("Everything is still up. Try, in another terminal:")
    for what, command in (
        ("allowed: reviews tells whom it saw", f"curl http://127.0.0.1:{listen(sample.REVIEWS, 9080)}/"),
        ("denied: payroll admits somebody else", f"curl -i http://127.0.0.1:{listen(sample.PAYROLL, 9080)}/"),
        ("TCP: what you type comes back", f"nc 127.0.0.1 {listen(sample.LEDGER, 9000)}"),
        (
            "the spec, its bundle, and every call",
            f"ls {bundle.parent / 'spec'} {bundle}; tail -f {bundle.parent / 'logs'}/stdout.log",
        ),
        ("the machine's Envoy", f"curl --unix-socket {bundle}/admin.sock http://admin/clusters"),
    ):
        terminal.say(click.style(f"  # {what}", dim=True))
        terminal.say(f"  {command}")
    terminal.say()
    terminal.say("Ctrl-C ends it and removes everything.")

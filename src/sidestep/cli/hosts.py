"""``sidestep hosts``."""

from __future__ import annotations

from pathlib import Path

import click

from sidestep.cli.paths import PATH
from sidestep.cli.terminal import Terminal, format_option


@click.command(short_help="Names for a bundle's services, in a hosts file.")
@click.argument("bundle", type=PATH)
@click.option("--install", "action", flag_value="install", help="Put the block into the file, or bring it up to date.")
@click.option("--remove", "action", flag_value="remove", help="Take the block out of the file.")
@click.option("--file", type=PATH, metavar="FILE", help="Another file than the system's.")
@format_option()
@click.pass_obj
def hosts(terminal: Terminal, bundle: Path, action: str | None, file: Path | None) -> None:
    """Print the hosts-file block that names a bundle's services, or install it, or remove it.

    A service can be named where it is on a loopback address under its own port number: give the workload
    `addresses: {}` in its spec, and every service without `listen` has an address of its own. Only the block between
    our two comments is ever touched.

    \b
    Examples:
      sidestep hosts bundle/
      sudo sidestep hosts bundle/ --install
      sudo sidestep hosts bundle/ --remove
    """
    from sidestep import onboard
    from sidestep.hosts import DEFAULT, block, update

    manifest = onboard.manifest(bundle)
    workload, names = "{namespace}/{name}".format(**manifest["workload"]), manifest["names"]
    lines, path = block(workload, names), file or DEFAULT
    changed = update(path, workload, lines if action == "install" else []) if action else False
    terminal.answer({"ok": True, "file": str(path), "changed": changed, "names": names})
    if action is None:
        for line in lines:
            terminal.say(line)
    else:
        done = "is in it" if lines and action == "install" else "is not in it"
        terminal.say(f"{path}: {'changed, ' if changed else 'unchanged, '}the block of {workload} {done}")
    if not lines and action != "remove":
        without = f"no service of {workload} is on a loopback address under its own port number"
        terminal.warn([f"{without}: give them no `listen` in the spec, and the workload `addresses: {{}}`"])

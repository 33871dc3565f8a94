"""``sidestep dns``."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from sidestep.cli.paths import PATH
from sidestep.cli.terminal import Terminal
from sidestep.errors import MissingDependency

if TYPE_CHECKING:
    from sidestep.spec import Listen


def _address(_ctx: click.Context, _parameter: click.Parameter, value: str | None) -> Listen | None:
    from sidestep.spec.scalars import parse_listen

    if value is None:
        return None
    try:
        return parse_listen(value)
    except ValueError:
        raise click.BadParameter(
            f"found {value!r}; allowed: an IP address and a port, such as 127.0.0.1:5353"
        ) from None


def _local_address(ctx: click.Context, parameter: click.Parameter, value: str) -> Listen:
    address = _address(ctx, parameter, value)
    if address is None or not address.is_loopback:
        raise click.BadParameter(
            f"found {value!r}; allowed: an address of this machine only (127.0.0.0/8, ::1), since that is what the "
            "names stand for, and whoever reached it could use it to flood others"
        )
    return address


@click.command(short_help="A small DNS server for the names of a bundle's services.")
@click.argument("bundle", type=PATH)
@click.option("--listen", default="127.0.0.1:5353", show_default=True, callback=_local_address, metavar="ADDRESS:PORT")
@click.option("--forward", callback=_address, metavar="ADDRESS:PORT", help="Ask this server for all other names.")
@click.pass_obj
def dns(terminal: Terminal, bundle: Path, listen: Listen, forward: Listen | None) -> None:
    """Answer DNS queries for the names of a bundle's services, and refuse (or forward) all others.

    It does not change how this machine resolves names: have systemd-resolved, dnsmasq or macOS's /etc/resolver send
    it the mesh's names only (docs/names.md).

    \b
    Examples:
      sidestep dns bundle/
      sidestep dns bundle/ --listen 127.0.0.1:5353 --forward 192.0.2.53:53
      dig @127.0.0.1 -p 5353 reviews.bookinfo
    """
    from sidestep import onboard

    if listen == forward:
        raise click.BadParameter(f"{forward} is this server itself", param_hint="--forward")
    addresses = {name: address for address, names in onboard.manifest(bundle)["names"].items() for name in names}
    try:
        asyncio.run(_serve(terminal, addresses, listen, forward))
    except ModuleNotFoundError as missing:
        message = f"this needs a package that is not installed: no module is named {missing.name}"
        raise MissingDependency(message, hint="pip install 'sidestep[dns]'") from None


async def _serve(terminal: Terminal, addresses: Mapping[str, str], listen: Listen, forward: Listen | None) -> None:
    from sidestep.resolver import Resolver, Upstream, Zone

    upstream = Upstream(forward.address, forward.port) if forward else None
    async with Resolver(Zone(addresses), listen.address, listen.port, upstream) as resolver:
        ended = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, ended.set)
        others = f"other names go to {forward}" if forward else "other names are refused"
        terminal.remark(
            f"{len(addresses)} names on {listen.address}:{resolver.port}, UDP and TCP; {others}. Ctrl-C ends it."
        )
        await ended.wait()

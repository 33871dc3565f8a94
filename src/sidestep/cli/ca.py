"""``sidestep ca``."""

from __future__ import annotations

import re
import shlex
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from sidestep.cli.paths import PATH
from sidestep.cli.terminal import Terminal, format_option

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sidestep.ca import Issued, LocalCA

_LONGEST: Final = timedelta(days=90)
"""Istio's maximum."""


def parse_lifetime(text: str) -> timedelta:
    """``24h``, ``90m``, ``7d``: more than nothing, at most 90 days; else `click.BadParameter`."""
    match = re.fullmatch(r"([0-9]{1,9})([smhd])", text)
    if match is None:
        raise click.BadParameter(f"found {text!r}; allowed: a number and a unit, such as 90m, 24h or 7d")
    unit = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}[match[2]]
    lifetime = timedelta(**{unit: int(match[1])})
    if not timedelta(0) < lifetime <= _LONGEST:
        raise click.BadParameter(f"found {text}; allowed: more than 0, at most 90d")
    return lifetime


@click.group(short_help="A certificate authority for the mesh and for machines.")
def ca() -> None:
    """A local CA: the mesh's root, a CA for istiod and one for machines.

    \b
    Examples:
      sidestep ca init ca/
      sidestep ca issue ca/ certs/ --id spiffe://cluster.local/ns/vms/sa/billing
    """


@ca.command(short_help="Make a root, a CA for the mesh and one for machines.")
@click.argument("directory", type=PATH)
@click.option("--trust-domain", default="cluster.local", show_default=True, help="Trust domain of the mesh.")
@click.option("--machines-trust-domain", help="Trust domain of the machines.  [default: the mesh's]")
@format_option()
@click.pass_obj
def init(terminal: Terminal, directory: Path, trust_domain: str, machines_trust_domain: str | None) -> None:
    """Make a root and under it two CAs, one for the mesh and one for machines, in DIRECTORY.

    Nothing is overwritten. The CA for machines can sign for their trust domain only; give them one of their own and
    a stolen CA of machines cannot mint an identity of the mesh.

    \b
    Examples:
      sidestep ca init ca/
      sidestep ca init ca/ --trust-domain prod.example --machines-trust-domain vms.example
    """
    from sidestep import ca

    made = ca.init(directory, datetime.now(UTC), trust_domain=trust_domain, machines_trust_domain=machines_trust_domain)
    terminal.answer(_made_for_programs(made))
    for line in _made_for_people(made):
        terminal.say(line)


@ca.command(short_help="Issue a key and certificate, or renew them.")
@click.argument("ca_dir", type=PATH)
@click.argument("out_dir", type=PATH, required=False)
@click.option("--id", "spiffe_id", metavar="SPIFFE_ID", help="Whom the certificate names.")
@click.option(
    "--bundle",
    type=PATH,
    help="Write this bundle's certs/; the name is the bundle's without --id.",
)
@click.option(
    "--lifetime",
    type=parse_lifetime,
    default="24h",
    show_default=True,
    metavar="DURATION",
    help="How long it is valid.",
)
@format_option()
@click.pass_obj
def issue(
    terminal: Terminal,
    ca_dir: Path,
    out_dir: Path | None,
    spiffe_id: str | None,
    bundle: Path | None,
    lifetime: timedelta,
) -> None:
    """Issue a workload's key and certificate from CA_DIR into OUT_DIR; run again to renew.

    CA_DIR is what `sidestep ca init` made, or any directory laid out as Istio's cacerts. OUT_DIR receives
    cert-chain.pem, key.pem and root-cert.pem as one set, so an Envoy that watches it reloads cleanly. Run as root
    into another user's directory, the files are that user's; a bundle of theirs needs --id.

    \b
    Examples:
      sidestep ca issue ca/ certs/ --id spiffe://cluster.local/ns/vms/sa/billing
      sidestep ca issue ca/ --bundle bundle/ --lifetime 7d
    """
    from sidestep import ca
    from sidestep.pki.spiffe import SpiffeId

    now = datetime.now(UTC)
    if bundle is not None and out_dir is None:
        wanted = SpiffeId.parse(spiffe_id) if spiffe_id else None
        issued = ca.issue_into(bundle, ca.load(ca_dir, now), now, lifetime, wanted)
    elif bundle is None and out_dir is not None and spiffe_id is not None:
        issued = ca.issue(ca.load(ca_dir, now), SpiffeId.parse(spiffe_id), out_dir, now, lifetime)
    else:
        raise click.UsageError("Give either OUT_DIR and --id, or --bundle (and --id, where the bundle does not say).")
    _report(terminal, issued)


def _made_for_programs(made: LocalCA) -> dict[str, object]:
    return {
        "directory": str(made.directory),
        "created": made.created,
        "trustDomain": made.trust_domain,
        "machinesTrustDomain": made.machines_trust_domain,
        "folders": {path.name: str(path) for path in (made.root, made.mesh, made.machines)},
        "commands": {"createSecret": _secret_command(made)},
    }


def _secret_command(made: LocalCA) -> str:
    from sidestep.pki.authority import CA_FILES

    files = " ".join(f"--from-file={shlex.quote(str(made.mesh / name))}" for name in CA_FILES)
    return f"kubectl create secret generic cacerts -n istio-system {files}"


def _made_for_people(made: LocalCA) -> Iterator[str]:
    directory, machines = made.directory, made.machines_trust_domain
    yield f"Made a CA in {directory}." if made.created else f"{directory} holds this CA already; nothing was changed."
    yield ""
    if made.root.exists():
        yield f"{made.root}: the root."
        yield "  Move it off this machine, offline: whoever has its key can be anyone. Only a new CA needs it."
    yield f"{made.mesh}: istiod's CA, for {made.trust_domain}."
    yield "  Give it to the mesh before istiod first starts, and keep no copy here:"
    yield f"    {_secret_command(made)}"
    yield f"{made.machines}: the CA for machines, which can sign for {machines} only."
    yield "  Keep it where certificates are issued, readable by nobody else:"
    yield f"    sidestep ca issue {shlex.quote(str(directory))} certs/ --id spiffe://{machines}/ns/NS/sa/SA"
    if made.trust_domain != machines:
        yield f"The mesh accepts {machines} once its meshConfig says so (an alias would merge the two domains):"
        yield f"    caCertificates: [{{pem: <{made.mesh / 'root-cert.pem'}>, trustDomains: [{machines}]}}]"


def _report(terminal: Terminal, issued: Issued) -> None:
    identity, directory = issued.identity, str(issued.directory)
    name, ends = str(identity.spiffe_id), f"{identity.not_after:%Y-%m-%dT%H:%M:%SZ}"
    files = {file: str(path) for file, path in issued.files.items()}
    terminal.answer({"identity": name, "directory": directory, "files": files, "notAfter": ends})
    terminal.say(f"Issued {name}, valid until {ends}, in {directory}:")
    for path in files.values():
        terminal.say(f"  {path}")
    terminal.say("Run the same command again to renew; an Envoy that watches the directory takes the new set itself.")

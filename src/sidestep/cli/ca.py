"""``sidestep ca``: a local CA, for meshes that have none to ask and for trying things out."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import click

from sidestep.errors import CertificateError, OutputError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sidestep.pki.authority import Authority
    from sidestep.pki.identity import Identity
    from sidestep.pki.spiffe import SpiffeId

_LONGEST = timedelta(days=90)

_output = click.option(
    "-o", "--output", type=click.Choice(["text", "json"]), default="text", show_default=True, help="Form of the answer."
)


def parse_lifetime(text: str) -> timedelta:
    """``24h``, ``90m``, ``7d``: more than nothing, at most 90 days (Istio's maximum); else `click.BadParameter`."""
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


@ca.command()
@click.argument("directory", type=click.Path(path_type=Path))
@click.option("--trust-domain", default="cluster.local", show_default=True, help="Trust domain of the mesh.")
@click.option("--machines-trust-domain", help="Trust domain of the machines.  [default: the mesh's]")
@_output
def init(directory: Path, trust_domain: str, machines_trust_domain: str | None, output: str) -> None:
    """Make a root and under it two CAs, one for the mesh and one for machines, in DIRECTORY.

    Nothing is overwritten. The CA for machines can sign for their trust domain only; give them one of their own and
    a stolen CA of machines cannot mint an identity of the mesh.

    \b
    Examples:
      sidestep ca init ca/
      sidestep ca init ca/ --trust-domain prod.example --machines-trust-domain vms.example
    """
    from sidestep.pki.spiffe import check_trust_domain

    domains = (check_trust_domain(trust_domain), check_trust_domain(machines_trust_domain or trust_domain))
    created = _create(directory, *domains)
    if output == "json":
        click.echo(json.dumps(_summary(directory, domains, created=created), indent=2))
    else:
        click.echo(_explanation(directory, domains, created=created))


@ca.command()
@click.argument("ca_dir", type=click.Path(path_type=Path))
@click.argument("out_dir", type=click.Path(path_type=Path), required=False)
@click.option("--id", "spiffe_id", metavar="SPIFFE_ID", help="Whom the certificate names.")
@click.option("--bundle", type=click.Path(path_type=Path), help="Take the name from this bundle and write its certs/.")
@click.option(
    "--lifetime",
    type=parse_lifetime,
    default="24h",
    show_default=True,
    metavar="DURATION",
    help="How long it is valid.",
)
@_output
def issue(
    ca_dir: Path, out_dir: Path | None, spiffe_id: str | None, bundle: Path | None, lifetime: timedelta, output: str
) -> None:
    """Issue a workload's key and certificate from CA_DIR into OUT_DIR; run again to renew.

    CA_DIR is what `sidestep ca init` made, or any directory laid out as Istio's cacerts. OUT_DIR receives
    cert-chain.pem, key.pem and root-cert.pem as one set, so an Envoy that watches it reloads cleanly.

    \b
    Examples:
      sidestep ca issue ca/ certs/ --id spiffe://cluster.local/ns/vms/sa/billing
      sidestep ca issue ca/ --bundle bundle/ --lifetime 7d
    """
    from sidestep.files import write_set
    from sidestep.pki.identity import issue as issue_identity
    from sidestep.pki.spiffe import SpiffeId

    if bundle is not None and out_dir is None and spiffe_id is None:
        target, wanted = bundle / "certs", _identity_of(bundle)
    elif bundle is None and out_dir is not None and spiffe_id is not None:
        target, wanted = out_dir, SpiffeId.parse(spiffe_id)
    else:
        raise click.UsageError("Give either OUT_DIR and --id, or --bundle.")
    now = datetime.now(UTC)
    identity = issue_identity(_load(ca_dir, now), wanted, now, lifetime)
    write_set(target, identity.files())
    _report_issued(identity, target, output)


def _create(directory: Path, trust_domain: str, machines_trust_domain: str) -> bool:
    """Make the CA; False when the same one is there already. Built beside ``directory``, then renamed into place."""
    try:
        if os.path.lexists(directory) and (not directory.is_dir() or any(directory.iterdir())):
            _check_same(directory, trust_domain, machines_trust_domain)
            return False
        directory.parent.mkdir(parents=True, exist_ok=True)
        building = Path(tempfile.mkdtemp(prefix=f".{directory.name}-", dir=directory.parent))
        try:
            _write_tree(building, _new_ca(trust_domain, machines_trust_domain))
            building.rename(directory)
        finally:
            shutil.rmtree(building, ignore_errors=True)
    except OSError as problem:
        raise OutputError(f"cannot write {directory}: {problem.strerror or problem}") from problem
    return True


def _new_ca(trust_domain: str, machines_trust_domain: str) -> dict[str, bytes]:
    from sidestep.pki.authority import Authority

    now = datetime.now(UTC)
    root = Authority.new_root(now)
    mesh = root.new_intermediate(now, name="Mesh CA", trust_domain=trust_domain)
    machines = root.new_intermediate(now, name="Machines CA", trust_domain=machines_trust_domain, constrained=True)
    files = {"root/root-cert.pem": root.files()["root-cert.pem"], "root/root-key.pem": root.files()["ca-key.pem"]}
    for folder, authority in (("mesh", mesh), ("machines", machines)):
        files |= {f"{folder}/{name}": content for name, content in authority.files().items()}
    return files


def _write_tree(directory: Path, files: Mapping[str, bytes]) -> None:
    for name, content in files.items():
        path = directory / name
        path.parent.mkdir(mode=0o700, exist_ok=True)
        path.touch(mode=0o600 if path.name.endswith("-key.pem") else 0o644)
        path.write_bytes(content)


def _check_same(directory: Path, *trust_domains: str) -> None:
    """`OutputError` unless ``directory`` holds what `init` makes, for these trust domains; root/ may be gone."""
    hint = "name another directory: nothing is overwritten here"
    try:
        now = datetime.now(UTC)
        found = tuple(_load(directory / folder, now).trust_domain for folder in ("mesh", "machines"))
    except CertificateError as problem:
        raise OutputError(f"{directory} is not empty and holds no complete CA: {problem}", hint=hint) from problem
    if found != trust_domains:
        raise OutputError(
            f"{directory} holds a CA for trust domain {found[0]} with machines in {found[1]}; "
            f"asked for {trust_domains[0]} with machines in {trust_domains[1]}",
            hint=hint,
        )


def _load(directory: Path, now: datetime) -> Authority:
    """The CA in ``directory``: its machines/, when `init` made it, else itself."""
    from sidestep.pki.authority import CA_FILES, Authority

    if (directory / "machines").is_dir():
        directory = directory / "machines"
    try:
        files = {name: (directory / name).read_bytes() for name in CA_FILES if (directory / name).exists()}
    except OSError as problem:
        raise CertificateError(f"cannot read the CA in {directory}: {problem.strerror or problem}") from problem
    try:
        return Authority.load(files, now)
    except CertificateError as problem:
        raise CertificateError(f"the CA in {directory}: {problem}", hint=problem.hint) from problem


def _identity_of(bundle: Path) -> SpiffeId:
    from sidestep.pki.spiffe import SpiffeId

    manifest = bundle / "manifest.json"
    try:
        content = json.loads(manifest.read_bytes())
    except OSError as problem:
        raise CertificateError(f"cannot read {manifest}: {problem.strerror or problem}") from problem
    except ValueError as problem:
        raise CertificateError(f"{manifest} is not JSON: {problem}") from problem
    identity = content.get("identity") if isinstance(content, dict) else None
    if not isinstance(identity, str):
        raise CertificateError(f"{manifest} names no identity", hint="is this a bundle that sidestep render made?")
    return SpiffeId.parse(identity)


def _summary(directory: Path, domains: tuple[str, str], *, created: bool) -> dict[str, object]:
    return {
        "directory": str(directory),
        "created": created,
        "trustDomain": domains[0],
        "machinesTrustDomain": domains[1],
        "folders": {name: str(directory / name) for name in ("root", "mesh", "machines")},
        "commands": {"createSecret": _secret_command(directory)},
    }


def _secret_command(directory: Path) -> str:
    from sidestep.pki.authority import CA_FILES

    files = " ".join(f"--from-file={shlex.quote(str(directory / 'mesh' / name))}" for name in CA_FILES)
    return f"kubectl create secret generic cacerts -n istio-system {files}"


def _explanation(directory: Path, domains: tuple[str, str], *, created: bool) -> str:
    issue_command = f"sidestep ca issue {shlex.quote(str(directory))} certs/ --id spiffe://{domains[1]}/ns/NS/sa/SA"
    lines = [
        f"Made a CA in {directory}." if created else f"{directory} holds this CA already; nothing was changed.",
        "",
        f"{directory / 'root'}: the root.",
        "  Move it off this machine and keep it offline: whoever has its key can be anyone. Only a new CA needs it.",
        f"{directory / 'mesh'}: istiod's CA, for {domains[0]}.",
        "  Give it to the mesh before istiod first starts, and keep no copy here:",
        f"    {_secret_command(directory)}",
        f"{directory / 'machines'}: the CA for machines, which can sign for {domains[1]} only.",
        "  Keep it where certificates are issued, readable by nobody else:",
        f"    {issue_command}",
    ]
    if domains[0] != domains[1]:
        roots = directory / "mesh" / "root-cert.pem"
        lines += [
            f"The mesh accepts {domains[1]} once its meshConfig says so (an alias would merge the two domains):",
            f"    caCertificates: [{{pem: <{roots}>, trustDomains: [{domains[1]}]}}]",
        ]
    return "\n".join(lines)


def _report_issued(identity: Identity, directory: Path, output: str) -> None:
    ends = f"{identity.not_after:%Y-%m-%dT%H:%M:%SZ}"
    files = {name: str(directory / name) for name in identity.files()}
    if output == "json":
        answer = {"identity": str(identity.spiffe_id), "directory": str(directory), "files": files, "notAfter": ends}
        click.echo(json.dumps(answer, indent=2))
        return
    click.echo(f"Issued {identity.spiffe_id}, valid until {ends}, in {directory}:")
    for path in files.values():
        click.echo(f"  {path}")
    click.echo("Run the same command again to renew; an Envoy that watches the directory takes the new set by itself.")

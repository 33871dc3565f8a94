"""A local CA on disk: a root, a CA for istiod and one for machines.

::

    ca.init(Path("ca"), now)
    ca.issue(ca.load(Path("ca"), now), ca.identity_of(Path("bundle")), Path("bundle/certs"), now)
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import orjson

from sidestep.errors import CertificateError, OutputError
from sidestep.files import (
    File,
    FileTree,
    announce,
    exclusive,
    foreign_owners,
    in_place,
    read,
    staged,
    translated,
    write_set,
)
from sidestep.pki import identity as identities
from sidestep.pki.authority import CA_FILES, KEY_FILE, LEAF_LIFETIME, ROOTS_FILE, Authority
from sidestep.pki.identity import Identity
from sidestep.pki.spiffe import SpiffeId, check_trust_domain

_ROOT, _MESH, _MACHINES = "root", "mesh", "machines"


@dataclass(frozen=True)
class LocalCA:
    """A CA that `init` made or found."""

    directory: Path
    trust_domain: str
    machines_trust_domain: str
    created: bool
    """False where it was there already."""

    @property
    def root(self) -> Path:
        """The root's certificate and key, which belong offline."""
        return self.directory / _ROOT

    @property
    def mesh(self) -> Path:
        """The CA for istiod, in the layout of its ``cacerts``."""
        return self.directory / _MESH

    @property
    def machines(self) -> Path:
        """The CA for machines, in the same layout."""
        return self.directory / _MACHINES


@dataclass(frozen=True)
class Issued:
    """An identity that was written."""

    identity: Identity
    directory: Path

    @property
    def files(self) -> dict[str, Path]:
        """Its files, by name."""
        return {name: self.directory / name for name in self.identity.files()}


def init(
    directory: Path, now: datetime, *, trust_domain: str = "cluster.local", machines_trust_domain: str | None = None
) -> LocalCA:
    """Make a CA in a new or empty directory, or find it there; nothing is overwritten.

    Raises `CertificateError` for what is no trust domain, `OutputError` where the directory holds anything else, such
    as a CA for other trust domains, or cannot be written.
    """
    domains = (check_trust_domain(trust_domain), check_trust_domain(machines_trust_domain or trust_domain))
    with exclusive(directory):
        with translated(directory):
            created = not any(directory.iterdir())
        if created:
            _put(_tree(now, *domains), directory)
        else:
            _check_same(directory, domains, now)
    return LocalCA(directory, *domains, created=created)


def load(directory: Path, now: datetime) -> Authority:
    """The CA that signs for machines: ``directory``, or its machines/ where `init` made it. `CertificateError`."""
    try:
        if (directory / _MACHINES).is_dir():
            directory /= _MACHINES
        files = {name: read(directory / name) for name in CA_FILES if (directory / name).exists()}
    except OSError as problem:
        raise CertificateError(f"cannot read the CA in {directory}: {problem.strerror or problem}") from problem
    try:
        return Authority.load(files, now)
    except CertificateError as problem:
        raise CertificateError(f"the CA in {directory}: {problem}", hint=problem.hint) from problem


def issue(
    authority: Authority, spiffe_id: SpiffeId, directory: Path, now: datetime, lifetime: timedelta = LEAF_LIFETIME
) -> Issued:
    """Give ``directory`` a new key and certificate, as one set; again, to renew.

    Raises `CertificateError` where the CA may not sign that, `OutputError` where it cannot be written; what was there
    is then unchanged.
    """
    identity = identities.issue(authority, spiffe_id, now, lifetime)
    write_set(directory, identity.files())
    return Issued(identity, directory)


def issue_into(
    bundle: Path,
    authority: Authority,
    now: datetime,
    lifetime: timedelta = LEAF_LIFETIME,
    spiffe_id: SpiffeId | None = None,
) -> Issued:
    """Give a bundle a new key and certificate, for ``spiffe_id`` or else for whom it is made.

    Its Envoy reads clusters again that it has refused because of files it could not use. Raises what `identity_of` and
    `issue` raise.
    """
    issued = issue(authority, spiffe_id or identity_of(bundle), bundle / "certs", now, lifetime)
    announce(bundle)
    return issued


def identity_of(bundle: Path) -> SpiffeId:
    """Whom a bundle's certificate must name. `CertificateError` for what is no bundle, or another user's word."""
    manifest = bundle / "manifest.json"
    if owners := foreign_owners(manifest):
        users = ", ".join(map(str, sorted(owners)))
        message = f"{manifest} may be the word of user {users}, who could be anyone by it"
        raise CertificateError(message, hint="Say with --id whom the certificate is to name.")
    try:
        content = orjson.loads(read(manifest))
    except OSError as problem:
        raise CertificateError(f"cannot read {manifest}: {problem.strerror or problem}") from problem
    except orjson.JSONDecodeError as problem:
        raise CertificateError(f"{manifest} is not JSON: {problem}") from problem
    name = content.get("identity") if isinstance(content, dict) else None
    if not isinstance(name, str):
        raise CertificateError(f"{manifest} names no identity", hint="Is this a bundle that sidestep render made?")
    return SpiffeId.parse(name)


def _put(tree: FileTree, directory: Path) -> None:
    with translated(directory):
        directory.chmod(0o700)
    with staged(tree, directory) as made, in_place(made, directory, [*made.digests]):
        pass


def _tree(now: datetime, trust_domain: str, machines_trust_domain: str) -> FileTree:
    root = Authority.new_root(now)
    mesh = root.new_intermediate(now, name="Mesh CA", trust_domain=trust_domain)
    machines = root.new_intermediate(now, name="Machines CA", trust_domain=machines_trust_domain, constrained=True)
    contents = {f"{_ROOT}/{ROOTS_FILE}": root.files()[ROOTS_FILE], f"{_ROOT}/root-key.pem": root.files()[KEY_FILE]}
    for folder, authority in ((_MESH, mesh), (_MACHINES, machines)):
        contents |= {f"{folder}/{name}": content for name, content in authority.files().items()}
    files = {
        name: File.of(content, 0o600 if name.endswith("-key.pem") else 0o644) for name, content in contents.items()
    }
    return FileTree(files, dict.fromkeys((_ROOT, _MESH, _MACHINES), 0o700))


def _check_same(directory: Path, trust_domains: tuple[str, str], now: datetime) -> None:
    """`OutputError` unless ``directory`` holds what `init` makes, for these trust domains; root/ may be gone."""
    hint = "Name another directory: nothing is overwritten here."
    try:
        found = tuple(load(directory / folder, now).trust_domain for folder in (_MESH, _MACHINES))
    except CertificateError as problem:
        raise OutputError(f"{directory} is not empty and holds no complete CA: {problem}", hint=hint) from problem
    if found != trust_domains:
        raise OutputError(
            f"{directory} holds a CA for trust domain {found[0]} with machines in {found[1]}; "
            f"asked for {trust_domains[0]} with machines in {trust_domains[1]}",
            hint=hint,
        )

"""The mesh's CAs, and identities as a mesh must refuse them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives import hashes

from sidestep.pki.authority import Authority
from sidestep.pki.identity import Identity, issue
from sidestep.pki.pem import encode
from sidestep.pki.spiffe import SpiffeId

if TYPE_CHECKING:
    from pathlib import Path

TRUST_DOMAIN = "cluster.local"
AGE = timedelta(days=10)


@dataclass(frozen=True)
class CertificateAuthorities:
    """A root, and two siblings under it: istiod's for the mesh, ours for machines. All some days old."""

    root: Authority
    mesh: Authority
    machines: Authority

    @classmethod
    def new(cls) -> CertificateAuthorities:
        made = datetime.now(UTC) - AGE
        root = Authority.new_root(made)
        mesh = root.new_intermediate(made, name="istiod", trust_domain=TRUST_DOMAIN)
        machines = root.new_intermediate(made, name="machines", trust_domain=TRUST_DOMAIN)
        return cls(root, mesh, machines)

    def machine(self, name: str, *, age: timedelta = timedelta(0)) -> Identity:
        """A machine's identity, good for a day since ``age`` ago."""
        return issue(self.machines, SpiffeId.parse(name), datetime.now(UTC) - age)

    def constrained(self) -> Authority:
        """A CA under the root that may sign for ``vms.example`` only."""
        made = datetime.now(UTC) - AGE
        return self.root.new_intermediate(made, name="constrained", trust_domain="vms.example", constrained=True)


def spiffe_id(service_account: str, *, namespace: str = "vms", trust_domain: str = TRUST_DOMAIN) -> str:
    return f"spiffe://{trust_domain}/ns/{namespace}/sa/{service_account}"


def stolen(authority: Authority, model: Identity) -> Identity:
    """What a thief signs with a CA's key, whatever that CA may sign: a copy of ``model``, key and all."""
    leaf = x509.load_pem_x509_certificates(model.chain)[0]
    builder = x509.CertificateBuilder(
        authority.certificate.subject,
        leaf.subject,
        leaf.public_key(),
        leaf.serial_number,
        leaf.not_valid_before_utc,
        leaf.not_valid_after_utc,
        [extension for extension in leaf.extensions if not isinstance(extension.value, x509.AuthorityKeyIdentifier)],
    )
    chain = [builder.sign(authority.key, hashes.SHA256()), authority.certificate]
    return replace(model, chain=encode(chain))


def without_intermediates(identity: Identity) -> Identity:
    return replace(identity, chain=encode(x509.load_pem_x509_certificates(identity.chain)[:1]))


def write_one_by_one(folder: Path, files: dict[str, bytes]) -> None:
    """Put each file in place by a rename of its own."""
    for name, content in files.items():
        fresh = folder / f".{name}.new"
        fresh.touch(mode=0o600)
        fresh.write_bytes(content)
        fresh.rename(folder / name)

"""The mesh's CAs, and identities as a mesh must refuse them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

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


@dataclass(frozen=True)
class PrivateAuthority:
    """A CA outside the mesh, as a company has one for its load balancers."""

    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate

    @classmethod
    def new(cls) -> PrivateAuthority:
        key = ec.generate_private_key(ec.SECP256R1())
        constraints = x509.BasicConstraints(ca=True, path_length=0)
        return cls(key, _signed(key, "Private CA", key, "Private CA", constraints))

    @property
    def pem(self) -> bytes:
        return encode([self.certificate])

    def server(self, name: str) -> tuple[bytes, bytes]:
        """A certificate for a DNS name, and its key."""
        key = ec.generate_private_key(ec.SECP256R1())
        names = x509.SubjectAlternativeName([x509.DNSName(name)])
        certificate = _signed(self.key, "Private CA", key, name, names)
        private = serialization.PrivateFormat.PKCS8
        pem = key.private_bytes(serialization.Encoding.PEM, private, serialization.NoEncryption())
        return encode([certificate]), pem


def _signed(
    by: ec.EllipticCurvePrivateKey,
    issuer: str,
    key: ec.EllipticCurvePrivateKey,
    subject: str,
    extension: x509.ExtensionType,
) -> x509.Certificate:
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder(
        _name(issuer), _name(subject), key.public_key(), x509.random_serial_number(), now, now + timedelta(days=1)
    )
    return builder.add_extension(extension, critical=False).sign(by, hashes.SHA256())


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, text)])


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

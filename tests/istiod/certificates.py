"""Certificates as a mesh has them, and as it must refuse them."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING
from uuid import uuid4

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

if TYPE_CHECKING:
    from pathlib import Path

DAY = dt.timedelta(days=1)


@dataclass(frozen=True)
class Identity:
    """What a workload holds: its chain, its key, and the root it trusts. All PEM; empty where it has none."""

    chain: bytes
    key: bytes
    root: bytes

    def without_intermediates(self) -> Identity:
        leaf = x509.load_pem_x509_certificates(self.chain)[0]
        return replace(self, chain=pem(leaf))

    def trusting(self, other: Authority) -> Identity:
        return replace(self, root=pem(other.root))

    @property
    def files(self) -> dict[str, bytes]:
        """The files in which Istio's agent, and so a bundle, has them."""
        return {"cert-chain.pem": self.chain, "key.pem": self.key, "root-cert.pem": self.root}

    def write(self, folder: Path) -> None:
        """Put the files in place one by one, each by a rename."""
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in self.files.items():
            _write(folder / f".{name}.new", content).rename(folder / name)

    def link(self, folder: Path) -> None:
        """Put the files in place all at once: links to a directory that a rename exchanges, as Kubernetes does it."""
        version = folder / f".{uuid4().hex}"
        version.mkdir(mode=0o700)
        for name, content in self.files.items():
            _write(version / name, content)
        fresh = folder / "..data.new"
        fresh.symlink_to(version.name)
        fresh.rename(folder / "..data")
        for name in self.files:
            if not (folder / name).is_symlink():
                link = folder / f".{name}.new"
                link.symlink_to(f"..data/{name}")
                link.rename(folder / name)


def _write(path: Path, content: bytes) -> Path:
    path.touch(mode=0o600)
    path.write_bytes(content)
    return path


class Authority:
    """A CA. `intermediate` makes another under it, `issue` a workload certificate."""

    def __init__(self, name: str, parent: Authority | None = None, permitted: str = "") -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._parent = parent
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        builder = _builder(subject, parent or self, subject, dt.timedelta(0), 10 * DAY)
        builder = builder.public_key(self._key.public_key())
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        if permitted:
            constraint = x509.NameConstraints([x509.UniformResourceIdentifier(permitted)], None)
            builder = builder.add_extension(constraint, critical=True)
        self.certificate = builder.sign(parent._key if parent else self._key, hashes.SHA256())

    @property
    def root(self) -> x509.Certificate:
        return self._parent.root if self._parent else self.certificate

    def intermediate(self, name: str, *, permitted: str = "") -> Authority:
        """A CA under this one; ``permitted`` is the one trust domain it may issue for."""
        return Authority(name, self, permitted)

    def issue(self, name: str, *, dns: bool = False, age: dt.timedelta = dt.timedelta(0)) -> Identity:
        """A certificate for a day with one name, a SPIFFE ID unless it is a DNS name, made ``age`` ago."""
        key = ec.generate_private_key(ec.SECP256R1())
        builder = _builder(x509.Name([]), self, self.certificate.subject, age, DAY).public_key(key.public_key())
        names = [x509.DNSName(name) if dns else x509.UniformResourceIdentifier(name)]
        leaf = builder.add_extension(x509.SubjectAlternativeName(names), critical=True).sign(self._key, hashes.SHA256())
        chain = pem(leaf) + (pem(self.certificate) if self._parent else b"")
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        return Identity(chain, private, pem(self.root))


def pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _builder(
    subject: x509.Name, issuer: Authority, fallback: x509.Name, age: dt.timedelta, lifetime: dt.timedelta
) -> x509.CertificateBuilder:
    made = dt.datetime.now(dt.UTC) - age - dt.timedelta(minutes=1)
    issued_by = issuer.certificate.subject if hasattr(issuer, "certificate") else fallback
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issued_by)
        .serial_number(x509.random_serial_number())
        .not_valid_before(made)
        .not_valid_after(made + lifetime)
    )

"""TLS of the sample applications' own: a CA that the mesh knows nothing of, and what it signs.

It exists once a process, because server and client of the lab are parts of one.
"""

from __future__ import annotations

import ssl
import tempfile
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

_LIFETIME = timedelta(days=1)


@cache
def _authority() -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Lab Application CA")])
    builder = _certificate(name, name, key).add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    subject = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    return builder.add_extension(subject, critical=False).sign(key, hashes.SHA256()), key


def _certificate(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return x509.CertificateBuilder(
        subject_name=subject,
        issuer_name=issuer,
        public_key=key.public_key(),
        serial_number=x509.random_serial_number(),
        not_valid_before=now - timedelta(minutes=5),
        not_valid_after=now + _LIFETIME,
    )


def server_context(name: str) -> ssl.SSLContext:
    """For an application whose certificate is for the DNS name ``name``."""
    authority, signer = _authority()
    key = ec.generate_private_key(ec.SECP256R1())
    issuer_key = x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key())
    certificate = (
        _certificate(x509.Name([]), authority.subject, key)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=True)
        .add_extension(issuer_key, critical=False)
        .sign(signer, hashes.SHA256())
    )
    return _loaded(certificate, key)


def _loaded(certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> ssl.SSLContext:
    """Python reads a key from a file only: one that is gone right afterwards, in a directory of the owner's."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "application.pem"
        file.touch(mode=0o600)
        file.write_bytes(private + certificate.public_bytes(serialization.Encoding.PEM))
        context.load_cert_chain(file)
    return context


def client_context() -> ssl.SSLContext:
    """For a client that trusts the applications' CA and checks the name."""
    authority, _ = _authority()
    pem = authority.public_bytes(serialization.Encoding.PEM).decode()
    return ssl.create_default_context(cadata=pem)

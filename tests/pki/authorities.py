"""CAs for tests, and certificates that the library refuses to make."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from sidestep.pki.authority import Authority
from sidestep.pki.identity import Identity
from sidestep.pki.keys import encode_key, new_key
from sidestep.pki.pem import encode, read_certificates
from sidestep.pki.spiffe import SpiffeId

NOW = datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC)
BILLING = SpiffeId("cluster.local", "vms", "billing")
FOREIGN = SpiffeId("vms.example", "vms", "billing")
ROOT = Authority.new_root(NOW)
MESH = ROOT.new_intermediate(NOW, name="Mesh CA", trust_domain="cluster.local")
MACHINES = ROOT.new_intermediate(NOW, name="Machines CA", trust_domain="cluster.local", constrained=True)


def forged(ca: Authority, *uris: str, now: datetime = NOW, is_ca: bool = False) -> Identity:
    """An identity that ``ca`` signed without looking."""
    key = new_key()
    builder = x509.CertificateBuilder().subject_name(x509.Name([])).issuer_name(ca.certificate.subject)
    builder = builder.public_key(key.public_key()).serial_number(x509.random_serial_number())
    builder = builder.not_valid_before(now).not_valid_after(now + timedelta(hours=1))
    builder = builder.add_extension(x509.BasicConstraints(ca=is_ca, path_length=None), critical=True)
    if uris:
        names = [x509.UniformResourceIdentifier(uri) for uri in uris]
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=True)
    leaf = builder.sign(ca.key, hashes.SHA256())
    return Identity(encode_key(key), encode([leaf, ca.certificate, *ca.chain]), encode(ca.roots))


def request_for(*names: x509.GeneralName, key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | None = None) -> bytes:
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return builder.sign(key or new_key(), hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def uri(spiffe_id: SpiffeId) -> x509.UniformResourceIdentifier:
    return x509.UniformResourceIdentifier(str(spiffe_id))


def leaf_of(identity: Identity) -> x509.Certificate:
    return read_certificates(identity.chain, "chain")[0]

"""Certificate signing requests: what the holder of a key sends, and what whoever signs must check."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization

from sidestep.errors import CertificateError
from sidestep.pki.keys import check_public_key
from sidestep.pki.spiffe import SpiffeId

if TYPE_CHECKING:
    from sidestep.pki.keys import PrivateKey, PublicKey


@dataclass(frozen=True)
class Request:
    """A signing request that was checked: its holder has the private key, and asks for one name."""

    spiffe_id: SpiffeId
    public_key: PublicKey


def new_request(key: PrivateKey, spiffe_id: SpiffeId) -> bytes:
    """A request in PEM for ``spiffe_id``: no subject, hence one critical URI SAN (RFC 5280)."""
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    names = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(str(spiffe_id))])
    signed = builder.add_extension(names, critical=True).sign(key, hashes.SHA256())
    return signed.public_bytes(serialization.Encoding.PEM)


def read_request(pem: bytes) -> Request:
    """The request in ``pem``, checked: signature, kind of key, exactly one URI SAN and no other. `CertificateError`."""
    try:
        request = x509.load_pem_x509_csr(pem)
        valid = request.is_signature_valid
        extensions = request.extensions
        key = request.public_key()
    except (ValueError, UnsupportedAlgorithm, x509.DuplicateExtension) as problem:
        raise CertificateError(f"not a certificate signing request in PEM: {problem}") from problem
    if not valid:
        raise CertificateError("the certificate signing request is not signed by the key in it")
    return Request(sole_name(extensions, "the certificate signing request"), check_public_key(key, "the requested key"))


def sole_name(extensions: x509.Extensions, what: str) -> SpiffeId:
    """The one SPIFFE ID among ``extensions``.

    Istio's own verifier wants exactly one URI SAN, and a certificate with two would hold both identities; names of
    any other kind (DNS, IP, e-mail) have no place in a workload's certificate. `CertificateError` otherwise.
    """
    try:
        names = list(extensions.get_extension_for_class(x509.SubjectAlternativeName).value)
    except x509.ExtensionNotFound:
        names = []
    if len(names) != 1 or not isinstance(names[0], x509.UniformResourceIdentifier):
        found = ", ".join(_shown(name) for name in names) or "none"
        raise CertificateError(f"names (SAN) in {what}: found {found}; allowed: exactly one URI, a SPIFFE ID")
    return SpiffeId.parse(names[0].value)


def _shown(name: x509.GeneralName) -> str:
    kind = type(name).__name__.removesuffix("Name")
    return f"{'URI' if kind == 'UniformResourceIdentifier' else kind} {str(name.value)[:120]}"

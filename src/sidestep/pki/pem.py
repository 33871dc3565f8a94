"""Certificates out of PEM text, and the roots that a document names."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization

from sidestep.errors import CertificateError
from sidestep.pki.chain import check_ca, check_validity

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime

_LABEL = re.compile(rb"-----BEGIN ([^-\r\n]*)-----")
"""Anywhere: parsers find blocks after spaces, after a byte order mark and between bare carriage returns, too."""


def read_certificates(pem: bytes, what: str) -> tuple[x509.Certificate, ...]:
    """Every certificate in ``pem``, in order; text between the blocks is allowed, blocks of another kind are not.

    Raises `CertificateError`, naming ``what``, when there is none, one is damaged, or something else is in there.
    """
    blocks = _count_blocks(pem, what)
    try:
        certificates = tuple(x509.load_pem_x509_certificates(pem))
        for each in certificates:
            _read_all(each)
    except (ValueError, TypeError, x509.InvalidVersion, x509.DuplicateExtension, UnsupportedAlgorithm) as problem:
        raise CertificateError(f"{what}: a certificate in it is damaged: {problem}") from problem
    if len(certificates) != blocks:
        raise CertificateError(f"{what}: a certificate in it is damaged: it begins and does not end")
    return certificates


def _read_all(certificate: x509.Certificate) -> None:
    """Parts are only read when they are asked for: afterwards everybody may ask."""
    certificate.public_key()
    for part in ("subject", "issuer", "extensions", "not_valid_before_utc", "not_valid_after_utc"):
        getattr(certificate, part)


def read_roots(pem: bytes, now: datetime, what: str = "the roots file") -> tuple[x509.Certificate, ...]:
    """The trust anchors in ``pem``, each once, each a CA that is valid at ``now``.

    An intermediate CA may be an anchor: Envoy verifies partial chains (run with 1.40). Raises `CertificateError`,
    naming ``what``, for: no PEM, no certificate, a private key in it, a leaf, one that expired or is not yet valid.
    """
    roots = tuple(dict.fromkeys(read_certificates(pem, what)))
    for root in roots:
        check_ca(root, what)
        check_validity(root, now, what)
    return roots


def encode(certificates: Iterable[x509.Certificate]) -> bytes:
    """The certificates in PEM, one after the other."""
    return b"".join(certificate.public_bytes(serialization.Encoding.PEM) for certificate in certificates)


def _count_blocks(pem: bytes, what: str) -> int:
    """How many certificates begin in it. Raises `CertificateError` where there is none, or anything else."""
    labels = [label.decode("ascii", "replace") for label in _LABEL.findall(pem)]
    if any("PRIVATE KEY" in label for label in labels):
        raise CertificateError(
            f"{what} holds a private key",
            hint="Take it out, and treat the key as known to whoever could read the file.",
        )
    others = sorted({label for label in labels if label != "CERTIFICATE"})
    if others:
        raise CertificateError(f"{what}: found PEM of {', '.join(others)}; allowed: CERTIFICATE only")
    if not labels:
        raise CertificateError(f"{what}: found {_kind(pem)}; allowed: certificates in PEM")
    return len(labels)


def _kind(content: bytes) -> str:
    if not content.strip():
        return "nothing"
    if content.startswith(b"\x30\x82"):
        return "what looks like DER (openssl x509 -inform der converts it)"
    return "no certificate"

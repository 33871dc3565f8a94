"""Does a leaf lead to a root? The same questions that BoringSSL asks inside Envoy, answered with reasons.

Explicit checks, because `cryptography.x509.verification` knows no URI name constraints, and these are what keeps a CA
for machines inside its trust domain.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, TypeVar

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from sidestep.errors import CertificateError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import datetime

_Extension = TypeVar("_Extension", bound=x509.ExtensionType)

_MOMENT = "%Y-%m-%dT%H:%M:%SZ"

_UNDERSTOOD = (
    x509.BasicConstraints,
    x509.KeyUsage,
    x509.ExtendedKeyUsage,
    x509.SubjectAlternativeName,
    x509.NameConstraints,
    x509.CertificatePolicies,
    x509.PolicyConstraints,
    x509.InhibitAnyPolicy,
)


def build_path(
    leaf: x509.Certificate, intermediates: Sequence[x509.Certificate], roots: Sequence[x509.Certificate]
) -> tuple[x509.Certificate, ...]:
    """The certificates from ``leaf`` up to and including one of ``roots``, each signed by the next.

    Raises `CertificateError` naming the certificate whose issuer is missing.
    """
    path = [leaf]
    while path[-1] not in roots:
        issuer = _issuer_of(path[-1], roots) or _issuer_of(path[-1], [one for one in intermediates if one not in path])
        if issuer is None:
            raise CertificateError(
                f"the chain ends at {describe(path[-1])}: its issuer {_name(path[-1].issuer)} "
                "is neither in the chain nor among the roots"
            )
        path.append(issuer)
    return tuple(path)


def check_path(path: Sequence[x509.Certificate], now: datetime) -> None:
    """Check a path from `build_path` as of ``now``; raise `CertificateError` for the first thing that is wrong.

    Checked: validity of each; that each issuer is a CA, may sign certificates for TLS, and is not too far up (pathlen);
    URI name constraints of each CA on all below it; critical extensions nobody here understands. Names that are no
    URIs are not held against constraints: a workload's certificate has none.
    """
    for depth, certificate in enumerate(path):
        check_validity(certificate, now, "the chain")
        _check_critical(certificate)
        if depth:
            check_ca(certificate, "the chain")
            _check_path_length(certificate, sum(is_ca(one) for one in path[:depth]))
            for uri in (uri for one in path[:depth] for uri in uris(one)):
                check_constraints(certificate, uri)


def check_validity(certificate: x509.Certificate, now: datetime, what: str) -> None:
    """`CertificateError`, naming ``what``, unless ``now`` lies within the certificate's life."""
    begins, ends = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if now > ends:
        raise CertificateError(f"{what}: {describe(certificate)} expired at {ends:{_MOMENT}}")
    if now < begins:
        raise CertificateError(
            f"{what}: {describe(certificate)} is not valid before {begins:{_MOMENT}}",
            hint="Check this machine's clock.",
        )


def is_ca(certificate: x509.Certificate) -> bool:
    """Whether the certificate says of itself that it is a CA."""
    constraints = extension(certificate, x509.BasicConstraints)
    return constraints is not None and constraints.ca


def check_ca(certificate: x509.Certificate, what: str) -> None:
    """`CertificateError`, naming ``what``, unless the certificate may sign others for TLS servers and clients."""
    if not is_ca(certificate):
        raise CertificateError(f"{what}: {describe(certificate)} is not a CA (basicConstraints CA:true is missing)")
    usage = extension(certificate, x509.KeyUsage)
    if usage is not None and not usage.key_cert_sign:
        raise CertificateError(
            f"{what}: {describe(certificate)} may not sign certificates (keyUsage keyCertSign is missing)"
        )
    purposes = extension(certificate, x509.ExtendedKeyUsage)
    if purposes is not None and not {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH} <= set(purposes):
        raise CertificateError(
            f"{what}: {describe(certificate)} may not sign for both servers and clients (extendedKeyUsage limits it)"
        )


def check_constraints(ca: x509.Certificate, uri: str) -> None:
    """`CertificateError` unless the URI name constraints of ``ca`` allow ``uri``.

    They look at the host only (RFC 5280, 4.2.1.10), which in a SPIFFE ID is the trust domain. Envoy enforces them.
    """
    constraints = extension(ca, x509.NameConstraints)
    if constraints is None:
        return
    host = re.split("[:/]", uri.partition("://")[2])[0].lower()
    permitted = _constrained_hosts(constraints.permitted_subtrees or ())
    excluded = _constrained_hosts(constraints.excluded_subtrees or ())
    if any(_covers(one, host) for one in excluded):
        reason = f"exclude {', '.join(excluded)}"
    elif permitted and not any(_covers(one, host) for one in permitted):
        reason = f"allow only {', '.join(permitted)}"
    else:
        reason = ""
    if reason:
        raise CertificateError(
            f"{describe(ca)} may not sign {uri}: its name constraints {reason}",
            hint="sidestep ca init --trust-domain NAME makes a CA for another trust domain",
        )


def extension(certificate: x509.Certificate, kind: type[_Extension]) -> _Extension | None:
    """The certificate's extension of ``kind``, or None. `CertificateError` when the extensions cannot be read."""
    try:
        return certificate.extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None
    except (ValueError, x509.DuplicateExtension) as problem:
        raise CertificateError(
            f"{_name(certificate.subject) or 'a certificate'} has extensions that cannot be read: {problem}"
        ) from problem


def uris(certificate: x509.Certificate) -> list[str]:
    """Every URI among the certificate's names."""
    names = extension(certificate, x509.SubjectAlternativeName)
    return [] if names is None else names.get_values_for_type(x509.UniformResourceIdentifier)


def is_self_signed(certificate: x509.Certificate) -> bool:
    """Whether its own key signed it. Names do not tell: an intermediate may be called as its root is."""
    return _signed(certificate, certificate)


def describe(certificate: x509.Certificate) -> str:
    """The certificate in words for a message: its subject, else its URIs, else its serial number."""
    return _name(certificate.subject) or ", ".join(uris(certificate)) or f"serial {certificate.serial_number:x}"


def _issuer_of(certificate: x509.Certificate, candidates: Iterable[x509.Certificate]) -> x509.Certificate | None:
    issuers = [one for one in candidates if _signed(certificate, one)]
    return max(issuers, key=lambda one: one.not_valid_after_utc, default=None)


def _signed(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        return False
    return True


def _check_critical(certificate: x509.Certificate) -> None:
    unknown = [
        one.oid.dotted_string
        for one in certificate.extensions
        if one.critical and not isinstance(one.value, _UNDERSTOOD)
    ]
    if unknown:
        raise CertificateError(
            f"{describe(certificate)} has critical extensions that are not understood: {', '.join(unknown)}"
        )


def _check_path_length(ca: x509.Certificate, below: int) -> None:
    constraints = extension(ca, x509.BasicConstraints)
    allowed = None if constraints is None else constraints.path_length
    if allowed is not None and below > allowed:
        raise CertificateError(f"{describe(ca)} may have {allowed} CAs below it (pathlen), the chain has {below}")


def _constrained_hosts(subtrees: Iterable[x509.GeneralName]) -> list[str]:
    return [name.value.lower() for name in subtrees if isinstance(name, x509.UniformResourceIdentifier)]


def _covers(constraint: str, host: str) -> bool:
    return host.endswith(constraint) if constraint.startswith(".") else host == constraint


def _name(name: x509.Name) -> str:
    common = name.get_attributes_for_oid(NameOID.COMMON_NAME)
    return repr(str(common[0].value)) if common else name.rfc4514_string()

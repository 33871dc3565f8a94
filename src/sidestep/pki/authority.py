"""A CA that can sign: made, loaded and used."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from functools import cached_property
from ipaddress import IPv4Network, IPv6Network
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from sidestep.errors import CertificateError
from sidestep.pki.chain import build_path, check_ca, check_constraints, check_path, extension, is_self_signed, uris
from sidestep.pki.keys import PrivateKey, encode_key, new_key, read_key, same_public_key
from sidestep.pki.pem import encode, read_certificates, read_roots
from sidestep.pki.requests import read_request
from sidestep.pki.spiffe import check_trust_domain

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from sidestep.pki.keys import PublicKey
    from sidestep.pki.spiffe import SpiffeId

CA_LIFETIME = timedelta(days=3650)
"""Ten years, for roots and intermediates, as in Istio's ``tools/certs``."""

LEAF_LIFETIME = timedelta(hours=24)
"""Istio's default (``DEFAULT_WORKLOAD_CERT_TTL``)."""

LONGEST_LEAF_LIFETIME = timedelta(days=90)
"""Istio's maximum (``MAX_WORKLOAD_CERT_TTL``)."""

CLOCK_SKEW = timedelta(minutes=2)
"""How far back a certificate's life begins, for clocks that lag; Istio's ``ClockSkewGracePeriod``."""

CERTIFICATE_FILE, KEY_FILE, CHAIN_FILE, ROOTS_FILE = "ca-cert.pem", "ca-key.pem", "cert-chain.pem", "root-cert.pem"
CA_FILES = (CERTIFICATE_FILE, KEY_FILE, ROOTS_FILE, CHAIN_FILE)
"""Istio's names for the files of a CA, which are also the keys of the secret ``cacerts``."""


@dataclass(frozen=True)
class Authority:
    """A CA with its key. ``chain`` holds the CAs above it, nearest first, without the root; ``roots`` the anchors."""

    key: PrivateKey = field(repr=False)
    certificate: x509.Certificate
    chain: tuple[x509.Certificate, ...]
    roots: tuple[x509.Certificate, ...]

    @classmethod
    def new_root(cls, now: datetime, *, name: str = "Root CA") -> Authority:
        """A self-signed root: ECDSA P-256, ten years."""
        key, subject = new_key(), _subject(name)
        certificate = _ca_builder(subject, subject, key.public_key(), (now - CLOCK_SKEW, now + CA_LIFETIME), None)
        certificate = certificate.add_extension(_authority_key_id(key.public_key(), None), critical=False)
        signed = certificate.sign(key, hashes.SHA256())
        return cls(key, signed, (), (signed,))

    def new_intermediate(self, now: datetime, *, name: str, trust_domain: str, constrained: bool = False) -> Authority:
        """A CA under this one that signs leaves only (pathlen 0), named ``spiffe://<trust domain>`` as SPIFFE advises.

        ``constrained`` adds the critical name constraint that lets it sign for that trust domain and no other, and for
        no host: what permits some URIs says nothing of DNS names and addresses (RFC 5280, 4.2.1.10).
        """
        self._check_usable(now)
        key, life = new_key(), (now - CLOCK_SKEW, min(now + CA_LIFETIME, self._ends()))
        builder = _ca_builder(_subject(name), self.certificate.subject, key.public_key(), life, 0)
        builder = builder.add_extension(self._key_id(), critical=False)
        builder = builder.add_extension(_uri(f"spiffe://{check_trust_domain(trust_domain)}"), critical=False)
        if constrained:
            permitted = [x509.UniformResourceIdentifier(trust_domain)]
            builder = builder.add_extension(x509.NameConstraints(permitted, _HOSTS), critical=True)
        signed = builder.sign(self.key, hashes.SHA256())
        made = Authority(key, signed, self._sent(), self.roots)
        made._check_usable(now)
        return made

    @classmethod
    def load(cls, files: Mapping[str, bytes], now: datetime) -> Authority:
        """The CA in ``files``, named as in Istio's ``cacerts``: ca-cert.pem, ca-key.pem, root-cert.pem, cert-chain.pem.

        Raises `CertificateError` unless the key is the certificate's, the certificate is a CA that may sign, and its
        chain leads to a root, everything being valid at ``now``. cert-chain.pem may be absent for a CA right under
        the root, and may repeat the CA and the root, as Istio's tools write it.
        """
        certificate, *above = read_certificates(_file(files, CERTIFICATE_FILE), CERTIFICATE_FILE)
        key = read_key(_file(files, KEY_FILE), KEY_FILE)
        roots = read_roots(_file(files, ROOTS_FILE), now, ROOTS_FILE)
        above += read_certificates(files[CHAIN_FILE], CHAIN_FILE) if CHAIN_FILE in files else ()
        if not same_public_key(key.public_key(), certificate.public_key()):
            raise CertificateError(f"{KEY_FILE} is not the key of {CERTIFICATE_FILE}")
        check_ca(certificate, CERTIFICATE_FILE)
        path = build_path(certificate, above, roots)
        check_path(path, now)
        return cls(key, certificate, tuple(one for one in path[1:] if one not in roots), roots)

    def files(self) -> dict[str, bytes]:
        """The CA as `load` reads it and istiod mounts it; cert-chain.pem is this CA, then upwards to the root."""
        return {
            CERTIFICATE_FILE: encode([self.certificate]),
            KEY_FILE: encode_key(self.key),
            ROOTS_FILE: encode(self.roots),
            CHAIN_FILE: encode(self._path),
        }

    @property
    def trust_domain(self) -> str | None:
        """The trust domain that this CA was made for by `new_intermediate`; None when it does not say."""
        names = [uri.removeprefix("spiffe://") for uri in uris(self.certificate) if uri.startswith("spiffe://")]
        return names[0] if len(names) == 1 else None

    def sign(self, request: bytes, spiffe_id: SpiffeId, now: datetime, lifetime: timedelta = LEAF_LIFETIME) -> bytes:
        """The certificate for ``request`` (PEM), in PEM with every intermediate after it and without the root.

        The name is ``spiffe_id``, which the request must ask for too. The life ends with the CA's at the latest.
        Raises `CertificateError` for a bad request, another name, a name outside the name constraints of this CA or
        one above it, a CA that has expired, or a lifetime outside 0 to 90 days.
        """
        _check_lifetime(lifetime)
        self._check_usable(now)
        asked = read_request(request)
        if asked.spiffe_id != spiffe_id:
            raise CertificateError(f"the signing request asks for {asked.spiffe_id}; allowed: {spiffe_id}")
        for ca in self._path:
            check_constraints(ca, str(spiffe_id))
        leaf = _leaf_builder(self.certificate.subject, asked.public_key, spiffe_id)
        leaf = leaf.not_valid_before(now - CLOCK_SKEW).not_valid_after(min(now + lifetime, self._ends()))
        signed = leaf.add_extension(self._key_id(), critical=False).sign(self.key, hashes.SHA256())
        return encode([signed, *self._sent()])

    def _sent(self) -> tuple[x509.Certificate, ...]:
        """What a peer needs besides a certificate signed here and the root."""
        return () if is_self_signed(self.certificate) else (self.certificate, *self.chain)

    @cached_property
    def _path(self) -> tuple[x509.Certificate, ...]:
        """This CA, and those above it up to the root."""
        return build_path(self.certificate, self.chain, self.roots)

    def _check_usable(self, now: datetime) -> None:
        check_ca(self.certificate, "the CA")
        check_path(self._path, now)

    def _ends(self) -> datetime:
        return min(one.not_valid_after_utc for one in self._path)

    def _key_id(self) -> x509.AuthorityKeyIdentifier:
        return _authority_key_id(self.key.public_key(), extension(self.certificate, x509.SubjectKeyIdentifier))


_HOSTS = [
    x509.DNSName(""),
    x509.IPAddress(IPv4Network("0.0.0.0/0")),
    x509.IPAddress(IPv6Network("::/0")),
]
"""Every host: what TLS clients and servers are known by that have no SPIFFE ID."""


def _check_lifetime(lifetime: timedelta) -> None:
    if not timedelta(0) < lifetime <= LONGEST_LEAF_LIFETIME:
        raise CertificateError(f"lifetime of a certificate: found {lifetime}; allowed: more than 0, up to 90 days")


def _file(files: Mapping[str, bytes], name: str) -> bytes:
    if name not in files:
        raise CertificateError(f"{name} is missing from the CA")
    return files[name]


def _subject(name: str) -> x509.Name:
    return x509.Name(
        [x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Sidestep"), x509.NameAttribute(NameOID.COMMON_NAME, name)]
    )


def _uri(uri: str) -> x509.SubjectAlternativeName:
    return x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri)])


def _ca_builder(
    subject: x509.Name, issuer: x509.Name, key: PublicKey, life: tuple[datetime, datetime], path_length: int | None
) -> x509.CertificateBuilder:
    """A CA with so many CAs below it at most: 0 signs leaves only."""
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key)
    builder = builder.serial_number(x509.random_serial_number()).not_valid_before(life[0]).not_valid_after(life[1])
    constraints = x509.BasicConstraints(ca=True, path_length=path_length)
    builder = builder.add_extension(constraints, critical=True).add_extension(_usage(ca=True), critical=True)
    return builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)


def _leaf_builder(issuer: x509.Name, key: PublicKey, spiffe_id: SpiffeId) -> x509.CertificateBuilder:
    """Everything but the life and the issuer's key; like istiod's: no subject, hence a critical SAN (RFC 5280)."""
    purposes = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH])
    builder = x509.CertificateBuilder().subject_name(x509.Name([])).issuer_name(issuer).public_key(key)
    builder = builder.serial_number(x509.random_serial_number())
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    builder = builder.add_extension(_usage(ca=False), critical=True).add_extension(purposes, critical=False)
    return builder.add_extension(_uri(str(spiffe_id)), critical=True)


def _usage(*, ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not ca,
        key_encipherment=not ca,
        key_cert_sign=ca,
        crl_sign=ca,
        content_commitment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _authority_key_id(key: PublicKey, subject_key_id: x509.SubjectKeyIdentifier | None) -> x509.AuthorityKeyIdentifier:
    if subject_key_id is not None:
        return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(subject_key_id)
    return x509.AuthorityKeyIdentifier.from_issuer_public_key(key)

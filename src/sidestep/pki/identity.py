"""What a workload holds: its key, its certificate chain, and the roots it trusts."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from sidestep.errors import CertificateError
from sidestep.pki.authority import LEAF_LIFETIME
from sidestep.pki.chain import build_path, check_path, is_ca
from sidestep.pki.keys import check_public_key, encode_key, new_key, read_key, same_public_key
from sidestep.pki.pem import encode, read_certificates, read_roots
from sidestep.pki.requests import new_request, sole_name

if TYPE_CHECKING:
    from datetime import datetime, timedelta

    from cryptography import x509

    from sidestep.pki.authority import Authority
    from sidestep.pki.spiffe import SpiffeId

CHAIN_FILE, KEY_FILE, ROOTS_FILE = "cert-chain.pem", "key.pem", "root-cert.pem"
"""The names that Istio's agent gives the three files of an identity."""


@dataclass(frozen=True)
class Identity:
    """A workload's key, chain (leaf first, every intermediate, not the root) and roots, each as PEM bytes.

    Making one checks nothing; `verify` does. Properties raise `CertificateError` when the chain cannot be read.
    """

    key: bytes = field(repr=False)
    chain: bytes
    roots: bytes

    @property
    def spiffe_id(self) -> SpiffeId:
        """The one name in the leaf."""
        return sole_name(self._certificates[0].extensions, "the certificate")

    @property
    def not_before(self) -> datetime:
        """When the leaf's life begins, in UTC."""
        return self._certificates[0].not_valid_before_utc

    @property
    def not_after(self) -> datetime:
        """When the leaf's life ends, in UTC."""
        return self._certificates[0].not_valid_after_utc

    def files(self) -> dict[str, bytes]:
        """The three files, under the names that Istio's agent gives them."""
        return {CHAIN_FILE: self.chain, KEY_FILE: self.key, ROOTS_FILE: self.roots}

    def verify(self, now: datetime) -> None:
        """Raise `CertificateError` unless a peer with the same roots would accept this identity at ``now``.

        The key is the leaf's, the leaf has one name (a SPIFFE ID) and is no CA, and the chain leads to one of the
        roots with every rule of `pki.chain.check_path` kept.
        """
        leaf, *intermediates = self._certificates
        check_public_key(leaf.public_key(), "the certificate's key")
        if not same_public_key(read_key(self.key).public_key(), leaf.public_key()):
            raise CertificateError("the private key is not the certificate's")
        sole_name(leaf.extensions, "the certificate")
        if is_ca(leaf):
            raise CertificateError("the chain begins with a CA; allowed: the workload's certificate first")
        check_path(build_path(leaf, intermediates, read_roots(self.roots, now, "the roots")), now)

    @cached_property
    def _certificates(self) -> tuple[x509.Certificate, ...]:
        return read_certificates(self.chain, "the certificate chain")


def issue(authority: Authority, spiffe_id: SpiffeId, now: datetime, lifetime: timedelta = LEAF_LIFETIME) -> Identity:
    """A verified identity from a CA at hand: a new key, a request for ``spiffe_id``, signed. `CertificateError`."""
    key = new_key()
    chain = authority.sign(new_request(key, spiffe_id), spiffe_id, now, lifetime)
    identity = Identity(encode_key(key), chain, encode(authority.roots))
    identity.verify(now)
    return identity

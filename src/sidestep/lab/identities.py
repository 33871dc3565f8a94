"""The certificates of the lab: the mesh's, the machines', and those that must be refused."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives import hashes

from sidestep.pki.authority import Authority
from sidestep.pki.identity import Identity, issue
from sidestep.pki.pem import encode, read_certificates

if TYPE_CHECKING:
    from datetime import datetime

    from sidestep.pki.spiffe import SpiffeId

_AGE = timedelta(days=3)
"""The CAs are this old, so that a certificate can have expired."""


@dataclass(frozen=True)
class Authorities:
    """The mesh's root, istiod's intermediate under it, and its sibling, which signs for machines."""

    root: Authority
    istiod: Authority
    machines: Authority
    now: datetime

    @classmethod
    def make(cls, trust_domain: str, now: datetime) -> Authorities:
        """A new root and what hangs under it."""
        past = now - _AGE
        root = Authority.new_root(past, name="Lab Root CA")
        istiod = root.new_intermediate(past, name="Lab Istio CA", trust_domain=trust_domain)
        machines = root.new_intermediate(past, name="Lab Machine CA", trust_domain=trust_domain)
        return cls(root, istiod, machines, now)

    def workload(self, spiffe_id: SpiffeId) -> Identity:
        """What istiod would give to a pod."""
        return issue(self.istiod, spiffe_id, self.now)

    def machine(self, spiffe_id: SpiffeId, *, lifetime: timedelta = timedelta(hours=24)) -> Identity:
        """A machine's certificate; with another trust domain in its name, one that the mesh must refuse."""
        return issue(self.machines, spiffe_id, self.now, lifetime)

    def expired(self, spiffe_id: SpiffeId) -> Identity:
        """A machine's certificate that ended an hour ago."""
        return issue(self.machines, spiffe_id, self.now - timedelta(hours=25), timedelta(hours=24))

    def of_another_root(self, spiffe_id: SpiffeId) -> Identity:
        """The right name from the wrong CA. It trusts the mesh, so that only the mesh refuses."""
        stranger = issue(Authority.new_root(self.now, name="Other Root CA"), spiffe_id, self.now)
        return replace(stranger, roots=encode(self.root.roots))

    def outside_its_constraint(self, spiffe_id: SpiffeId, *, permitted: str) -> Identity:
        """Signed by a CA under the mesh's root whose name constraint permits another trust domain only.

        The CA of `sidestep.pki` refuses to sign such a thing. Whoever has stolen the key does not.
        """
        past = self.now - timedelta(days=1)
        constrained = self.root.new_intermediate(past, name="Stolen CA", trust_domain=permitted, constrained=True)
        honest = self.machine(spiffe_id)
        leaf = _signed_again(read_certificates(honest.chain, "the chain")[0], constrained)
        return replace(honest, chain=encode([leaf, constrained.certificate]))


def _signed_again(leaf: x509.Certificate, authority: Authority) -> x509.Certificate:
    builder = x509.CertificateBuilder(
        issuer_name=authority.certificate.subject,
        subject_name=leaf.subject,
        public_key=leaf.public_key(),
        serial_number=x509.random_serial_number(),
        not_valid_before=leaf.not_valid_before_utc,
        not_valid_after=leaf.not_valid_after_utc,
    )
    for extension in leaf.extensions:
        if not isinstance(extension.value, x509.AuthorityKeyIdentifier):
            builder = builder.add_extension(extension.value, critical=extension.critical)
    return builder.sign(authority.key, hashes.SHA256())

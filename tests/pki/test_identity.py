"""Whether a peer would accept an identity."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes

from sidestep.errors import CertificateError
from sidestep.pki.authority import CA_LIFETIME, Authority
from sidestep.pki.chain import build_path, check_path
from sidestep.pki.identity import issue
from sidestep.pki.keys import read_key
from sidestep.pki.pem import encode
from tests.pki.authorities import BILLING, FOREIGN, MESH, NOW, ROOT, forged, leaf_of


def test_a_good_identity_verifies_until_it_expires() -> None:
    identity = issue(MESH, BILLING, NOW)
    identity.verify(identity.not_after)
    with pytest.raises(CertificateError, match="expired"):
        identity.verify(identity.not_after + timedelta(seconds=1))
    with pytest.raises(CertificateError, match="not valid before"):
        identity.verify(identity.not_before - timedelta(seconds=1))


def test_an_identity_with_two_names_or_none_is_refused() -> None:
    forged(MESH, str(BILLING)).verify(NOW)
    for identity in (forged(MESH, str(BILLING), str(FOREIGN)), forged(MESH)):
        with pytest.raises(CertificateError, match="exactly one URI"):
            identity.verify(NOW)


def test_a_ca_is_no_identity() -> None:
    with pytest.raises(CertificateError, match="begins with a CA"):
        forged(MESH, str(BILLING), is_ca=True).verify(NOW)


def test_an_identity_of_parts_that_do_not_belong_together_is_refused() -> None:
    good, other = issue(MESH, BILLING, NOW), issue(MESH, BILLING, NOW)
    with pytest.raises(CertificateError, match="not the certificate's"):
        replace(good, key=other.key).verify(NOW)
    with pytest.raises(CertificateError, match="neither in the chain nor among the roots"):
        replace(good, roots=encode(Authority.new_root(NOW).roots)).verify(NOW)
    with pytest.raises(CertificateError, match="neither in the chain nor among the roots"):
        replace(good, chain=encode([leaf_of(good)])).verify(NOW)


def test_a_ca_below_a_ca_that_may_have_none_is_refused() -> None:
    below = forged(MESH, is_ca=True)
    rogue = Authority(read_key(below.key), leaf_of(below), (MESH.certificate,), MESH.roots)
    with pytest.raises(CertificateError, match="pathlen"):
        check_path(build_path(rogue.certificate, rogue.chain, rogue.roots), NOW)
    with pytest.raises(CertificateError, match="pathlen"):
        forged(rogue, str(BILLING)).verify(NOW)
    with pytest.raises(CertificateError, match="pathlen"):
        MESH.new_intermediate(NOW, name="Below", trust_domain="cluster.local")


def test_the_longest_living_of_two_equal_roots_is_used() -> None:
    later = NOW + CA_LIFETIME + timedelta(days=1)
    old, identity = ROOT.certificate, issue(MESH, BILLING, NOW)
    builder = x509.CertificateBuilder(old.issuer, old.subject, old.public_key(), 7, NOW, later, list(old.extensions))
    renewed = builder.sign(ROOT.key, hashes.SHA256())
    path = build_path(leaf_of(identity), [MESH.certificate], [old, renewed])
    assert path[-1] == renewed

"""CAs: made, read, written, and refused."""

from __future__ import annotations

from datetime import datetime, timedelta
from ipaddress import IPv4Network, IPv6Network

import pytest
from cryptography import x509

from sidestep.errors import CertificateError
from sidestep.pki.authority import CA_LIFETIME, Authority
from sidestep.pki.identity import issue
from sidestep.pki.keys import encode_key, new_key
from sidestep.pki.pem import encode, read_certificates
from tests.pki.authorities import BILLING, MACHINES, MESH, NOW, ROOT, leaf_of


def test_the_root_lives_ten_years_and_may_sign() -> None:
    certificate = ROOT.certificate
    usage = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
    assert (usage.key_cert_sign, usage.crl_sign, usage.digital_signature) == (True, True, False)
    assert certificate.not_valid_after_utc == NOW + CA_LIFETIME
    assert certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.path_length is None


def test_the_machines_ca_is_a_constrained_sibling_of_the_meshs() -> None:
    for ca in (MESH, MACHINES):
        extensions = ca.certificate.extensions
        basic = extensions.get_extension_for_class(x509.BasicConstraints)
        assert (basic.critical, basic.value.ca, basic.value.path_length) == (True, True, 0)
        ca.certificate.verify_directly_issued_by(ROOT.certificate)
        root_id = ROOT.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
        key_id = extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value
        assert key_id.key_identifier == root_id.digest
    constraint = MACHINES.certificate.extensions.get_extension_for_class(x509.NameConstraints)
    assert constraint.critical
    assert constraint.value.permitted_subtrees == [x509.UniformResourceIdentifier("cluster.local")]
    addresses = [x509.IPAddress(IPv4Network("0.0.0.0/0")), x509.IPAddress(IPv6Network("::/0"))]
    hosts = [x509.DNSName(""), *addresses]
    assert constraint.value.excluded_subtrees == hosts
    with pytest.raises(x509.ExtensionNotFound):
        MESH.certificate.extensions.get_extension_for_class(x509.NameConstraints)


def test_a_ca_survives_reading_and_writing() -> None:
    for ca in (ROOT, MESH, MACHINES):
        loaded = Authority.load(ca.files(), NOW)
        assert loaded.files() == ca.files()
        issue(loaded, BILLING, NOW).verify(NOW)


def test_the_ca_chain_is_this_ca_then_the_root() -> None:
    assert read_certificates(MESH.files()["cert-chain.pem"], "chain") == (MESH.certificate, ROOT.certificate)


def test_an_intermediate_may_be_called_as_its_root_is() -> None:
    """As with openssl, where nobody says a name for each."""
    ca = ROOT.new_intermediate(NOW, name="Root CA", trust_domain="cluster.local")
    assert ca.certificate.subject == ROOT.certificate.subject
    identity = issue(Authority.load(ca.files(), NOW), BILLING, NOW)
    identity.verify(NOW)
    assert read_certificates(identity.chain, "chain")[1:] == (ca.certificate,)


def test_a_ca_under_the_root_needs_no_chain_file() -> None:
    files = MESH.files()
    del files["cert-chain.pem"]
    assert Authority.load(files, NOW).chain == ()


@pytest.mark.parametrize(
    ("change", "now", "reason"),
    [
        ({"ca-key.pem": encode_key(new_key())}, NOW, "not the key of ca-cert.pem"),
        ({"ca-cert.pem": b""}, NOW, "ca-cert.pem: found nothing"),
        ({"ca-cert.pem": b"\x30\x82\x01"}, NOW, "DER"),
        ({"root-cert.pem": encode(Authority.new_root(NOW).roots)}, NOW, "neither in the chain nor among the roots"),
        ({}, NOW + CA_LIFETIME + timedelta(seconds=1), "expired"),
        ({}, NOW - timedelta(minutes=3), "not valid before"),
    ],
)
def test_a_damaged_ca_is_refused(change: dict[str, bytes], now: datetime, reason: str) -> None:
    with pytest.raises(CertificateError, match=reason):
        Authority.load(MESH.files() | change, now)


@pytest.mark.parametrize("name", ["ca-cert.pem", "ca-key.pem", "root-cert.pem"])
def test_an_incomplete_ca_is_refused(name: str) -> None:
    files = MESH.files()
    del files[name]
    with pytest.raises(CertificateError, match=f"{name} is missing"):
        Authority.load(files, NOW)


def test_a_leaf_is_no_ca() -> None:
    leaf = issue(MESH, BILLING, NOW)
    files = MESH.files() | {"ca-cert.pem": encode([leaf_of(leaf)]), "ca-key.pem": leaf.key}
    with pytest.raises(CertificateError, match="is not a CA"):
        Authority.load(files, NOW)

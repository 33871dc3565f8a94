"""Keys, names, CAs and chains. `forged` makes what the library refuses to make."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID

from sidestep.errors import CertificateError
from sidestep.pki.authority import CA_LIFETIME, Authority
from sidestep.pki.chain import build_path, check_path
from sidestep.pki.identity import Identity, issue
from sidestep.pki.keys import encode_key, new_key, read_key
from sidestep.pki.pem import encode, read_certificates, read_roots
from sidestep.pki.requests import new_request, read_request
from sidestep.pki.spiffe import SpiffeId

if TYPE_CHECKING:
    from pathlib import Path

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


# Names


@pytest.mark.parametrize(
    "text",
    [
        "spiffe://cluster.local/ns/vms/sa/billing",
        "spiffe://a_b-c.1/ns/0/sa/billing.v2",
        f"spiffe://{'t' * 255}/ns/{'n' * 63}/sa/{'s' * 63}.{'s' * 63}",
    ],
)
def test_a_spiffe_id_survives_reading_and_writing(text: str) -> None:
    assert str(SpiffeId.parse(text)) == text
    assert SpiffeId.parse(text).principal == text.removeprefix("spiffe://")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "cluster.local/ns/vms/sa/billing",
        "SPIFFE://cluster.local/ns/vms/sa/billing",
        "spiffe://Cluster.local/ns/vms/sa/billing",
        "spiffe:///ns/vms/sa/billing",
        "spiffe://.example/ns/vms/sa/billing",
        "spiffe://a..b/ns/vms/sa/billing",
        "spiffe://cluster.local:80/ns/vms/sa/billing",
        "spiffe://user@cluster.local/ns/vms/sa/billing",
        "spiffe://cluster.local/ns/vms/sa/billing/",
        "spiffe://cluster.local/ns/vms/sa/billing?x=1",
        "spiffe://cluster.local/ns/vms/sa/billing#x",
        "spiffe://cluster.local/ns/vms/sa/bil%6cing",
        "spiffe://cluster.local/ns/../sa/billing",
        "spiffe://cluster.local/ns/vms/sa/",
        "spiffe://cluster.local/ns/vms/sa/-billing",
        "spiffe://cluster.local/ns/vms/sa/billing\n",
        "spiffe://cluster.local/ns/v.ms/sa/billing",
        "spiffe://cluster.local/sa/billing/ns/vms",
        "spiffe://clüster.local/ns/vms/sa/billing",
        f"spiffe://{'t' * 256}/ns/vms/sa/billing",
        f"spiffe://cluster.local/ns/{'n' * 64}/sa/billing",
        f"spiffe://cluster.local/ns/vms/sa/{'s' * 254}",
    ],
)
def test_what_is_no_spiffe_id_is_refused_with_what_is_allowed(text: str) -> None:
    with pytest.raises(CertificateError, match=r"found .*allowed"):
        SpiffeId.parse(text)


# Keys


def test_a_key_survives_reading_and_writing() -> None:
    key = new_key()
    assert key.curve.name == "secp256r1"
    assert encode_key(key).startswith(b"-----BEGIN PRIVATE KEY-----")
    assert encode_key(read_key(encode_key(key))) == encode_key(key)


def key_pem(
    key: ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey, password: bytes = b""
) -> bytes:
    encryption = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)


@pytest.mark.parametrize(
    ("pem", "reason"),
    [
        (b"", "not a private key"),
        (b"\x00\xff", "not a private key"),
        (encode([ROOT.certificate]), "not a private key"),
        (key_pem(new_key(), b"secret"), "encrypted"),
        (key_pem(ed25519.Ed25519PrivateKey.generate()), "found Ed25519.*allowed"),
        (key_pem(ec.generate_private_key(ec.SECP521R1())), "found ECDSA secp521r1.*allowed"),
        (key_pem(rsa.generate_private_key(65537, 1024)), "found RSA of 1024 bits.*allowed"),
    ],
)
def test_other_keys_are_refused(pem: bytes, reason: str) -> None:
    with pytest.raises(CertificateError, match=reason):
        read_key(pem)


# Requests


def test_a_request_carries_one_name_and_no_subject() -> None:
    pem = new_request(new_key(), BILLING)
    assert read_request(pem).spiffe_id == BILLING
    assert not x509.load_pem_x509_csr(pem).subject.rdns


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        ([], "found none"),
        ([uri(BILLING), uri(FOREIGN)], "exactly one URI"),
        ([uri(BILLING), x509.DNSName("billing")], "found .*DNS billing.*exactly one URI"),
        ([x509.DNSName("billing")], "exactly one URI"),
        ([x509.UniformResourceIdentifier("https://billing")], "not a SPIFFE ID"),
    ],
)
def test_a_request_with_other_names_is_refused(names: list[x509.GeneralName], reason: str) -> None:
    with pytest.raises(CertificateError, match=reason):
        read_request(request_for(*names))


def test_a_request_that_its_key_did_not_sign_is_refused() -> None:
    der = bytearray(x509.load_pem_x509_csr(new_request(new_key(), BILLING)).public_bytes(serialization.Encoding.DER))
    position = der.index(b"billing")
    der[position : position + 7] = b"gnillib"
    tampered = x509.load_der_x509_csr(bytes(der)).public_bytes(serialization.Encoding.PEM)
    with pytest.raises(CertificateError, match="not signed by the key in it"):
        read_request(tampered)


def test_a_request_for_a_weak_key_is_refused() -> None:
    with pytest.raises(CertificateError, match="RSA of 1024 bits"):
        read_request(request_for(uri(BILLING), key=rsa.generate_private_key(65537, 1024)))


@pytest.mark.parametrize("pem", [b"", b"junk", encode([ROOT.certificate])])
def test_what_is_no_request_is_refused(pem: bytes) -> None:
    with pytest.raises(CertificateError, match="not a certificate signing request"):
        read_request(pem)


# CAs


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
    with pytest.raises(x509.ExtensionNotFound):
        MESH.certificate.extensions.get_extension_for_class(x509.NameConstraints)


def test_a_ca_survives_reading_and_writing() -> None:
    for ca in (ROOT, MESH, MACHINES):
        loaded = Authority.load(ca.files(), NOW)
        assert loaded.files() == ca.files()
        issue(loaded, BILLING, NOW).verify(NOW)


def test_the_ca_chain_is_this_ca_then_the_root() -> None:
    assert read_certificates(MESH.files()["cert-chain.pem"], "chain") == (MESH.certificate, ROOT.certificate)


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


# Certificates of workloads


def test_a_leaf_is_what_istiod_would_issue() -> None:
    identity = issue(MACHINES, BILLING, NOW)
    extensions = leaf_of(identity).extensions
    names = extensions.get_extension_for_class(x509.SubjectAlternativeName)
    usage = extensions.get_extension_for_class(x509.KeyUsage).value
    assert names.critical
    assert list(names.value) == [uri(BILLING)]
    assert not leaf_of(identity).subject.rdns
    assert (usage.digital_signature, usage.key_encipherment, usage.key_cert_sign) == (True, True, False)
    assert set(extensions.get_extension_for_class(x509.ExtendedKeyUsage).value) == {
        ExtendedKeyUsageOID.SERVER_AUTH,
        ExtendedKeyUsageOID.CLIENT_AUTH,
    }
    assert not extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert (identity.not_before, identity.not_after) == (NOW - timedelta(minutes=2), NOW + timedelta(hours=24))
    assert identity.spiffe_id == BILLING


def test_the_chain_sent_holds_the_intermediate_and_not_the_root() -> None:
    assert read_certificates(issue(MACHINES, BILLING, NOW).chain, "chain")[1:] == (MACHINES.certificate,)
    assert read_certificates(issue(ROOT, BILLING, NOW).chain, "chain")[1:] == ()


def test_the_key_is_not_shown() -> None:
    assert "PRIVATE" not in repr(issue(MACHINES, BILLING, NOW))
    assert "key=" not in repr(MACHINES)


def test_every_certificate_has_its_own_key_and_serial() -> None:
    one, other = issue(MACHINES, BILLING, NOW), issue(MACHINES, BILLING, NOW)
    assert one.key != other.key
    assert leaf_of(one).serial_number != leaf_of(other).serial_number


def test_a_leaf_never_outlives_its_signer() -> None:
    late = NOW + CA_LIFETIME - timedelta(hours=1)
    assert issue(MACHINES, BILLING, late).not_after == NOW + CA_LIFETIME


def test_an_expired_signer_does_not_sign() -> None:
    with pytest.raises(CertificateError, match="expired"):
        issue(MACHINES, BILLING, NOW + CA_LIFETIME + timedelta(seconds=1))


@pytest.mark.parametrize("lifetime", [timedelta(0), timedelta(seconds=-1), timedelta(days=90, seconds=1)])
def test_a_lifetime_outside_istios_bounds_is_refused(lifetime: timedelta) -> None:
    with pytest.raises(CertificateError, match="lifetime"):
        issue(MACHINES, BILLING, NOW, lifetime)


def test_the_request_cannot_ask_for_another_name() -> None:
    with pytest.raises(CertificateError, match=r"asks for .*foreign.*allowed: .*billing"):
        MESH.sign(new_request(new_key(), replace(BILLING, service_account="foreign")), BILLING, NOW)


def test_a_foreign_trust_domain_is_refused_before_signing() -> None:
    issue(MESH, FOREIGN, NOW).verify(NOW)
    with pytest.raises(CertificateError, match=r"may not sign .*allow only cluster.local"):
        issue(MACHINES, FOREIGN, NOW)


@pytest.mark.parametrize(("name", "accepted"), [(BILLING, True), (FOREIGN, False)])
def test_a_forged_foreign_name_is_refused_by_us_and_by_openssl(name: SpiffeId, accepted: bool, tmp_path: Path) -> None:
    identity = forged(MACHINES, str(name))
    for file, content in identity.files().items():
        (tmp_path / file).write_bytes(content)
    command = ["openssl", "verify", "-attime", str(int(NOW.timestamp())), "-CAfile", "root-cert.pem"]
    command += ["-untrusted", "cert-chain.pem", "cert-chain.pem"]
    judged = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (judged.returncode == 0) is accepted, judged.stderr
    if accepted:
        identity.verify(NOW)
        return
    assert "permitted subtree violation" in judged.stderr
    with pytest.raises(CertificateError, match="may not sign"):
        identity.verify(NOW)


# Verifying an identity


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


# Roots


def test_roots_are_read_once_each_with_text_between_them() -> None:
    other = Authority.new_root(NOW)
    pem = b"# ours\n" + encode(ROOT.roots) + b"\n# theirs\n" + encode(other.roots) + encode(ROOT.roots)
    assert read_roots(pem, NOW) == (ROOT.certificate, other.certificate)


def test_an_intermediate_may_be_a_root() -> None:
    assert read_roots(encode([MESH.certificate]), NOW) == (MESH.certificate,)
    replace(issue(MESH, BILLING, NOW), roots=encode([MESH.certificate])).verify(NOW)
    with pytest.raises(CertificateError, match="neither in the chain"):
        replace(issue(MACHINES, BILLING, NOW), roots=encode([MESH.certificate])).verify(NOW)


@pytest.mark.parametrize(
    ("pem", "now", "reason"),
    [
        (b"", NOW, "found nothing; allowed"),
        (b"hello", NOW, "found no certificate; allowed"),
        (b"\x00\xff\xfe", NOW, "found no certificate"),
        (ROOT.certificate.public_bytes(serialization.Encoding.DER), NOW, "DER"),
        (b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", NOW, "damaged"),
        (encode(ROOT.roots)[:-40], NOW, "damaged"),
        (new_request(new_key(), BILLING), NOW, "found PEM of CERTIFICATE REQUEST"),
        (encode(ROOT.roots) + encode_key(new_key()), NOW, "holds a private key"),
        (encode([leaf_of(issue(MESH, BILLING, NOW))]), NOW, "is not a CA"),
        (encode(ROOT.roots), NOW + CA_LIFETIME + timedelta(seconds=1), "'Root CA' expired at 2039"),
        (encode(ROOT.roots), NOW - timedelta(minutes=3), "not valid before"),
    ],
)
def test_a_bad_roots_file_is_refused_by_name(pem: bytes, now: datetime, reason: str) -> None:
    with pytest.raises(CertificateError, match=f"roots.pem.*{reason}"):
        read_roots(pem, now, "roots.pem")

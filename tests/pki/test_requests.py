"""Signing requests: one name, signed by the key in them."""

from __future__ import annotations

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from sidestep.errors import CertificateError
from sidestep.pki.keys import new_key
from sidestep.pki.pem import encode
from sidestep.pki.requests import new_request, read_request
from tests.pki.authorities import BILLING, FOREIGN, ROOT, request_for, uri


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

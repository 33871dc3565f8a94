"""Files of roots: what is in them, and what must not be."""

from __future__ import annotations

import ssl
from dataclasses import replace
from datetime import datetime, timedelta

import pytest
from cryptography.hazmat.primitives import serialization

from sidestep.errors import CertificateError
from sidestep.pki.authority import CA_LIFETIME, Authority
from sidestep.pki.identity import issue
from sidestep.pki.keys import encode_key, new_key
from sidestep.pki.pem import encode, read_roots
from sidestep.pki.requests import new_request
from tests.pki.authorities import BILLING, MACHINES, MESH, NOW, ROOT, leaf_of


def test_roots_are_read_once_each_with_text_between_them() -> None:
    other = Authority.new_root(NOW)
    pem = b"# ours\n" + encode(ROOT.roots) + b"\n# theirs\n" + encode(other.roots) + encode(ROOT.roots)
    assert read_roots(pem, NOW) == (ROOT.certificate, other.certificate)


def test_an_intermediate_may_be_a_root() -> None:
    assert read_roots(encode([MESH.certificate]), NOW) == (MESH.certificate,)
    replace(issue(MESH, BILLING, NOW), roots=encode([MESH.certificate])).verify(NOW)
    with pytest.raises(CertificateError, match="neither in the chain"):
        replace(issue(MACHINES, BILLING, NOW), roots=encode([MESH.certificate])).verify(NOW)


def altered(before: bytes, after: bytes) -> bytes:
    """The root with other bytes in it: a curve that nobody knows, a version, an extension that is there twice."""
    der = ROOT.certificate.public_bytes(serialization.Encoding.DER)
    assert before in der
    return ssl.DER_cert_to_PEM_cert(der.replace(before, after, 1)).encode()


def test_a_byte_order_mark_is_no_harm() -> None:
    """As Windows' own tools write it."""
    assert read_roots(b"\xef\xbb\xbf" + encode(ROOT.roots), NOW) == ROOT.roots


@pytest.mark.parametrize(
    ("pem", "now", "reason"),
    [
        (b"", NOW, "found nothing; allowed"),
        (b"hello", NOW, "found no certificate; allowed"),
        (b"\x00\xff\xfe", NOW, "found no certificate"),
        (ROOT.certificate.public_bytes(serialization.Encoding.DER), NOW, "DER"),
        (b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", NOW, "damaged"),
        (encode(ROOT.roots)[:-40], NOW, "damaged"),
        (encode(ROOT.roots) + encode(ROOT.roots)[:200], NOW, "damaged: it begins and does not end"),
        (
            altered(b"\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07", b"\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x7f"),
            NOW,
            "damaged",
        ),
        (altered(b"\xa0\x03\x02\x01\x02", b"\xa0\x03\x02\x01\x07"), NOW, "damaged"),
        (altered(b"\x06\x03\x55\x1d\x0e", b"\x06\x03\x55\x1d\x13"), NOW, "damaged"),
        (new_request(new_key(), BILLING), NOW, "found PEM of CERTIFICATE REQUEST"),
        (encode(ROOT.roots) + encode_key(new_key()), NOW, "holds a private key"),
        (encode(ROOT.roots) + b" " + encode_key(new_key()), NOW, "holds a private key"),
        (encode(ROOT.roots) + encode_key(new_key()).replace(b"\n", b"\r"), NOW, "holds a private key"),
        (encode(ROOT.roots) + b"\xef\xbb\xbf" + encode_key(new_key()), NOW, "holds a private key"),
        (encode([leaf_of(issue(MESH, BILLING, NOW))]), NOW, "is not a CA"),
        (encode(ROOT.roots), NOW + CA_LIFETIME + timedelta(seconds=1), "'Root CA' expired at 2039"),
        (encode(ROOT.roots), NOW - timedelta(minutes=3), "not valid before"),
    ],
)
def test_a_bad_roots_file_is_refused_by_name(pem: bytes, now: datetime, reason: str) -> None:
    with pytest.raises(CertificateError, match=f"roots.pem.*{reason}"):
        read_roots(pem, now, "roots.pem")

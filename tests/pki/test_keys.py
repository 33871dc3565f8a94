"""Keys: ours, and those that are refused."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from sidestep.errors import CertificateError
from sidestep.pki.keys import encode_key, new_key, read_key
from sidestep.pki.pem import encode
from tests.pki.authorities import ROOT


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

"""Private keys: made, written, read and compared."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from sidestep.errors import CertificateError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes

_ALLOWED = "ECDSA P-256 or P-384, or RSA of 2048 to 8192 bits"

PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
PublicKey = ec.EllipticCurvePublicKey | rsa.RSAPublicKey


def new_key() -> ec.EllipticCurvePrivateKey:
    """A fresh ECDSA P-256 key."""
    return ec.generate_private_key(ec.SECP256R1())


def encode_key(key: PrivateKey) -> bytes:
    """The key as PKCS #8 in PEM, unencrypted, which is what Envoy and istiod read."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def read_key(pem: bytes, what: str = "the private key") -> PrivateKey:
    """One unencrypted private key (PKCS #8, PKCS #1 or SEC 1) out of PEM.

    Raises `CertificateError`, naming ``what``, for anything else and for kinds of key that Envoy does not take.
    """
    try:
        key = serialization.load_pem_private_key(pem, password=None)
    except TypeError:
        raise CertificateError(f"{what} is encrypted", hint="Decrypt it first: openssl pkey -in KEY -out KEY") from None
    except (ValueError, UnsupportedAlgorithm) as problem:
        raise CertificateError(f"{what} is not a private key in PEM") from problem
    check_public_key(key.public_key(), what)
    if not isinstance(key, PrivateKey):
        raise CertificateError(f"{what} cannot sign; allowed: {_ALLOWED}")
    return key


def check_public_key(key: PublicKeyTypes, what: str) -> PublicKey:
    """``key``, if it is of a kind that Envoy and Istio take; else `CertificateError`, naming ``what``."""
    if isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP256R1 | ec.SECP384R1):
        return key
    if isinstance(key, rsa.RSAPublicKey) and 2048 <= key.key_size <= 8192:
        return key
    raise CertificateError(f"{what}: found {_kind(key)}; allowed: {_ALLOWED}")


def same_public_key(one: PublicKeyTypes, other: PublicKeyTypes) -> bool:
    """Whether the two are one key, bit for bit."""
    return key_info(one) == key_info(other)


def key_info(key: PublicKeyTypes) -> bytes:
    """The key's SubjectPublicKeyInfo in DER."""
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def _kind(key: PublicKeyTypes) -> str:
    if isinstance(key, ec.EllipticCurvePublicKey):
        return f"ECDSA {key.curve.name}"
    if isinstance(key, rsa.RSAPublicKey):
        return f"RSA of {key.key_size} bits"
    return type(key).__name__.removeprefix("_").removesuffix("PublicKey")

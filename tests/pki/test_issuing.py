"""What a CA issues to workloads, and what it will not sign."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from sidestep.errors import CertificateError
from sidestep.pki.authority import CA_LIFETIME
from sidestep.pki.identity import issue
from sidestep.pki.keys import new_key
from sidestep.pki.pem import read_certificates
from sidestep.pki.requests import new_request
from sidestep.pki.spiffe import SpiffeId
from tests.pki.authorities import BILLING, FOREIGN, MACHINES, MESH, NOW, ROOT, forged, leaf_of, uri

if TYPE_CHECKING:
    from pathlib import Path


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


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
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

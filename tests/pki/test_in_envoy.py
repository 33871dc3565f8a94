"""What a real Envoy accepts and refuses is what `Identity.verify` accepts and refuses."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import ssl
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from typing import TYPE_CHECKING

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes

from sidestep.errors import CertificateError
from sidestep.pki.authority import Authority
from sidestep.pki.identity import Identity, issue
from sidestep.pki.keys import encode_key, new_key
from sidestep.pki.pem import encode
from sidestep.pki.spiffe import SpiffeId
from sidestep.proxy.binary import find
from sidestep.proxy.process import Process

if TYPE_CHECKING:
    from ipaddress import IPv4Address
from pathlib import Path

HOST = f"127.78.{os.getpid() >> 8 & 255}.{os.getpid() & 255}"
TYPE = "type.googleapis.com/envoy.extensions"
NOW = datetime.now(UTC)
NAME = SpiffeId("cluster.local", "vms", "billing")
ROOT = Authority.new_root(NOW)
MESH = ROOT.new_intermediate(NOW, name="Mesh CA", trust_domain="cluster.local")
MACHINES = ROOT.new_intermediate(NOW, name="Machines CA", trust_domain="vms.example", constrained=True)


def forged(ca: Authority, name: SpiffeId, *more: x509.GeneralName) -> Identity:
    """An identity that ``ca`` signed without looking at its own name constraints."""
    key = new_key()
    builder = x509.CertificateBuilder().subject_name(x509.Name([])).issuer_name(ca.certificate.subject)
    builder = builder.public_key(key.public_key()).serial_number(x509.random_serial_number())
    builder = builder.not_valid_before(NOW - timedelta(minutes=1)).not_valid_after(NOW + timedelta(hours=1))
    names = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(str(name)), *more])
    leaf = builder.add_extension(names, critical=True).sign(ca.key, hashes.SHA256())
    return Identity(encode_key(key), encode([leaf, ca.certificate]), encode(ca.roots))


CASES = {
    "the mesh's CA": (issue(MESH, NAME, NOW), encode(ROOT.roots), True),
    "the machines' CA": (issue(MACHINES, replace(NAME, trust_domain="vms.example"), NOW), encode(ROOT.roots), True),
    "the machines' CA outside its constraint": (forged(MACHINES, NAME), encode(ROOT.roots), False),
    "the machines' CA for a host": (
        forged(MACHINES, replace(NAME, trust_domain="vms.example"), x509.DNSName("istiod.istio-system.svc")),
        encode(ROOT.roots),
        False,
    ),
    "the machines' CA for an address": (
        forged(MACHINES, replace(NAME, trust_domain="vms.example"), x509.IPAddress(IPv4Address("10.96.0.10"))),
        encode(ROOT.roots),
        False,
    ),
    "an intermediate as root": (issue(MESH, NAME, NOW), encode([MESH.certificate]), True),
    "the sibling of the intermediate that is root": (forged(MACHINES, NAME), encode([MESH.certificate]), False),
    "no intermediate sent": (
        replace(
            whole := issue(MESH, NAME, NOW),
            chain=whole.chain.partition(b"-----END")[0] + b"-----END CERTIFICATE-----\n",
        ),
        encode(ROOT.roots),
        False,
    ),
    "another root": (issue(MESH, NAME, NOW), encode(Authority.new_root(NOW).roots), False),
}


def write(directory: Path, roots: bytes, port: int) -> None:
    """An echo server that wants a client certificate under ``roots``; TLS 1.2, which refuses within the handshake."""
    for name, content in (issue(MESH, NAME, NOW).files() | {"roots.pem": roots}).items():
        (directory / name).write_bytes(content)
    tls = {
        "@type": f"{TYPE}.transport_sockets.tls.v3.DownstreamTlsContext",
        "require_client_certificate": True,
        "common_tls_context": {
            "tls_params": {"tls_maximum_protocol_version": "TLSv1_2"},
            "tls_certificates": [
                {"certificate_chain": {"filename": "cert-chain.pem"}, "private_key": {"filename": "key.pem"}}
            ],
            "validation_context": {"trusted_ca": {"filename": "roots.pem"}},
        },
    }
    echo = {"name": "echo", "typed_config": {"@type": f"{TYPE}.filters.network.echo.v3.Echo"}}
    listener = {
        "name": "echo",
        "enable_reuse_port": False,
        "address": {"socket_address": {"address": HOST, "port_value": port}},
        "filter_chains": [{"filters": [echo], "transport_socket": {"name": "tls", "typed_config": tls}}],
    }
    admin = {"address": {"pipe": {"path": "admin.sock"}}}
    (directory / "envoy.json").write_text(json.dumps({"admin": admin, "static_resources": {"listeners": [listener]}}))


def accepted_by_envoy(directory: Path, port: int, identity: Identity) -> bool:
    for name, content in identity.files().items():
        (directory / f"client-{name}").write_bytes(content)
    context = ssl.create_default_context(cadata=encode(ROOT.roots).decode())
    context.check_hostname = False
    context.load_cert_chain(directory / "client-cert-chain.pem", directory / "client-key.pem")
    with socket.create_connection((HOST, port), 10) as plain:
        try:
            with context.wrap_socket(plain) as secured:
                secured.sendall(b"hello")
                return secured.recv(5) == b"hello"
        except (ssl.SSLError, ConnectionResetError):
            return False


@pytest.mark.parametrize("case", CASES)
def test_envoy_and_we_judge_alike(tmp_path: Path, case: str) -> None:
    identity, roots, accepted = CASES[case]
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port = int(probe.getsockname()[1])
    write(tmp_path, roots, port)

    async def judged() -> bool:
        async with Process(find(), tmp_path, tmp_path, concurrency=1) as envoy:
            await envoy.wait_ready()
            return await asyncio.to_thread(accepted_by_envoy, tmp_path, port, identity)

    assert asyncio.run(judged()) is accepted
    try:
        replace(identity, roots=roots).verify(datetime.now(UTC))
    except CertificateError:
        assert not accepted
    else:
        assert accepted

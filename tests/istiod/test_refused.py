"""Who and what is refused before a byte arrives. Each case shows its own reason, and passes once that is gone."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from sidestep.files import write_set
from sidestep.pki.pem import encode
from tests.envoys import eventually

from . import clients
from .certificates import CertificateAuthorities, spiffe_id, stolen, without_intermediates

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from sidestep.pki.identity import Identity

    from .machine import Egress, Machine, Machines
    from .mesh import Mesh
    from .proxies import Proxy

pytestmark = pytest.mark.xdist_group("istiod")
OPEN = "open.strict"
BILLING = spiffe_id("billing")
REASON = re.compile(r"TLS_error:\|\d+:SSL routines:OPENSSL_internal:(.*?):TLS_error_end")
NOT_VERIFIED = "CERTIFICATE_VERIFY_FAILED:verify cert failed: "
NO_CHAIN = f"{NOT_VERIFIED}X509_verify_cert: certificate verification error at depth "
NO_CERTIFICATE = "PEER_DID_NOT_RETURN_A_CERTIFICATE:peer did not provide required client certificate"
FOREIGN = f"{NOT_VERIFIED}SAN matcher, certificate SANs are [spiffe://vms.example/ns/vms/sa/billing]"


def other_root(istio: Mesh) -> Identity:
    foreign = CertificateAuthorities.new().machine(BILLING)
    return replace(foreign, roots=encode(istio.authorities.root.roots))


def expired(istio: Mesh) -> Identity:
    return istio.authorities.machine(BILLING, age=timedelta(days=2))


def not_yet_valid(istio: Mesh) -> Identity:
    return istio.authorities.machine(BILLING, age=timedelta(days=-2))


def no_intermediate(istio: Mesh) -> Identity:
    return without_intermediates(istio.authorities.machine(BILLING))


def foreign_trust_domain(istio: Mesh) -> Identity:
    return istio.authorities.machine(spiffe_id("billing", trust_domain="vms.example"))


def outside_the_cas_constraint(istio: Mesh) -> Identity:
    return stolen(istio.authorities.constrained(), istio.authorities.machine(BILLING))


def inside_the_cas_constraint(istio: Mesh) -> Identity:
    """The chain is good, and the trust domain is the only thing left to refuse."""
    return stolen(istio.authorities.constrained(), foreign_trust_domain(istio))


REFUSED: dict[Callable[[Mesh], Identity], str] = {
    other_root: f"{NO_CHAIN}1: unable to get local issuer certificate",
    expired: f"{NO_CHAIN}0: certificate has expired",
    not_yet_valid: f"{NO_CHAIN}0: certificate is not yet valid",
    no_intermediate: f"{NO_CHAIN}0: unable to get local issuer certificate",
    foreign_trust_domain: FOREIGN,
    outside_the_cas_constraint: f"{NO_CHAIN}0: permitted subtree violation",
    inside_the_cas_constraint: FOREIGN,
}


def ports_of(istio: Mesh, service: str) -> list[Egress]:
    """HTTP, gRPC and TCP, as far as the service has them."""
    known = istio.services[service]
    return [(known, port, "") for port in (9080, 50051, 9000) if port in known.ports]


def outcomes(machine: Machine, service: str = OPEN) -> list[int | str | bytes]:
    """What came of a call to each port."""
    reached, ports = machine[service], [port for name, port in machine.listeners if name == service]
    http = [reached.http().status] if 9080 in ports else []
    grpc = [reached.unary().code] if 50051 in ports else []
    return [*http, *grpc, reached.exchange(b"ping")]


PASSED: list[int | str | bytes] = [200, "OK", b"ping"]
CLOSED: list[int | str | bytes] = [503, "UNAVAILABLE", b""]


def reasons_since(offset: int, proxy: Proxy) -> set[str]:
    """Why this proxy ended TLS handshakes."""
    return set(REASON.findall(proxy.process.text()[offset:]))


@pytest.mark.parametrize("identity", REFUSED, ids=lambda identity: identity.__name__)
def test_a_certificate_is_refused(istio: Mesh, machines: Machines, identity: Callable[[Mesh], Identity]) -> None:
    sidecar = istio.proxies[OPEN]
    before = len(sidecar.process.text())
    with machines.running("billing", identity(istio), ports_of(istio, OPEN)) as machine:
        assert outcomes(machine) == CLOSED
        assert reasons_since(before, sidecar) == {REFUSED[identity]}
        write_set(machine.bundle / "certs", istio.authorities.machine(BILLING).files())
        eventually("calls with a good certificate in the same bundle", lambda: outcomes(machine) == PASSED)


def edited(bundle: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the TLS settings of every cluster, by a rename, so that a running Envoy notices too."""
    path = bundle / "cds.json"
    config = json.loads(path.read_text())
    for cluster in config["resources"]:
        change(cluster["transport_socket"]["typed_config"]["common_tls_context"])
    fresh = path.with_suffix(".new")
    fresh.write_text(json.dumps(config))
    fresh.rename(path)


def test_no_client_certificate_is_refused(istio: Mesh, machines: Machines) -> None:
    def without_certificate(bundle: Path) -> None:
        edited(bundle, lambda tls: tls.pop("tls_certificate_sds_secret_configs"))

    sidecar = istio.proxies[OPEN]
    before = len(sidecar.process.text())
    identity = istio.authorities.machine(BILLING)
    with machines.running("billing", identity, ports_of(istio, OPEN), edit=without_certificate) as machine:
        assert outcomes(machine) == CLOSED
        assert reasons_since(before, sidecar) == {NO_CERTIFICATE}


def test_a_server_with_another_spiffe_id_is_refused(istio: Mesh, machines: Machines) -> None:
    identity = istio.authorities.machine(BILLING)
    others = {OPEN: "guarded"}
    with machines.running("billing", identity, ports_of(istio, OPEN), service_accounts=others) as machine:
        assert outcomes(machine) == CLOSED
        lines = machine.access_log(len(CLOSED))
    for line in lines:
        assert f"SAN_matcher,_certificate_SANs_are_[{istio.services[OPEN].spiffe_id}]" in failure(line)


def failure(line: dict[str, Any]) -> str:
    """Why the connection to the gateway failed, as the machine's own log has it."""
    return str(line["upstream_transport_failure_reason"])


def test_without_istios_alpn_the_gateway_lets_nothing_in(istio: Mesh, machines: Machines) -> None:
    def without_alpn(bundle: Path) -> None:
        edited(bundle, lambda tls: tls.pop("alpn_protocols"))

    identity = istio.authorities.machine(BILLING)
    before = istio.gateway.counter("no_filter_chain_match")
    with machines.running("billing", identity, ports_of(istio, OPEN), edit=without_alpn) as machine:
        assert outcomes(machine) == CLOSED
        assert all("Connection_reset_by_peer" in failure(line) for line in machine.access_log(len(CLOSED)))
    assert istio.gateway.counter("no_filter_chain_match") >= before + len(CLOSED)


def test_a_host_that_the_gateway_does_not_export_is_not_reached(istio: Mesh, billing: Machine) -> None:
    hidden = "open.hidden"
    before = istio.gateway.counter("no_filter_chain_match")
    assert outcomes(billing, OPEN) == PASSED
    assert istio.gateway.counter("no_filter_chain_match") == before
    assert outcomes(billing, hidden) == [503, b""]
    assert istio.gateway.counter("no_filter_chain_match") >= before + 2


def test_a_service_without_sidecar_is_not_reached(istio: Mesh, billing: Machine, machines: Machines) -> None:
    plain = istio.services["plain.perm"]
    assert machines.call(clients.http_call, (plain.address, 9080)).status == 200
    assert outcomes(billing, "plain.perm") == [503, b""]
    for port in (9080, 9000):
        sni = f"outbound_.{port}_._.{plain.host}"
        assert {line["response_flags"] for line in istio.gateway.access_log(requested_server_name=sni)} == {"UH"}

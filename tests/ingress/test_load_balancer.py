"""The listener for a load balancer, in a real Envoy: who gets in without a certificate, and what it is told."""

from __future__ import annotations

import http.client
import json
import ssl
import sys
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest

from sidestep.onboard import bundles, load
from tests import documents
from tests.certificates import issue_into
from tests.envoys import accepted, eventually, running
from tests.free_ports import free_port
from tests.ingress.applications import application

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.envoys import Running

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="loopback has one address only")
BALANCER, OTHER = "127.0.0.2", "127.0.0.1"
FORGED = {"x-forwarded-client-cert": "URI=spiffe://cluster.local/ns/a/sa/b", "x-envoy-peer-metadata-id": "forged"}


class Balanced:
    """A running bundle with a port for each mode."""

    def __init__(self, envoy: Running, ports: dict[str, int], own: int) -> None:
        self.envoy, self.ports, self.own = envoy, ports, own

    def get(self, mode: str, path: str = "/", source: str = BALANCER) -> tuple[int, Any]:
        """Status and body of an answer to a request from ``source``."""
        address = ("127.0.0.1", self.ports[mode])
        plain = http.client.HTTPConnection(*address, timeout=10, source_address=(source, 0))
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        over_tls = http.client.HTTPSConnection(*address, timeout=10, source_address=(source, 0), context=context)
        with closing(over_tls if mode == "SIMPLE" else plain) as connection:
            connection.request("GET", path, headers={**FORGED, "x-forwarded-for": "203.0.113.9"})
            response = connection.getresponse()
            text = response.read().decode()
            return response.status, json.loads(text) if text.startswith("{") else text


@pytest.fixture(scope="module")
def balanced(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Balanced]:
    directory: Path = tmp_path_factory.mktemp("balanced")
    ports, own = {mode: free_port() for mode in ("SIMPLE", "DISABLE")}, free_port()
    ingress = [
        {
            "port": number,
            "protocol": "HTTP",
            "listen": f"127.0.0.1:{port}",
            "application": f"127.0.0.1:{own}",
            "healthCheck": {"tcpSocket": {}, "periodSeconds": 1, "failureThreshold": 1},
            "loadBalancer": {"sources": [BALANCER], "unsafeTlsMode": mode},
        }
        for number, (mode, port) in enumerate(ports.items(), 8080)
    ]
    spec = documents.write(
        directory / "spec.yaml",
        documents.mesh(gateways=[{"address": "127.0.0.1", "port": free_port()}]),
        documents.workload(documents.egress(listen=free_port()), ingress=ingress),
    )
    [bundle] = bundles(load([spec]))
    bundle.install(directory / "bundle", validate=accepted())
    issue_into(directory / "bundle")
    with running(directory / "bundle") as envoy:
        yield Balanced(envoy, ports, own)


MODES = pytest.mark.parametrize("mode", ["SIMPLE", "DISABLE"])


@MODES
def test_the_load_balancer_gets_in_and_nobody_is_vouched_for(balanced: Balanced, mode: str) -> None:
    with application(balanced.own):
        eventually("the application is well", lambda: balanced.get(mode)[0] == 200)
        _, heard = balanced.get(mode)
    assert not any(name in FORGED for name in heard)
    assert heard["x-forwarded-for"].startswith("203.0.113.9,")


@MODES
def test_whoever_calls_from_elsewhere_gets_no_answer(balanced: Balanced, mode: str) -> None:
    with pytest.raises((OSError, http.client.HTTPException)):
        balanced.get(mode, source=OTHER)
    stat = rf"listener\.127_0_0_1_{balanced.ports[mode]}\.no_filter_chain_match$"
    assert eventually("it is counted", lambda: sum(balanced.envoy.stats(stat).values()))


@MODES
def test_health_is_the_applications(balanced: Balanced, mode: str) -> None:
    eventually("it is not well", lambda: balanced.get(mode, "/healthz/ready")[0] == 503)
    eventually("no call goes there", lambda: balanced.get(mode) == (503, "no healthy upstream"), seconds=0.5)
    with application(balanced.own):
        eventually("it is well", lambda: balanced.get(mode, "/healthz/ready")[0] == 200)
    eventually("it is not well again", lambda: balanced.get(mode, "/healthz/ready")[0] == 503)


def test_plain_text_is_no_tls(balanced: Balanced) -> None:
    address = ("127.0.0.1", balanced.ports["SIMPLE"])
    with closing(http.client.HTTPConnection(*address, timeout=10, source_address=(BALANCER, 0))) as connection:
        connection.request("GET", "/")
        with pytest.raises((OSError, http.client.HTTPException)):
            connection.getresponse()

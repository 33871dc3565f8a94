"""Requests from the mesh that try to be more than their caller may ask for, against a real Envoy."""

from __future__ import annotations

import http.client
import json
import ssl
from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from sidestep.onboard import bundles, load
from sidestep.pki.identity import issue
from sidestep.pki.spiffe import SpiffeId
from tests import documents
from tests.certificates import authority, issue_into
from tests.envoys import accepted, eventually, running
from tests.free_ports import free_port
from tests.ingress.applications import application
from tests.pki.authorities import forged

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from sidestep.pki.identity import Identity
    from tests.envoys import Running

CALLER = "spiffe://cluster.local/ns/bookinfo/sa/productpage"
FORGED = "URI=spiffe://cluster.local/ns/hr/sa/director"


class Called:
    """A running bundle with one port, whose rules let GET ask for some paths."""

    def __init__(self, directory: Path, envoy: Running, port: int) -> None:
        self.directory, self.envoy, self.port = directory, envoy, port

    def get(self, path: str, headers: Mapping[str, str] | None = None, identity: Identity | None = None) -> Any:
        """The status of an answer, and what the application heard."""
        with closing(self._connection(identity or issue(authority(), SpiffeId.parse(CALLER), _now()))) as connection:
            connection.request("GET", path, headers=dict(headers or {}))
            response = connection.getresponse()
            text = response.read().decode()
            return response.status, json.loads(text) if text.startswith("{") else text

    def _connection(self, identity: Identity) -> http.client.HTTPSConnection:
        file = self.directory / "caller.pem"
        file.write_bytes(identity.chain + identity.key)
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        context.load_cert_chain(file)
        return http.client.HTTPSConnection("127.0.0.1", self.port, timeout=10, context=context)

    def logged(self, request_id: str) -> Any:
        """The line of the access log about a request."""
        lines = self.envoy.log.read_text(encoding="utf-8").splitlines()
        return next((json.loads(line) for line in lines if request_id in line), None)


def _now() -> datetime:
    return datetime.now(UTC)


@pytest.fixture(scope="module")
def called(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Called]:
    directory, own, port = tmp_path_factory.mktemp("called"), free_port(), free_port()
    operation = {"methods": ["GET"], "paths": ["/public/*", "/exact", "*.json"]}
    ingress = {
        "port": 8080,
        "protocol": "HTTP",
        "listen": f"127.0.0.1:{port}",
        "application": f"127.0.0.1:{own}",
        "allow": ["cluster.local/ns/bookinfo/sa/productpage"],
        "rules": [{"to": [{"operation": operation}]}],
    }
    call = documents.egress(listen=free_port())
    spec = documents.write(directory / "spec.yaml", documents.mesh(), documents.workload(call, ingress=[ingress]))
    [bundle] = bundles(load([spec]))
    bundle.install(directory / "bundle", validate=accepted())
    issue_into(directory / "bundle")
    with application(own), running(directory / "bundle") as envoy:
        yield Called(directory, envoy, port)


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/public/a", 200),
        ("/public/a;v=1", 200),
        ("/public/..a;v=1", 200),
        ("/exact?x=1", 200),
        ("/a/b.json", 200),
        ("/admin", 403),
        ("/public/../admin", 403),
        ("/public/%2e%2e/admin", 403),
        ("/public/..;/admin", 403),
        ("/public/..;a=b/admin", 403),
        ("/public/%2e%2e;/admin", 403),
        ("/public/a/.;/..;/..;/admin", 403),
        ("/public/..%3b/admin", 403),
        ("/public/%2E.%3B/admin", 403),
        ("/public/..%2fadmin", 400),
        ("/public/..%5Cadmin", 400),
        ("//public/../admin", 403),
        ("/exact/", 403),
        ("/exact;a", 403),
        ("/admin?.json", 403),
        ("/admin;.json", 403),
        ("/admin%3B.json", 403),
        ("/PUBLIC/a", 403),
        ("http://billing/admin", 403),
    ],
)
def test_a_path_is_what_an_application_may_read_in_it(called: Called, path: str, status: int) -> None:
    assert called.get(path)[0] == status


def test_the_caller_is_named_by_envoy_alone(called: Called) -> None:
    names = ["x-forwarded-client-cert", "x_forwarded_client_cert", "X-Forwarded_Client-Cert", "x-forwarded-client_cert"]
    status, heard = called.get("/public/a", dict.fromkeys(names, FORGED))
    about_it = {name: value for name, value in heard.items() if name.replace("_", "-") == "x-forwarded-client-cert"}
    assert status == 200
    assert list(about_it) == ["x-forwarded-client-cert"]
    assert about_it["x-forwarded-client-cert"].endswith(f";URI={CALLER}")


def test_the_log_tells_the_path_that_was_asked_for(called: Called) -> None:
    called.get("/public/secret", {"x-envoy-original-path": "/public/harmless", "x-request-id": "asked-for-a-secret"})
    line = eventually("the request is logged", lambda: called.logged("asked-for-a-secret"))
    assert (line["path"], line["downstream_peer_uri_san"]) == ("/public/secret", CALLER)


@pytest.mark.parametrize(
    ("uris", "age"),
    [
        (["spiffe://other.example/ns/bookinfo/sa/productpage"], 0),
        (["spiffe://cluster.local/ns/bookinfo/sa/productpage-2"], 0),
        (["spiffe://cluster.local/ns/bookinfo/sa/productpage/x"], 0),
        (["SPIFFE://cluster.local/ns/bookinfo/sa/productpage"], 0),
        ([], 0),
        ([CALLER], 2),
        ([CALLER], -2),
    ],
    ids=["trust domain", "longer", "deeper", "capitals", "no name", "expired", "not yet"],
)
def test_another_certificate_of_the_mesh_does_not_get_in(called: Called, uris: list[str], age: int) -> None:
    identity = forged(authority(), *uris, now=_now() - timedelta(hours=age))
    with pytest.raises((OSError, http.client.HTTPException)):
        called.get("/public/a", identity=identity)


def test_the_same_forgery_with_the_right_name_gets_in(called: Called) -> None:
    assert called.get("/public/a", identity=forged(authority(), CALLER, now=_now() - timedelta(minutes=1)))[0] == 200

"""Machines that stay as they are call the mesh through a forwarder, and those that the spec does not name do not."""

from __future__ import annotations

import base64
import hashlib
import json
import shutil
from typing import TYPE_CHECKING, Any

import pytest

from sidestep.onboard import bundles, load
from tests.certificates import issue_into
from tests.envoys import accepted, eventually
from tests.forwarder.conftest import (
    ADDRESS,
    ANOTHER,
    GREETING,
    GRPC,
    HEALTH,
    HTTP,
    LEDGER,
    PROXY,
    REVIEWS,
    STRANGER,
    TCP,
    UNTOUCHED,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.envoys import Running
    from tests.forwarder.conftest import Site

pytestmark = pytest.mark.xdist_group("forwarder")

ALLOWED = ["10.99.0.8/29"]
REFUSED = {16, 35, 52, 55, 56}
"""How curl says that it was hung up on, by when it was."""
IDENTITY = "spiffe://cluster.local/ns/vms/sa/billing"
WAYS = {
    "http": f"{ADDRESS}:{HTTP}",
    "grpc": f"{ADDRESS}:{GRPC}",
    "echo": f"{ADDRESS}:{TCP}",
    "greeting": f"{ADDRESS}:{GREETING}",
}


@pytest.fixture(scope="module")
def forwarder(site: Site, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """One that takes clients of a network, and those with a certificate of namespace vms."""
    clients = {"cidrs": ALLOWED, "mutualTLS": {"principals": ["cluster.local/ns/vms/*"]}}
    with site.forwarder(tmp_path_factory.mktemp("forwarder"), ADDRESS, clients=clients) as running:
        yield running


def log(forwarder: Running) -> list[dict[str, Any]]:
    """What it has logged as JSON."""
    lines = forwarder.log.read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines if line.startswith("{")]


def tls_to_proxy(site: Site, of: str) -> list[str]:
    """The same for the connection to the proxy."""
    certificates = site.certificates(of)
    files = ["--proxy-cert", str(certificates / "cert-chain.pem"), "--proxy-key", str(certificates / "key.pem")]
    return ["--proxy-insecure", *files]


def tls(site: Site, of: str) -> list[str]:
    """curl's arguments for a certificate. The forwarder's own holds no host name, so that is not asked for."""
    certificates = site.certificates(of)
    return ["-k", "--cert", str(certificates / "cert-chain.pem"), "--key", str(certificates / "key.pem")]


@pytest.mark.usefixtures("forwarder")
def test_http(site: Site) -> None:
    status, body, _ = site.curl(UNTOUCHED, "-H", "x-forwarded-client-cert: By=forged", f"http://{WAYS['http']}/")
    assert status == "200", body
    seen = json.loads(body)
    assert (seen["service"], seen["principal"]) == ("reviews", IDENTITY)
    assert seen["headers"]["x-forwarded-for"] == "10.99.0.10"
    assert seen["headers"]["x-envoy-peer-metadata-id"].startswith("sidecar~0.0.0.0~billing-")
    assert "forged" not in body


@pytest.mark.usefixtures("forwarder")
def test_what_a_client_says_of_its_address_stands_before_the_truth(site: Site) -> None:
    _, body, _ = site.curl(UNTOUCHED, "-H", "x-forwarded-for: 127.0.0.1", f"http://{WAYS['http']}/")
    assert json.loads(body)["headers"]["x-forwarded-for"].replace(" ", "") == "127.0.0.1,10.99.0.10"


@pytest.mark.usefixtures("forwarder")
def test_what_applications_read_as_those_headers_is_removed_too(site: Site) -> None:
    names = ["x_forwarded_for", "x-forwarded_for", "x_forwarded_client_cert", "X-Forwarded_Client-Cert"]
    forged = [part for name in names for part in ("-H", f"{name}: forged")]
    url = f"http://{REVIEWS}:{HTTP}/"
    for way in ([], ["-x", f"http://{ADDRESS}:{PROXY}"], ["-p", "-x", f"http://{ADDRESS}:{PROXY}"]):
        target = url if way else f"http://{WAYS['http']}/"
        status, body, _ = site.curl(UNTOUCHED, *way, *forged, "-H", "x_other: kept", target)
        assert (status, "forged" in body) == ("200", False)
        assert json.loads(body)["headers"]["x_other"] == "kept"


@pytest.mark.usefixtures("forwarder")
@pytest.mark.parametrize("way", ["address", "absolute form", "tunnel"])
def test_what_envoy_would_take_for_orders_is_none_from_a_client(site: Site, way: str) -> None:
    """The client has a private address, which Envoy has taken for a machine of its own network's."""
    proxy = {"address": [], "absolute form": ["-x"], "tunnel": ["-p", "-x"]}[way]
    arguments = [*proxy, f"http://{ADDRESS}:{PROXY}"] if proxy else []
    url = f"http://{REVIEWS}:{HTTP}" if proxy else f"http://{WAYS['http']}"
    again = ["-X", "POST", "-H", "x-envoy-retry-on: 5xx", "-H", "x-envoy-max-retries: 3"]
    assert site.curl(UNTOUCHED, *arguments, *again, f"{url}/second-time/{way.replace(' ', '-')}")[0] == "503"
    hurry = ["-H", "x-envoy-upstream-rq-timeout-ms: 100"]
    assert site.curl(UNTOUCHED, *arguments, *hurry, f"{url}/slow?ms=500")[0] == "200"


@pytest.mark.usefixtures("forwarder")
@pytest.mark.parametrize(("what", "got"), [("grpc", '"messages"'), ("echo", "ping"), ("greeting", "220 ")])
def test_other_protocols(site: Site, what: str, got: str) -> None:
    answer = site.client(UNTOUCHED, what, WAYS[what])
    assert got in answer["got"], answer


@pytest.mark.usefixtures("forwarder")
def test_by_name(site: Site) -> None:
    proxy = ["-x", f"http://{ADDRESS}:{PROXY}"]
    for more in ([], ["-p"]):  # absolute form, and CONNECT
        status, body, _ = site.curl(UNTOUCHED, *proxy, *more, f"http://{REVIEWS}:{HTTP}/")
        assert (status, json.loads(body)["principal"]) == ("200", IDENTITY)
    answer = site.client(UNTOUCHED, "grpc", f"{LEDGER}:{GRPC}", "--proxy", f"{ADDRESS}:{PROXY}")
    assert '"messages"' in answer["got"], answer


@pytest.mark.usefixtures("forwarder")
def test_requests_in_a_tunnel_come_from_its_client(site: Site) -> None:
    forged = ["-H", "x-forwarded-for: 127.0.0.1", "-H", "x-envoy-peer-metadata-id: forged", "-H", "x-a: b"]
    url = f"http://{REVIEWS}:{HTTP}/"
    status, body, _ = site.curl(UNTOUCHED, "-p", "-x", f"http://{ADDRESS}:{PROXY}", *forged, url)
    seen = json.loads(body)["headers"]
    assert (status, seen["x-a"]) == ("200", "b")
    assert seen["x-forwarded-for"].replace(" ", "") == "127.0.0.1,10.99.0.10"
    assert seen["x-envoy-peer-metadata-id"].startswith("sidecar~0.0.0.0~billing-")


def test_requests_in_a_tunnel_are_logged_with_their_client(site: Site, forwarder: Running) -> None:
    url = f"http://{REVIEWS}:{HTTP}/in-a-tunnel"
    assert site.curl(UNTOUCHED, "-p", "-x", f"http://{ADDRESS}:{PROXY}", url)[0] == "200"
    certificate = tls_to_proxy(site, "billing")
    assert site.curl(STRANGER, "-p", "-x", f"https://{ADDRESS}:{PROXY}", *certificate, url)[0] == "200"

    def logged() -> list[tuple[str, str | None]] | None:
        calls = [each for each in log(forwarder) if each.get("path") == "/in-a-tunnel"]
        who = [(each["downstream_remote_address"].partition(":")[0], each["downstream_peer_uri_san"]) for each in calls]
        return who if len(who) == 2 else None

    assert eventually("both are logged", logged) == [("10.99.0.10", None), ("10.99.0.20", IDENTITY)]


@pytest.mark.usefixtures("forwarder")
@pytest.mark.parametrize("what", ["greeting", "echo"])
@pytest.mark.parametrize("port", [HTTP, TCP, GREETING])
def test_another_address_sees_no_byte(site: Site, what: str, port: int) -> None:
    answer = site.client(STRANGER, what, f"{ADDRESS}:{port}")
    assert answer["got"] == ""
    assert "Timeout" not in answer["error"], "it is closed, not left waiting"


def test_where_nobody_has_a_certificate_another_address_is_refused_at_once(site: Site, tmp_path: Path) -> None:
    with site.forwarder(tmp_path, clients={"cidrs": ALLOWED}) as forwarder:
        ports = (HTTP, GRPC, TCP, GREETING, PROXY)
        for port in ports:
            assert site.client(STRANGER, "greeting", f"{ANOTHER}:{port}")["got"] == ""
        assert eventually("refusals are logged", lambda: len(refused(forwarder)) == len(ports))
        assert "220 " in site.client(UNTOUCHED, "greeting", f"{ANOTHER}:{GREETING}")["got"]


def refused(forwarder: Running) -> list[dict[str, Any]]:
    """The stranger's connections that no filter chain took."""
    none = [each for each in log(forwarder) if "NR" in (each["response_flags"] or "")]
    return [each for each in none if each["downstream_remote_address"].startswith("10.99.0.20:")]


def test_another_address_gets_no_answer_to_http(site: Site, forwarder: Running) -> None:
    for way in (
        [f"http://{WAYS['http']}/"],
        ["-x", f"http://{ADDRESS}:{PROXY}", f"http://{REVIEWS}:{HTTP}/"],
        ["-p", "-x", f"http://{ADDRESS}:{PROXY}", f"http://{REVIEWS}:{HTTP}/"],
        ["-H", "x-forwarded-for: 10.99.0.10", f"http://{WAYS['http']}/"],
        ["-k", f"https://{WAYS['http']}/"],
    ):
        status, said, code = site.curl(STRANGER, *way)
        assert (status, code in REFUSED) == ("000", True), said
    assert site.client(STRANGER, "grpc", WAYS["grpc"])["got"] == ""
    assert eventually("refusals are logged", lambda: refused(forwarder))


@pytest.mark.parametrize("machine", [UNTOUCHED, STRANGER])
def test_a_certificate_of_the_mesh_opens_from_anywhere(site: Site, forwarder: Running, machine: str) -> None:
    status, body, _ = site.curl(machine, *tls(site, "billing"), f"https://{WAYS['http']}/by-certificate")
    assert (status, json.loads(body)["service"]) == ("200", "reviews")
    proxy = [
        "--proxy-insecure",
        *(f"--proxy-{each[2:]}" if each.startswith("--") else each for each in tls(site, "billing")[1:]),
    ]
    status, body, _ = site.curl(machine, "-x", f"https://{ADDRESS}:{PROXY}", *proxy, f"http://{REVIEWS}:{HTTP}/")
    assert status == "200", body
    logged = eventually(
        "it is logged", lambda: [each for each in log(forwarder) if each.get("path") == "/by-certificate"]
    )
    assert logged[0]["downstream_peer_uri_san"] == IDENTITY


@pytest.mark.usefixtures("forwarder")
@pytest.mark.parametrize(("what", "got"), [("echo", "ping"), ("greeting", "220 ")])
def test_a_certificate_opens_a_port_for_bytes(site: Site, what: str, got: str) -> None:
    answer = site.client(STRANGER, what, WAYS[what], "--certificates", str(site.certificates("billing")))
    assert got in answer["got"], answer


@pytest.mark.parametrize("machine", [UNTOUCHED, STRANGER])
def test_a_certificate_of_somebody_else_opens_nothing(
    site: Site, machine: str, tmp_path: Path, forwarder: Running
) -> None:
    issue_into(tmp_path)  # the right name under another root
    foreign = tmp_path / "certs"
    curl = ["-k", "--cert", str(foreign / "cert-chain.pem"), "--key", str(foreign / "key.pem")]
    for arguments in (curl, tls(site, "reviews.bookinfo"), ["-k"]):
        status, said, code = site.curl(machine, *arguments, f"https://{WAYS['http']}/")
        assert (status, code in REFUSED) == ("000", True), said
    verified = "CERTIFICATE_VERIFY_FAILED"
    assert eventually("the refusal is logged", lambda: [each for each in log(forwarder) if verified in str(each)])
    shutil.copy(site.certificates("billing") / "root-cert.pem", foreign / "root-cert.pem")
    if machine == STRANGER:
        answer = site.client(machine, "greeting", WAYS["greeting"], "--certificates", str(foreign))
        assert answer["got"] == ""


def users(directory: Path, **passwords: str) -> str:
    directory.mkdir(parents=True, exist_ok=True)
    hashes = {name: base64.b64encode(hashlib.sha1(word.encode()).digest()).decode() for name, word in passwords.items()}
    lines = [f"{name}:{{SHA}}{hashed}\n" for name, hashed in hashes.items()]
    (directory / "users").write_text("".join(lines), encoding="utf-8")
    return "users"


def test_passwords(site: Site, tmp_path: Path) -> None:
    clients = {
        "cidrs": ALLOWED,
        "credentials": users(tmp_path, ada="countess"),
        "mutualTLS": {"principals": ["cluster.local/ns/vms/*"]},
    }
    with site.forwarder(tmp_path, clients=clients) as forwarder:
        proxy, url = ["-x", f"http://{ANOTHER}:{PROXY}"], f"http://{REVIEWS}:{HTTP}/"
        status, body, _ = site.curl(UNTOUCHED, *proxy, "-U", "ada:countess", url)
        assert status == "200", body
        seen = json.loads(body)["headers"]
        assert not {"proxy-authorization", "x-sidestep-user"} & set(seen)
        assert site.curl(UNTOUCHED, *proxy, "--proxy-anyauth", "-U", "ada:countess", url)[0] == "200"
        assert site.curl(UNTOUCHED, *proxy, "-p", "-U", "ada:countess", url)[0] == "200"
        for wrong in (
            ["-U", "ada:count"],
            ["-U", "eve:countess"],
            [],
            ["-u", "ada:countess"],
            ["-H", "x-sidestep-user: ada"],
        ):
            status, head, _ = site.curl(UNTOUCHED, "-i", *proxy, *wrong, url)
            assert status == "407"
            assert 'proxy-authenticate: Basic realm="sidestep"' in head
            _, said, code = site.curl(UNTOUCHED, "-v", *proxy, "-p", *wrong, url)
            assert (code, "407" in said) == (56, True)
        status, body, _ = site.curl(UNTOUCHED, *proxy, "-p", "-U", "ada:countess", f"{url}in-a-tunnel")
        assert status == "200"
        assert not {"proxy-authorization", "x-sidestep-user"} & set(json.loads(body)["headers"])
        assert eventually("the user is logged", lambda: users_of(forwarder, "/in-a-tunnel")) == ["ada"]
        assert site.curl(STRANGER, *proxy, "-U", "ada:countess", url)[0] == "000"
        with_certificate = tls_to_proxy(site, "billing")
        assert site.curl(STRANGER, "-x", f"https://{ANOTHER}:{PROXY}", *with_certificate, url)[0] == "200"
        assert site.curl(UNTOUCHED, f"http://{ANOTHER}:{HTTP}/")[0] == "200", "only the proxy asks"
        named = eventually("users are logged", lambda: {each["user"] for each in log(forwarder) if each.get("user")})
        assert named == {"ada"}
        assert "countess" not in forwarder.log.read_text(encoding="utf-8")


def users_of(forwarder: Running, path: str) -> list[Any]:
    return [each["user"] for each in log(forwarder) if each.get("path") == path]


def test_changed_passwords_count_without_a_restart(site: Site, tmp_path: Path) -> None:
    clients = {"cidrs": ALLOWED, "credentials": users(tmp_path, ada="countess")}
    with site.forwarder(tmp_path, clients=clients):
        users(tmp_path, ada="other")
        files = [site.lab / "machine" / "spec" / "mesh.yaml", tmp_path / "forwarder.yaml"]
        [bundle] = bundles(load(str(file) for file in files))
        installed = bundle.install(tmp_path / "bundle", validate=accepted())
        assert not installed.restart
        arguments = ["-x", f"http://{ANOTHER}:{PROXY}", f"http://{REVIEWS}:{HTTP}/", "-U"]
        assert eventually("the new one counts", lambda: site.curl(UNTOUCHED, *arguments, "ada:other")[0] == "200")
        assert site.curl(UNTOUCHED, *arguments, "ada:countess")[0] == "407"


def test_a_client_that_asks_too_much_is_told_so(site: Site, tmp_path: Path) -> None:
    with site.forwarder(tmp_path, clients={"cidrs": ["10.99.0.0/24"]}, limits={"requestsPerSecond": 3}):
        urls = [f"http://{ANOTHER}:{HTTP}/"] * 12
        done = site.run(UNTOUCHED, "curl", "-s", "-o", "/dev/null", "-w", "%{http_code}\n", *urls)
        codes = [line for line in done.stdout.split("\n") if line.strip().isdigit()]
        done = site.run(UNTOUCHED, "curl", "-s", "-w", "%{http_code}\n", *urls)
        assert "429" in done.stdout, codes
        assert site.curl(STRANGER, urls[0])[0] == "200", "another client has a bucket of its own"
        urls = [f"http://{REVIEWS}:{HTTP}/"] * 12
        tunnel = ["-p", "-x", f"http://{ANOTHER}:{PROXY}"]
        done = site.run(
            UNTOUCHED, "curl", "-s", "-o", "/dev/null", "-w", "%{http_connect} %{http_code}\n", *tunnel, *urls
        )
        assert "429" in done.stdout, "in a tunnel requests count, too"
        assert site.curl(STRANGER, *tunnel, urls[0])[0] == "200"


def test_there_are_no_more_connections_than_the_limit(site: Site, tmp_path: Path) -> None:
    with site.forwarder(tmp_path, clients={"cidrs": ALLOWED}, limits={"connections": 5}):
        answer = site.client(UNTOUCHED, "hold", f"{ANOTHER}:{TCP}", "--connections", "9")
        assert answer["got"] == "5"
        assert site.curl(UNTOUCHED, f"http://{ANOTHER}:{HEALTH}/healthz/ready")[0] == "200"
        slow = [["-o", "/dev/null", f"http://{REVIEWS}:{HTTP}/slow?ms=1000&{number}"] for number in range(9)]
        parallel = ["curl", "-sZp", "--parallel-immediate", "-w", "%{http_code}\n", "-x", f"http://{ANOTHER}:{PROXY}"]
        done = site.run(UNTOUCHED, *parallel, *(part for each in slow for part in each))
        assert sorted(done.stdout.split()) == ["000"] * 4 + ["200"] * 5, "a tunnel is one connection"


@pytest.mark.usefixtures("forwarder")
def test_health_says_nothing_else(site: Site) -> None:
    health = f"http://{ADDRESS}:{HEALTH}"
    assert site.curl(STRANGER, f"{health}/healthz/ready")[0] == "200"
    assert site.curl(STRANGER, "-0", "-H", "host:", f"{health}/healthz/ready")[0] == "200", "as HAProxy asks"
    for path in ("/", "/stats", "/healthz/ready/", "/quitquitquit"):
        assert site.curl(STRANGER, f"{health}{path}")[0] == "404"

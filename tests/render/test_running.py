"""Bundles in use: a real Envoy runs them, wherever they are, while they change."""

from __future__ import annotations

import os
import shutil
import stat
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from sidestep.files import write_set
from tests import documents
from tests.certificates import authority, issue_into
from tests.clients import calling, get
from tests.commands import run
from tests.documents import LEDGER, egress, mesh, service, workload
from tests.envoys import eventually, fake_envoy, names_in, running
from tests.free_ports import free_port
from tests.servers import is_open, mesh_service

if TYPE_CHECKING:
    from collections.abc import Iterator

BILLING = "spiffe://cluster.local/ns/vms/sa/billing"


@pytest.fixture
def gateway(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """The port of the mesh, and an empty current directory."""
    place = tmp_path / "place"
    place.mkdir()
    monkeypatch.chdir(place)
    with mesh_service(tmp_path / "service") as port:
        yield port


def render(gateway: int, *calls: documents.Fields, directory: str = "bundle", name: str = "billing") -> str:
    """Writes a spec and its bundle; returns what became of it."""
    offered = mesh(service(), service(LEDGER, (50051, "TCP")), gateways=[{"address": "127.0.0.1", "port": gateway}])
    spec = documents.write(Path(f"{name}.yaml"), offered, workload(*calls, name=name))
    answer = run("render", spec, "-o", directory, "--format", "json")
    assert answer.code == 0, answer
    state: str = answer.json["bundles"][0]["state"]
    return state


def test_carries_calls(gateway: int) -> None:
    port = free_port()
    render(gateway, egress(listen=port))
    issue_into(Path("bundle"))
    with running(Path("bundle")):
        sni = "outbound_.9080_._.reviews.bookinfo.svc.cluster.local"
        assert get(port) == (200, {"caller": BILLING, "sni": sni, "alpn": "http/1.1"})


def test_does_not_talk_to_anybody_else(tmp_path: Path, gateway: int) -> None:
    """A server with a certificate of the same root, under another name."""
    with mesh_service(tmp_path / "other", "spiffe://cluster.local/ns/bookinfo/sa/ratings") as port_of_other:
        port = free_port()
        render(port_of_other, egress(listen=port))
        issue_into(Path("bundle"))
        with running(Path("bundle")):
            status, said = get(port)
            assert status == 503
            assert "CERTIFICATE_VERIFY_FAILED" in said or "remote connection failure" in said


def test_waits_for_certificates_that_come_later(gateway: int) -> None:
    port = free_port()
    render(gateway, egress(listen=port))
    with running(Path("bundle")):
        assert get(port)[0] == 503
        issue_into(Path("bundle"))
        assert eventually("a call is answered", lambda: get(port)[0] == 200)


def test_takes_certificates_put_there_file_by_file(gateway: int, tmp_path: Path) -> None:
    """As ``mv`` does it: one after another, into the directory."""
    port = free_port()
    render(gateway, egress(listen=port))
    (tmp_path / "elsewhere" / "certs").mkdir(parents=True)
    issue_into(tmp_path / "elsewhere")
    with running(Path("bundle")):
        assert get(port)[0] == 503
        for name in ("root-cert.pem", "key.pem", "cert-chain.pem"):
            shutil.copyfile(tmp_path / "elsewhere" / "certs" / name, Path("bundle", f"{name}.new"))
            Path("bundle", f"{name}.new").replace(Path("bundle/certs", name))
        assert eventually("a call is answered", lambda: get(port)[0] == 200)


def test_runs_wherever_it_is_put(gateway: int, tmp_path: Path) -> None:
    port = free_port()
    render(gateway, egress(listen=port))
    issue_into(Path("bundle"))
    elsewhere = tmp_path / "some where" / "else"
    elsewhere.parent.mkdir()
    shutil.move("bundle", elsewhere)
    with running(elsewhere):
        assert get(port)[0] == 200
    assert render(gateway, egress(listen=port), directory=str(elsewhere)) == "unchanged"


def test_runs_from_an_archive(gateway: int) -> None:
    port = free_port()
    render(gateway, egress(listen=port))
    issue_into(Path("bundle"))
    with tarfile.open("bundle.tar", "w") as packed:
        packed.add("bundle")
    Path("copy").mkdir()
    with tarfile.open("bundle.tar") as packed:
        packed.extraction_filter = getattr(tarfile, "tar_filter", None)  # not in every 3.11
        packed.extractall("copy")
    shutil.rmtree("bundle")
    with running(Path("copy/bundle")):
        assert get(port)[0] == 200


def test_is_upgraded_while_it_runs(gateway: int) -> None:
    """A listener comes, and goes again, without a restart and without a call that fails."""
    port, other = free_port(), free_port()
    render(gateway, egress(listen=port))
    issue_into(Path("bundle"))
    before = names_in(Path("bundle/lds.json"))
    with running(Path("bundle")) as machine, calling(port) as calls:
        pid = machine.process.pid
        assert render(gateway, egress(listen=port), egress("ledger", other)) == "updated"
        machine.wait_for(names_in(Path("bundle/lds.json")))
        assert names_in(Path("bundle/lds.json")) > before
        assert is_open(("127.0.0.1", other))
        assert render(gateway, egress(listen=port)) == "updated"
        machine.wait_for(before)
        eventually("the listener is closed", lambda: not is_open(("127.0.0.1", other)))
        enough = calls.answered + 20
        eventually("calls go on", lambda: calls.answered >= enough)
        assert machine.process.poll() is None
        assert machine.process.pid == pid
        assert sum(machine.stats(r"update_(rejected|failure)$").values()) == 0
    assert calls.failed == []


def test_stays_as_it_was_where_an_upgrade_is_refused(gateway: int) -> None:
    port = free_port()
    render(gateway, egress(listen=port))
    issue_into(Path("bundle"))
    fake = fake_envoy(Path("envoy"), "exit 1")
    with running(Path("bundle")) as machine, calling(port) as calls:
        versions = machine.stats(r"(lds|cds)\.update_success$")
        spec = documents.write(Path("new.yaml"), mesh(), workload(egress(listen=free_port())))
        assert run("render", spec, "-o", "bundle", "--envoy-path", fake).code == 5
        enough = calls.answered + 20
        eventually("calls go on", lambda: calls.answered >= enough)
        assert machine.stats(r"(lds|cds)\.update_success$") == versions
    assert calls.failed == []


def test_two_run_on_one_machine(gateway: int) -> None:
    one, two = free_port(), free_port()
    render(gateway, egress(listen=one), directory="one")
    render(gateway, egress(listen=two), directory="two", name="invoices")
    issue_into(Path("one"))
    issue_into(Path("two"), "spiffe://cluster.local/ns/vms/sa/invoices")
    with running(Path("one")), running(Path("two")):
        assert [get(port)[1]["caller"].rpartition("/")[2] for port in (one, two)] == ["billing", "invoices"]


def test_two_that_listen_on_one_port_do_not_share_it(gateway: int) -> None:
    port = free_port()
    for name in ("one", "two"):
        render(gateway, egress(listen=port), directory=name)
        issue_into(Path(name))
    with running(Path("one")), running(Path("two"), listeners=set()) as second:
        eventually("the port is refused", lambda: second.stats(r"lds\.update_rejected$")[REJECTED])
        assert second.listeners() == {}
        assert get(port)[0] == 200


REJECTED = "listener_manager.lds.update_rejected"


def test_admin_is_for_the_owner(gateway: int) -> None:
    render(gateway, egress(listen=free_port()))
    issue_into(Path("bundle"))
    before = os.umask(0)
    try:
        with running(Path("bundle")):
            assert stat.S_IMODE(Path("bundle/admin.sock").stat().st_mode) == 0o600
    finally:
        os.umask(before)


def test_roots_of_the_spec_are_enough_beside_a_certificate(gateway: int) -> None:
    """An issuer that brings no roots: those of the Mesh are used."""
    port = free_port()
    Path("roots.pem").write_bytes(authority().files()["root-cert.pem"])
    offered = mesh(gateways=[{"address": "127.0.0.1", "port": gateway}], roots="roots.pem")
    spec = documents.write(Path("spec.yaml"), offered, workload(egress(listen=port)))
    assert run("render", spec, "-o", "bundle").code == 0
    Path("issued/certs").mkdir(parents=True)
    issue_into(Path("issued"))
    for name in ("cert-chain.pem", "key.pem"):
        shutil.copyfile(Path("issued/certs", name), Path("bundle/certs", name))
    with running(Path("bundle")):
        assert get(port)[0] == 200


USELESS = {
    "empty": {"cert-chain.pem": b"", "key.pem": b""},
    "junk": {"cert-chain.pem": b"junk", "key.pem": b"junk"},
    "junk for roots": {"root-cert.pem": b"junk"},
}


@pytest.mark.parametrize("useless", USELESS)
def test_certificates_that_were_useless_when_envoy_started(useless: str, gateway: int) -> None:
    """It refuses all clusters but the first then, and looks again only when something is renamed beside them."""
    port, calls = two_calls()
    render(gateway, *calls)
    refused_clusters(Path("bundle"), USELESS[useless])
    with running(Path("bundle")) as envoy:
        assert eventually("its clusters are refused", lambda: any(envoy.stats("cds.update_rejected").values()))
        assert get(port)[0] == 503
        assert run("ca", "issue", "ca", "--bundle", "bundle").code == 0
        assert eventually("a call is answered", lambda: get(port)[0] == 200)
        assert not list(Path("bundle").glob(".*"))


def test_rendering_again_mends_what_envoy_has_refused(gateway: int) -> None:
    port, calls = two_calls()
    render(gateway, *calls)
    refused_clusters(Path("bundle"), USELESS["empty"])
    with running(Path("bundle")):
        issue_into(Path("bundle"))
        assert get(port)[0] == 503
        assert render(gateway, *calls) == "unchanged"
        assert eventually("a call is answered", lambda: get(port)[0] == 200)


def two_calls() -> tuple[int, list[documents.Fields]]:
    """The second cluster, by name, is that of the service behind the port."""
    port = free_port()
    return port, [egress("ledger", listen=free_port()), egress(listen=port)]


def refused_clusters(bundle: Path, useless: dict[str, bytes]) -> None:
    """A certificate with files in its place that are none, and the CA that it comes from."""
    write_set(Path("ca"), authority().files())
    assert run("ca", "issue", "ca", "--bundle", bundle).code == 0
    issued = {name: (bundle / "certs" / name).read_bytes() for name in ("cert-chain.pem", "key.pem", "root-cert.pem")}
    write_set(bundle / "certs", {**issued, **useless})

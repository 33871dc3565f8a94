"""What a bundle has no more is gone, and what comes back is taken for ours."""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path

import pytest

from tests import documents
from tests.compile import cases
from tests.documents import egress, mesh, service, workload
from tests.render.bundles import content, other_roots, quickly, refused, render, rendered, roots, spec

GREETER = "greeter.demo.svc.cluster.local"
DESCRIPTORS = {"descriptor": "greeter.pb", "services": ["demo.v1.Greeter"]}


@pytest.fixture
def with_and_without(place: Path) -> tuple[str, str]:
    """A forwarder with a proxy, passwords and a transcoded service, and the same workload without them."""
    [descriptors] = [
        held
        for name, held in cases.content(cases.bundles("transcoding-from-proto-files")["billing"]).items()
        if name.endswith(".pb")
    ]
    Path("greeter.pb").write_bytes(descriptors)
    Path("users.htpasswd").write_text("ada:{SHA}qUqP5cyxm6YcTAhz05Hph5gvu9M=\n", encoding="utf-8")
    offered = mesh(service(GREETER, (8080, "HTTP2")))
    clients = {"cidrs": ["127.0.0.1/32"], "credentials": "users.htpasswd"}
    more: documents.Fields = {"profile": "forwarder", "clients": clients, "proxy": {"listen": "127.0.0.1:3128"}}
    documents.write(Path("with.yaml"), offered, workload(egress("greeter", transcode=DESCRIPTORS), **more))
    documents.write(Path("without.yaml"), offered, workload(egress("greeter")))
    return "with.yaml", "without.yaml"


def test_files_of_what_is_no_more_go(with_and_without: tuple[str, str]) -> None:
    more, less = with_and_without
    quickly(more)
    optional = {*rendered(more)} - {*rendered(less)}
    assert {name.partition("/")[0] for name in optional} == {"rds.json", "clients.htpasswd", "descriptors"}
    removed = quickly(less).removed
    assert {*removed} == optional
    assert content("bundle") == rendered(less)
    assert not Path("bundle/descriptors").exists()
    assert quickly(less).state == "unchanged"


def test_they_come_back_with_other_content(with_and_without: tuple[str, str]) -> None:
    more, less = with_and_without
    quickly(more)
    quickly(less)
    Path("users.htpasswd").write_text("ada:{SHA}2jmj7l5rSw0yVb/vlWAYkK/YBwk=\n", encoding="utf-8")
    assert quickly(more).state == "updated"
    assert content("bundle") == rendered(more)


def test_a_file_that_was_edited_stays_and_is_not_taken_for_ours(with_and_without: tuple[str, str]) -> None:
    more, less = with_and_without
    quickly(more)
    Path("bundle/rds.json").write_text("mine", encoding="utf-8")
    assert "rds.json" not in quickly(less).removed
    assert Path("bundle/rds.json").read_text(encoding="utf-8") == "mine"
    refused(render(more), "bundle: rds.json changed since the bundle was rendered")


def test_a_removal_that_fails_is_taken_back(with_and_without: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    more, less = with_and_without
    quickly(more)
    unlink = Path.unlink

    def failing(self: Path, *, missing_ok: bool = False) -> None:
        if self.name == "rds.json":
            raise KeyboardInterrupt
        unlink(self, missing_ok=missing_ok)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "unlink", failing)
        with pytest.raises(KeyboardInterrupt):
            quickly(less)
    assert content("bundle") == rendered(more)


def test_no_name_in_a_manifest_makes_root_remove_what_is_not_a_bundles(with_and_without: tuple[str, str]) -> None:
    more, less = with_and_without
    quickly(more)
    manifest = Path("bundle/manifest.json")
    Path("mine").write_text("mine", encoding="utf-8")
    names = ["../mine", "descriptors/../../mine", "descriptors/\\ud800", f"descriptors/{'a' * 300}", "mine\0", ""]
    said = json.loads(manifest.read_bytes())
    said["sha256"] |= dict.fromkeys(names, sha256(b"mine").hexdigest())
    manifest.write_text(json.dumps(said), encoding="utf-8")
    quickly(less, force=True)
    assert Path("mine").read_text(encoding="utf-8") == "mine"


def test_roots_stay_ours_while_a_spec_names_none(place: Path) -> None:
    Path("roots.pem").write_bytes(roots())
    spec("rooted.yaml", roots="roots.pem")
    quickly("rooted.yaml")
    quickly("spec.yaml")
    assert Path("bundle/certs/root-cert.pem").read_bytes() == roots(), "an Envoy may have no others"
    Path("roots.pem").write_bytes(other_roots())
    assert quickly("rooted.yaml").kept == ()
    assert Path("bundle/certs/root-cert.pem").read_bytes() == other_roots()

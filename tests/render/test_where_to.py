"""Directories of every kind, and those that hold something of somebody else."""

from __future__ import annotations

import errno
import json
import os
import socket
from pathlib import Path

import pytest

from tests.commands import run
from tests.render.bundles import FILES, content, other_roots, refused, render, rendered, roots, snapshot, spec


@pytest.mark.parametrize(
    "name", [".", "new", "a/b/c", "with space", "ümläut 中", "$(id)", "'quoted' \"twice\"", "-dash", "new/", "a/../b"]
)
def test_directories_of_every_name(name: str, place: Path) -> None:
    Path("inner").mkdir()
    os.chdir("inner")
    answer = run("render", "../spec.yaml", f"--output={name}")
    assert (answer.code, answer.err) == (0, "")
    assert set(snapshot(name)) == FILES


def test_a_name_that_is_no_unicode(place: Path) -> None:
    name = os.fsdecode(b"bundle-\xff")
    assert "\\udcff created" in render("spec.yaml", name).out
    assert render("spec.yaml", name, "--format", "json").json["bundles"][0]["directory"] == name


def test_an_empty_directory_and_one_with_certificates(place: Path) -> None:
    Path("empty").mkdir()
    Path("issued/certs").mkdir(parents=True)
    Path("issued/certs/key.pem").write_text("key", encoding="utf-8")
    assert render("spec.yaml", "empty").code == render("spec.yaml", "issued").code == 0
    assert Path("issued/certs/key.pem").read_text(encoding="utf-8") == "key"


def test_a_symbolic_link_to_a_directory(place: Path) -> None:
    Path("real").mkdir()
    Path("link").symlink_to("real")
    assert render("spec.yaml", "link").code == 0
    assert Path("link").is_symlink()
    assert set(snapshot("real")) == FILES
    assert "unchanged" in render("spec.yaml", "real").out


def test_nothing_is_written_through_a_link_inside(place: Path) -> None:
    """A file's is replaced; a directory's would lead the files of ours to somebody else's."""
    Path("theirs").mkdir()
    Path("theirs/lds.json").write_text("theirs", encoding="utf-8")
    Path("bundle").mkdir()
    Path("bundle/lds.json").symlink_to("../theirs/lds.json")
    Path("bundle/sds").symlink_to("../theirs")
    refused(render("spec.yaml", "bundle", "--force"), "bundle/sds is a symbolic link, so nothing is written through it")
    Path("bundle/sds").unlink()
    assert render("spec.yaml", "bundle", "--force").code == 0
    assert set(snapshot("bundle")) == FILES
    assert content("theirs") == {"lds.json": b"theirs"}


def test_certificates_may_be_kept_elsewhere(place: Path) -> None:
    Path("issued").mkdir()
    Path("bundle").mkdir()
    Path("bundle/certs").symlink_to("../issued")
    assert render("spec.yaml", "bundle").code == 0
    assert Path("bundle/certs").is_symlink()


def test_what_cannot_be_read_to_its_end_is_not_read(place: Path) -> None:
    Path("bundle").mkdir()
    Path("bundle/envoy.json").symlink_to("/dev/zero")
    refused(render("spec.yaml", "bundle", "--force"), "bundle/envoy.json is no file, so it is not ours to replace")
    Path("bundle/envoy.json").unlink()
    os.mkfifo("bundle/envoy.json")
    refused(render("spec.yaml", "bundle", "--force"), "bundle/envoy.json is no file, so it is not ours to replace")


@pytest.mark.parametrize("kind", ["pipe", "device", "socket", "directory"])
def test_a_manifest_that_cannot_be_read_to_its_end(kind: str, place: Path) -> None:
    """Root may read it for a user, who must not keep it for ever, or fill its memory."""
    render("spec.yaml")
    assert run("ca", "init", "ca").code == 0
    manifest = Path("bundle/manifest.json")
    manifest.unlink()
    with socket.socket(socket.AF_UNIX) as listener:
        match kind:
            case "pipe":
                os.mkfifo(manifest)
            case "device":
                manifest.symlink_to("/dev/zero")
            case "socket":
                listener.bind(str(manifest))
            case _:
                manifest.mkdir()
        for command, code in (
            (["render", "spec.yaml", "-o", "bundle"], 6),
            (["render", "spec.yaml", "-o", "bundle", "--force"], 6),
            (["env", "bundle"], 6),
            (["hosts", "bundle"], 6),
            (["exec", "bundle", "--", "true"], 6),
            (["ca", "issue", "ca", "--bundle", "bundle"], 7),
        ):
            refused(run(*command), "bundle/manifest.json", code=code)


def test_a_file_and_what_is_below_one(place: Path) -> None:
    Path("file").write_text("mine", encoding="utf-8")
    for name in ("file", "file/below", "file/far/below"):
        refused(render("spec.yaml", name), "cannot be written: ")
        refused(render("spec.yaml", name, "--force"), "cannot be written: ")
    assert Path("file").read_text(encoding="utf-8") == "mine"


def test_what_was_made_for_a_name_that_cannot_be_is_gone_again(place: Path) -> None:
    refused(render("spec.yaml", f"new/{'x' * 300}"), "File name too long")
    assert not Path("new").exists()


@pytest.mark.parametrize("number", [errno.EBADF, errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_that_locks_no_directory(number: int, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refusing(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("fcntl.flock", refusing)
    assert render("spec.yaml").code == 0
    assert content("bundle") == rendered("spec.yaml")


def test_a_fresh_file_system(place: Path) -> None:
    Path("disk/lost+found").mkdir(parents=True)
    assert render("spec.yaml", "disk").code == 0


def test_a_file_that_is_a_link_to_nowhere(place: Path) -> None:
    render("spec.yaml")
    Path("bundle/cds.json").unlink()
    Path("bundle/cds.json").symlink_to("nowhere")
    refused(render("spec.yaml"), "bundle: cds.json changed since the bundle was rendered")
    assert render("spec.yaml", "bundle", "--force").code == 0
    assert content("bundle") == rendered("spec.yaml")


def test_a_link_to_nowhere(place: Path) -> None:
    Path("link").symlink_to("nowhere")
    refused(render("spec.yaml", "link"), "cannot be written: File exists")
    assert not Path("nowhere").exists()


def test_a_name_that_is_too_long(place: Path) -> None:
    refused(render("spec.yaml", "x" * 300), "File name too long")


def test_what_is_not_ours_stays(place: Path) -> None:
    Path("theirs").mkdir()
    Path("theirs/envoy.json").write_text("{}", encoding="utf-8")
    Path("theirs/notes").write_text("mine", encoding="utf-8")
    before = snapshot("theirs")
    answer = render("spec.yaml", "theirs")
    refused(answer, "theirs: holds envoy.json, notes, and no bundle")
    assert "hint: Choose another directory, or replace it with --force." in answer.err
    assert snapshot("theirs") == before


def test_force_replaces_what_has_our_names_and_nothing_else(place: Path) -> None:
    Path("theirs").mkdir()
    Path("theirs/envoy.json").write_text("{}", encoding="utf-8")
    Path("theirs/notes").write_text("mine", encoding="utf-8")
    assert render("spec.yaml", "theirs", "--force").code == 0
    assert content("theirs") == {**rendered("spec.yaml"), "notes": b"mine"}


@pytest.mark.parametrize("manifest", ["", "[]", "{}", "\0", '{"kind": "Other"}', '{"kind": ["Bundle"]}'])
def test_a_manifest_that_is_not_ours(manifest: str, place: Path) -> None:
    Path("theirs").mkdir()
    Path("theirs/manifest.json").write_text(manifest, encoding="utf-8")
    refused(render("spec.yaml", "theirs"), "theirs: holds manifest.json, and no bundle")
    assert render("spec.yaml", "theirs", "--force").code == 0


@pytest.mark.parametrize("digests", [None, [], "x", {"cds.json": 5}, {"cds.json": []}, {"cds.json": {}, "": 1}])
def test_a_manifest_of_ours_that_was_mangled(digests: object, place: Path) -> None:
    render("spec.yaml")
    manifest = json.loads(Path("bundle/manifest.json").read_bytes()) | {"sha256": digests}
    Path("bundle/manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    assert render("spec.yaml").code == 0, "the files are those that would be written anyway"
    Path("bundle/manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    refused(render("more.yaml"), "cds.json, lds.json changed since the bundle was rendered")


@pytest.mark.parametrize("name", sorted(FILES - {"manifest.json"}))
def test_a_file_edited_by_hand_stays(name: str, place: Path) -> None:
    render("spec.yaml")
    with Path("bundle", name).open("a", encoding="utf-8") as stream:
        stream.write(" ")
    before = snapshot("bundle")
    refused(render("more.yaml"), f"bundle: {name} changed since the bundle was rendered")
    refused(render("spec.yaml"), f"bundle: {name} changed since the bundle was rendered")
    assert snapshot("bundle") == before
    assert render("more.yaml", "bundle", "--force").code == 0
    assert content("bundle") == rendered("more.yaml")


def test_a_file_that_was_removed_comes_back(place: Path) -> None:
    render("spec.yaml")
    Path("bundle/cds.json").unlink()
    assert "updated" in render("spec.yaml").out
    assert content("bundle") == rendered("spec.yaml")


def test_the_bundle_of_another_workload_stays(place: Path) -> None:
    render("spec.yaml")
    before = snapshot("bundle")
    refused(render("other.yaml"), "bundle: holds the bundle of another workload, not of vms/invoices")
    assert snapshot("bundle") == before
    assert render("other.yaml", "bundle", "--force").code == 0
    assert content("bundle") == rendered("other.yaml")


@pytest.mark.parametrize("name", ["envoy.json", "manifest.json", "sds", "certs"])
def test_something_else_under_our_name(name: str, place: Path) -> None:
    """A directory where a file goes, or the other way round."""
    Path("theirs").mkdir()
    if name.endswith(".json"):
        Path("theirs", name).mkdir()
    else:
        Path("theirs", name).write_text("mine", encoding="utf-8")
    before = snapshot("theirs")
    refused(render("spec.yaml", "theirs"), f"theirs/{name}" if name in {"manifest.json", "certs"} else "theirs")
    refused(render("spec.yaml", "theirs", "--force"), f"theirs/{name}")
    assert snapshot("theirs") == before
    assert {path.name for path in Path("theirs").iterdir()} == {name}


def test_roots_of_the_spec_seed_the_bundle_and_follow_it(place: Path) -> None:
    Path("roots.pem").write_bytes(roots())
    spec("rooted.yaml", roots="roots.pem")
    render("rooted.yaml")
    assert Path("bundle/certs/root-cert.pem").read_bytes() == roots()
    Path("roots.pem").write_bytes(other_roots())
    assert "certs/root-cert.pem" in render("rooted.yaml", "bundle", "--format", "json").json["bundles"][0]["changed"]
    assert Path("bundle/certs/root-cert.pem").read_bytes() == other_roots()


def test_nothing_but_certificates_of_a_roots_file_gets_into_a_bundle(place: Path) -> None:
    """What else stands there may be a secret, and others may read the bundle."""
    Path("roots.pem").write_bytes(b"a note: the password is hunter2\n" + roots() + b"MC4CAQAwBQYDK2VwBCIEIA==\n")
    spec("rooted.yaml", roots="roots.pem")
    render("rooted.yaml")
    assert Path("bundle/certs/root-cert.pem").read_bytes() == roots()


def test_roots_of_an_issuer_are_kept(place: Path) -> None:
    Path("roots.pem").write_bytes(roots())
    spec("rooted.yaml", roots="roots.pem")
    render("rooted.yaml")
    issued = Path("bundle/certs/root-cert.pem")
    issued.write_bytes(b"the issuer's")
    answer = render("rooted.yaml")
    assert "certs/root-cert.pem was put there by somebody else: left as it is" in answer.out
    assert issued.read_bytes() == b"the issuer's"
    Path("roots.pem").write_bytes(other_roots())
    assert render("rooted.yaml", "bundle", "--format", "json").json["bundles"][0]["kept"] == ["certs/root-cert.pem"]
    assert issued.read_bytes() == b"the issuer's"


def test_certificates_are_never_touched(place: Path) -> None:
    render("spec.yaml")
    for name in ("cert-chain.pem", "key.pem", "root-cert.pem"):
        Path("bundle/certs", name).write_text("the issuer's", encoding="utf-8")
    before = snapshot("bundle/certs")
    assert render("more.yaml", "bundle", "--force").code == 0
    assert snapshot("bundle/certs") == before

"""Bundles in the current directory: written, looked at, refused."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sidestep import onboard
from sidestep.pki.authority import Authority
from tests import documents
from tests.certificates import authority
from tests.commands import Ran, run
from tests.contents import contents
from tests.documents import egress, mesh, service, workload

if TYPE_CHECKING:
    from sidestep.onboard import Bundle

Snapshot = dict[str, tuple[bytes, int, int]]

FILES = {"envoy.json", "cds.json", "lds.json", "sds/identity.json", "sds/roots.json", "manifest.json"}


def spec(name: str, *services: documents.Fields, **more: Any) -> None:
    """Writes a mesh, and a workload that calls all of it."""
    offered = services or (service(),)
    documents.write(Path(name), mesh(*offered, **more), workload(*(egress(each["host"]) for each in offered)))


def render(file: str, directory: object = "bundle", *options: object) -> Ran:
    """Renders, validated by the real Envoy."""
    return run("render", file, "-o", directory, *options)


def bundle_of(file: str) -> Bundle:
    [bundle] = onboard.bundles(onboard.load([file]))
    return bundle


def quickly(file: str, directory: Path = Path("bundle"), **options: Any) -> onboard.Installed:
    """The same without asking Envoy."""
    return bundle_of(file).install(directory, validate=lambda *_: None, **options)


def snapshot(directory: Path | str) -> Snapshot:
    """Every file in a directory: content, mode and inode."""
    files = [path for path in Path(directory).rglob("*") if path.is_file()]
    return {
        str(path.relative_to(directory)): (path.read_bytes(), path.stat().st_mode, path.stat().st_ino) for path in files
    }


def content(directory: Path | str) -> dict[str, bytes]:
    return {name: value[0] for name, value in snapshot(directory).items()}


def rendered(file: str) -> dict[str, bytes]:
    """What a bundle holds when all went well."""
    return contents(bundle_of(file).tree)


def refused(answer: Ran, said: str, *, code: int = 6) -> None:
    assert (answer.code, answer.out) == (code, "")
    assert said in answer.err
    assert "Traceback" not in answer.err


def roots() -> bytes:
    return authority().files()["root-cert.pem"]


@cache
def other_roots() -> bytes:
    return roots() + Authority.new_root(datetime.now(UTC)).files()["root-cert.pem"]

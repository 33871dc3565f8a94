"""Root renders into a directory of another user: with that user's rights, and no others."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sidestep.files import tree
from tests.commands import run
from tests.envoys import fake_envoy
from tests.render.bundles import content, refused, rendered
from tests.users import GROUP, USER, as_root

pytestmark = [as_root, pytest.mark.usefixtures("place")]


def quickly(target: Path, file: str = "spec.yaml") -> None:
    assert run("render", file, "-o", target, "--unsafe-skip-validation").code == 0


def owners(directory: Path) -> set[tuple[int, int]]:
    return {(path.stat().st_uid, path.stat().st_gid) for path in [directory, *directory.rglob("*")]}


def test_the_files_are_theirs(theirs: Path) -> None:
    quickly(theirs)
    assert owners(theirs) == {(USER, GROUP)}
    assert (os.geteuid(), os.getegid()) == (0, 0)
    quickly(theirs, "more.yaml")
    assert content(theirs).items() >= rendered("more.yaml").items()


def test_envoy_is_run_as_them_for_good(theirs: Path) -> None:
    said = "[2026-01-01 00:00:00.000][1][critical][main] [x] $(id -u) $(id -ru) $(id -g) $(id -G)"
    envoy = fake_envoy(theirs.parent / "envoy", f'echo "{said}" >&2; exit 1')
    ran = run("render", "spec.yaml", "-o", theirs / "bundle", "--envoy-path", envoy)
    refused(ran, f"{USER} {USER} {GROUP} {GROUP}", code=5)
    assert not (theirs / "bundle").exists()


def test_an_envoy_that_they_may_not_run_is_said(theirs: Path) -> None:
    envoy = fake_envoy(theirs.parent / "envoy", "exit 0")
    envoy.chmod(0o700)
    ran = run("render", "spec.yaml", "-o", theirs / "bundle", "--envoy-path", envoy)
    refused(ran, f"hint: Name an Envoy that user {USER} may run with --envoy-path.", code=4)


@pytest.mark.parametrize("name", ["bundle", "bundle/lds.json"])
def test_a_link_of_theirs_leads_no_further_than_they_may_go(name: str, theirs: Path, place: Path) -> None:
    """``place`` is root's alone, though what a link of theirs says is in it may be there."""
    (place / "roots").mkdir()
    quickly(theirs / "bundle")
    if name == "bundle":
        (theirs / "bundle").rename(theirs / "before")
    else:
        (theirs / name).unlink()
    (theirs / name).symlink_to(place / "roots")
    os.chown(theirs / name, USER, GROUP, follow_symlinks=False)
    ran = run("render", "more.yaml", "-o", theirs / "bundle", "--unsafe-skip-validation", "--force")
    assert ran.code in {0, 6}
    assert not list((place / "roots").iterdir())
    assert {path.stat().st_uid for path in place.iterdir()} == {0}


def test_a_link_of_roots_to_a_directory_of_theirs_is_theirs_too(theirs: Path) -> None:
    (theirs.parent / "link").symlink_to(theirs)
    quickly(theirs.parent / "link" / "bundle")
    assert owners(theirs / "bundle") == {(USER, GROUP)}


def test_a_journal_of_theirs_moves_nothing_of_roots(theirs: Path, place: Path) -> None:
    quickly(theirs)
    (place / "passwd").write_text("root's")
    staging = theirs / tree.STAGING
    (staging / ".replaced").mkdir(parents=True)
    (staging / ".replaced" / "passwd").write_text("theirs")
    (theirs / "link").symlink_to(place)
    (staging / ".journal").write_text('{"files": {"link/passwd": null}, "directories": []}')
    for path in [staging, *staging.rglob("*")]:
        os.chown(path, USER, GROUP)
    quickly(theirs, "more.yaml")
    assert (place / "passwd").read_text() == "root's"


def test_root_that_cannot_become_them_says_so(theirs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container without the right to."""

    def refusing(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    with monkeypatch.context() as patched:
        patched.setattr("os.setgroups", refusing)
        ran = run("render", "spec.yaml", "-o", theirs / "bundle", "--unsafe-skip-validation")
    refused(ran, f"belongs to user {USER}, whom root cannot become here")
    assert (os.geteuid(), os.getegid()) == (0, 0)


def test_whom_a_user_namespace_has_no_number_for_is_nobody_to_become(
    theirs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There the host's root is such a one, and owns the way to everything."""
    monkeypatch.setattr("sidestep.files.ownership._without_number", lambda: USER)
    quickly(theirs / "bundle")
    assert owners(theirs / "bundle") == {(0, 0)}

"""The block in a hosts file: ours is put, changed and taken out; every other byte stays."""

from __future__ import annotations

import errno
import os
import stat
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidestep.errors import OutputError
from sidestep.hosts import block, replaced, update
from tests import documents
from tests.commands import run

NAMES = {"127.77.0.9": ["reviews.bookinfo"], "127.77.0.10": ["ledger.pay", "ledger.pay.svc"]}
LINES = block("vms/billing", NAMES)
OTHERS = "127.0.0.1 localhost\n# a comment\n::1 localhost ip6-localhost\n"


def test_a_block_names_its_owner_and_is_in_numerical_order() -> None:
    assert LINES == [
        "# BEGIN sidestep vms/billing",
        "127.77.0.9 reviews.bookinfo",
        "127.77.0.10 ledger.pay ledger.pay.svc",
        "# END sidestep vms/billing",
    ]
    assert block("vms/billing", {}) == []


text = st.text(st.characters(codec="utf-8", exclude_characters="\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029\r"))


@given(before=text, after=text)
def test_whatever_else_is_in_the_file_stays(before: str, after: str) -> None:
    file = f"{before}\n{after}"
    with_block = replaced(file, "vms/billing", LINES)
    assert "\n".join(LINES) in with_block
    assert replaced(with_block, "vms/billing", LINES) == with_block
    changed = replaced(with_block, "vms/billing", LINES[:1] + LINES[-1:])
    assert replaced(changed, "vms/billing", []).rstrip("\n") == file.rstrip("\n")


def test_blocks_of_two_workloads_do_not_touch_each_other() -> None:
    both = replaced(replaced(OTHERS, "vms/billing", LINES), "vms/bill", block("vms/bill", {"127.77.1.1": ["a.b"]}))
    assert replaced(both, "vms/bill", []) == replaced(OTHERS, "vms/billing", LINES)
    assert replaced(replaced(both, "vms/bill", []), "vms/billing", []) == OTHERS


def test_a_file_keeps_its_line_ends() -> None:
    windows = OTHERS.replace("\n", "\r\n")
    assert "\n" not in replaced(windows, "vms/billing", LINES).replace("\r\n", "")


@pytest.mark.parametrize(
    "damaged",
    [
        "\n".join(LINES[:-1]),
        "\n".join(LINES[1:]),
        "\n".join([*LINES, *LINES]),
        "\n".join([LINES[-1], LINES[1], LINES[0]]),
    ],
)
def test_a_damaged_block_is_left_to_its_owner(damaged: str, tmp_path: Path) -> None:
    (tmp_path / "hosts").write_text(damaged)
    with pytest.raises(OutputError, match="is damaged"):
        update(tmp_path / "hosts", "vms/billing", LINES)
    assert (tmp_path / "hosts").read_text() == damaged


def test_a_file_keeps_mode_and_place(tmp_path: Path) -> None:
    real, link = tmp_path / "real", tmp_path / "hosts"
    real.write_bytes(OTHERS.encode() + b"10.0.0.1 not-utf8-\xff\n")
    real.chmod(0o640)
    link.symlink_to(real)
    assert update(link, "vms/billing", LINES)
    assert not update(link, "vms/billing", LINES)
    assert link.is_symlink()
    assert stat.S_IMODE(real.stat().st_mode) == 0o640
    assert b"not-utf8-\xff" in real.read_bytes()
    assert update(link, "vms/billing", [])
    assert real.read_bytes() == OTHERS.encode() + b"10.0.0.1 not-utf8-\xff\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["hosts", "real"]


def test_a_file_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="No such file"):
        update(tmp_path / "hosts", "vms/billing", LINES)
    assert not list(tmp_path.iterdir())


def test_many_at_once_lose_nothing(tmp_path: Path) -> None:
    file = tmp_path / "hosts"
    file.write_text(OTHERS)
    owners = [f"vms/billing-{number}" for number in range(8)]
    with ThreadPoolExecutor(len(owners)) as pool:
        changed = [*pool.map(lambda owner: update(file, owner, block(owner, NAMES)), owners)]
    assert all(changed)
    assert all(block(owner, NAMES)[0] in file.read_text().splitlines() for owner in owners)
    for owner in owners:
        update(file, owner, [])
    assert file.read_text() == OTHERS


def test_what_another_program_writes_meanwhile_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "hosts"
    file.write_text(OTHERS)
    fsync = os.fsync

    def meanwhile(descriptor: int) -> None:
        if "192.0.2.1" not in file.read_text():
            file.write_text(f"{OTHERS}192.0.2.1 another\n")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", meanwhile)
    assert update(file, "vms/billing", LINES)
    assert file.read_text() == "\n".join([f"{OTHERS}192.0.2.1 another", *LINES, ""])


@pytest.mark.parametrize("why", [errno.EACCES, errno.EROFS])
def test_a_file_in_a_directory_that_is_not_ours_is_written_in_place(
    why: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in containers: /etc/hosts is a mount of its own in a file system that may be read-only."""
    file = tmp_path / "hosts"
    file.write_text(OTHERS)
    inode = file.stat().st_ino

    def refused(**_: object) -> None:
        raise OSError(why, os.strerror(why))

    monkeypatch.setattr(tempfile, "mkstemp", refused)
    assert update(file, "vms/billing", LINES)
    assert (file.read_text(), file.stat().st_ino) == (OTHERS + "\n".join(LINES) + "\n", inode)


def test_a_full_disk_leaves_the_file_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "hosts").write_text(OTHERS)

    def full(**_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(tempfile, "mkstemp", full)
    with pytest.raises(OutputError, match="No space left"):
        update(tmp_path / "hosts", "vms/billing", LINES)
    assert (tmp_path / "hosts").read_text() == OTHERS


def test_the_command_says_what_is_in_the_file(tmp_path: Path) -> None:
    (tmp_path / "hosts").write_text(OTHERS)
    said = []
    for call in (documents.egress(), documents.egress(listen=19080)):
        workload = documents.workload(call, addresses={})
        file = documents.write(tmp_path / "spec.yaml", documents.mesh(), workload)
        assert run("render", file, "-o", tmp_path / "bundle", "--unsafe-skip-validation").code == 0
        said.append(run("hosts", tmp_path / "bundle", "--install", "--file", tmp_path / "hosts"))
    assert [ran.out.removeprefix(f"{tmp_path}/hosts: ") for ran in said] == [
        "changed, the block of vms/billing is in it\n",
        "changed, the block of vms/billing is not in it\n",
    ]
    assert "no service of vms/billing is on a loopback address under its own port number" in said[1].err
    assert (tmp_path / "hosts").read_text() == OTHERS

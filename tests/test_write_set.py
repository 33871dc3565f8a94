"""`files.write_set`: readers see one set or the other, whatever was there before and whoever else writes."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from sidestep.errors import OutputError
from sidestep.files import write_set
from tests.users import GROUP, USER, as_root


def snapshot(directory: Path) -> dict[str, bytes]:
    """The set in place, by its visible names."""
    return {path.name: path.read_bytes() for path in directory.iterdir() if not path.name.startswith("..")}


def hidden(directory: Path) -> list[str]:
    return sorted(path.name.partition("-")[0] for path in directory.iterdir() if path.name.startswith(".."))


def test_a_set_is_written_as_kubernetes_does(tmp_path: Path) -> None:
    target = tmp_path / "new" / "certs"
    write_set(target, {"key.pem": b"k1", "cert.pem": b"c1"})
    assert snapshot(target) == {"key.pem": b"k1", "cert.pem": b"c1"}
    assert (target / "key.pem").readlink() == Path("..data/key.pem")
    assert (target / "..data").is_symlink()
    assert (target / "key.pem").stat().st_mode & 0o777 == 0o600
    assert target.stat().st_mode & 0o777 == 0o700


def test_the_next_set_replaces_it_and_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    write_set(tmp_path, {"key.pem": b"k1", "old.pem": b"o1"})
    link = (tmp_path / "key.pem").lstat().st_ino
    write_set(tmp_path, {"key.pem": b"k2", "cert.pem": b"c2"}, mode=0o640)
    assert snapshot(tmp_path) == {"key.pem": b"k2", "cert.pem": b"c2", "notes.txt": b"mine"}
    assert hidden(tmp_path) == ["..data", "..version"]
    assert (tmp_path / "key.pem").lstat().st_ino == link, "a link that is right is left alone"
    assert (tmp_path / "key.pem").stat().st_mode & 0o777 == 0o640


def test_plain_files_are_adopted(tmp_path: Path) -> None:
    (tmp_path / "key.pem").write_bytes(b"k0")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_bytes(b"c0")
    (tmp_path / "cert.pem").symlink_to(elsewhere)
    write_set(tmp_path, {"key.pem": b"k1", "cert.pem": b"c1", "roots.pem": b"r1"})
    assert snapshot(tmp_path) == {"key.pem": b"k1", "cert.pem": b"c1", "roots.pem": b"r1", "elsewhere": b"c0"}
    assert all((tmp_path / name).is_symlink() for name in ("key.pem", "cert.pem", "roots.pem"))
    assert hidden(tmp_path) == ["..data", "..version"]


def test_what_a_crash_left_is_cleaned_up(tmp_path: Path) -> None:
    write_set(tmp_path, {"key.pem": b"k1"})
    (tmp_path / "..version-crashed").mkdir()
    (tmp_path / "..version-crashed" / "key.pem").write_bytes(b"half")
    (tmp_path / "..link-key.pem").symlink_to("nowhere")
    write_set(tmp_path, {"key.pem": b"k2"})
    assert snapshot(tmp_path) == {"key.pem": b"k2"}
    assert hidden(tmp_path) == ["..data", "..version"]


@pytest.mark.parametrize("name", ["", ".", "..", "..data", "a/b", "../key.pem", "nul\0"])
def test_names_that_leave_the_directory_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(OutputError, match="not the name of a file"):
        write_set(tmp_path, {name: b""})
    assert not list(tmp_path.iterdir())


def test_what_is_not_ours_is_not_replaced(tmp_path: Path) -> None:
    write_set(tmp_path / "one", {"cert.pem": b"c1"})
    (tmp_path / "one" / "key.pem").mkdir()
    with pytest.raises(OutputError, match=r"key\.pem is a directory"):
        write_set(tmp_path / "one", {"cert.pem": b"c2", "key.pem": b"k2"})
    assert (tmp_path / "one" / "cert.pem").read_bytes() == b"c1"
    (tmp_path / "two" / "..data").mkdir(parents=True)
    with pytest.raises(OutputError, match="not a symbolic link"):
        write_set(tmp_path / "two", {"key.pem": b"k2"})
    (tmp_path / "three").write_text("a file")
    with pytest.raises(OutputError, match=r"three: cannot be written: File exists"):
        write_set(tmp_path / "three", {"key.pem": b"k2"})


def test_a_link_of_our_own_is_followed(tmp_path: Path) -> None:
    (tmp_path / "issued").mkdir()
    (tmp_path / "certs").symlink_to("issued")
    write_set(tmp_path / "certs", {"key.pem": b"k1"})
    assert snapshot(tmp_path / "issued") == {"key.pem": b"k1"}


@as_root
def test_a_link_of_another_user_leads_no_further_than_that_user_may_go(tmp_path: Path) -> None:
    (tmp_path / "roots").mkdir()
    with TemporaryDirectory() as directory:
        Path(directory).chmod(0o755)
        link = Path(directory, "certs")
        link.symlink_to(tmp_path / "roots")
        os.chown(link, USER, GROUP, follow_symlinks=False)
        with pytest.raises(OutputError, match="Permission denied"):
            write_set(link, {"key.pem": b"k1"})
    assert not [*(tmp_path / "roots").iterdir()]


@as_root
def test_a_way_of_several_users_is_refused(tmp_path: Path) -> None:
    (tmp_path / "one" / "two").mkdir(parents=True)
    for number, place in ((USER, tmp_path / "one"), (GROUP, tmp_path / "one" / "two")):
        os.chown(place, number, number)
    with pytest.raises(OutputError, match=rf"the way there belongs to several users \({USER} and {GROUP}\)"):
        write_set(tmp_path / "one" / "two", {"key.pem": b"k1"})


def test_a_failed_write_keeps_the_old_set(tmp_path: Path) -> None:
    write_set(tmp_path, {"key.pem": b"k1"})
    with pytest.raises(OutputError):
        write_set(tmp_path, {"key.pem": b"k2", "n" * 300: b"too long a name"})
    assert snapshot(tmp_path) == {"key.pem": b"k1"}
    assert hidden(tmp_path) == ["..data", "..version"]


def test_a_reader_never_sees_a_mixture(tmp_path: Path) -> None:
    write_set(tmp_path, {"key.pem": b"0", "cert.pem": b"0"})
    seen, done = set[tuple[bytes, bytes]](), threading.Event()

    def read() -> None:
        while not done.is_set():
            descriptor = os.open(tmp_path / "..data", os.O_RDONLY)
            try:
                seen.add((_read_at(descriptor, "key.pem"), _read_at(descriptor, "cert.pem")))
            except FileNotFoundError:
                continue  # the version went while it was read: as good as not having read it
            finally:
                os.close(descriptor)

    reader = threading.Thread(target=read)
    reader.start()
    for number in range(100):
        write_set(tmp_path, {"key.pem": b"%d" % number, "cert.pem": b"%d" % number})
    done.set()
    reader.join()
    assert seen
    assert all(key == cert for key, cert in seen)


def _read_at(directory: int, name: str) -> bytes:
    descriptor = os.open(name, os.O_RDONLY, dir_fd=directory)
    try:
        return os.read(descriptor, 100)
    finally:
        os.close(descriptor)


def test_writers_wait_for_one_another(tmp_path: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        for number in range(40):
            pool.submit(write_set, tmp_path, {"key.pem": b"%d" % number, "cert.pem": b"%d" % number})
    final = snapshot(tmp_path)
    assert final["key.pem"] == final["cert.pem"]
    assert hidden(tmp_path) == ["..data", "..version"]


def test_a_pipe_is_not_read(tmp_path: Path) -> None:
    """Root may write for the owner of a directory, who must not keep it waiting for ever."""
    os.mkfifo(tmp_path / "key.pem")
    with pytest.raises(OutputError, match=r"key\.pem is no file, so it is not ours to replace"):
        write_set(tmp_path, {"key.pem": b"k"})
    assert [path.name for path in tmp_path.iterdir()] == ["key.pem"]

"""What is in place stays whole, whatever fails."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from sidestep.errors import EnvoyRejected, OutputError
from sidestep.files import tree
from tests.commands import run
from tests.documents import LEDGER, service
from tests.envoys import fake_envoy
from tests.render.bundles import (
    FILES,
    Snapshot,
    bundle_of,
    content,
    quickly,
    refused,
    render,
    rendered,
    roots,
    snapshot,
    spec,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


def whole(old: Snapshot) -> None:
    """The bundle is the one from before, and nothing of what failed is left beside it."""
    assert snapshot("bundle") == old
    assert {path.name for path in Path("bundle").iterdir()} == {name.partition("/")[0] for name in FILES} | {"certs"}


def refusing(_directory: Path, _bootstrap: str) -> None:
    raise EnvoyRejected("no")


def test_envoy_refuses(old: Snapshot, place: Path) -> None:
    with pytest.raises(EnvoyRejected):
        bundle_of("more.yaml").install(Path("bundle"), validate=refusing)
    whole(old)
    with pytest.raises(EnvoyRejected):
        bundle_of("more.yaml").install(Path("new/nested"), validate=refusing)
    assert not Path("new").exists()


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("echo '[2026-01-01 00:00:00.000][1][critical][main] [x] no such thing' >&2; exit 1", "no such thing"),
        ("exit 1", "it gave no reason"),
        ("kill -9 $$", "SIGKILL"),
    ],
)
def test_an_envoy_that_refuses(body: str, said: str, old: Snapshot, place: Path) -> None:
    answer = render("more.yaml", "bundle", "--envoy-path", fake_envoy(place / "envoy", body))
    assert (answer.code, answer.out) == (5, "")
    assert said in answer.err
    whole(old)


def test_no_envoy(old: Snapshot, place: Path) -> None:
    answer = render("more.yaml", "bundle", "--envoy-path", "missing")
    assert (answer.code, answer.out) == (4, "")
    whole(old)
    assert run("render", "more.yaml", "-o", "bundle", "--unsafe-skip-validation").code == 0
    assert content("bundle") == rendered("more.yaml")


@contextlib.contextmanager
def mounted(directory: Path, *options: str) -> Iterator[None]:
    """A file system of its own on a directory, for those who may mount."""
    if os.geteuid() != 0 or not shutil.which("mount"):
        pytest.skip("needs root, and mount, to mount a file system")
    try:
        subprocess.run(["mount", *options, directory], check=True, capture_output=True)
    except subprocess.CalledProcessError as error:
        pytest.skip(f"cannot mount here: {error.stderr.decode()}")
    try:
        yield
    finally:
        subprocess.run(["umount", directory], check=True)


def test_the_disk_is_full(place: Path) -> None:
    spec("many.yaml", *(service(f"s{n}.a.svc.cluster.local", (1000 + n, "HTTP")) for n in range(60)))
    Path("disk").mkdir()
    with mounted(Path("disk"), "-t", "tmpfs", "-o", "size=160k", "none"):
        quickly("spec.yaml", Path("disk/bundle"))
        before = snapshot("disk/bundle")
        for options in ([], ["--force"]):
            refused(render("many.yaml", "disk/bundle", *options), "cannot be written: No space left on device")
            assert snapshot("disk/bundle") == before
        refused(render("many.yaml", "disk/new"), "No space left on device")
        assert not Path("disk/new").exists()


def test_the_disk_is_read_only(old: Snapshot, place: Path) -> None:
    with mounted(Path("bundle"), "-o", "bind", "bundle"):
        subprocess.run(["mount", "-o", "remount,bind,ro", "bundle"], check=True)
        refused(render("more.yaml"), "bundle: cannot be written: Read-only file system")
        refused(render("more.yaml", "bundle/below"), "bundle/below: cannot be written: Read-only file system")
    whole(old)


_AS_SOMEBODY_ELSE = """
import contextlib, os, sys
from sidestep.cli import main
command = ["render", "spec.yaml", "--unsafe-skip-validation", "-o"]
with contextlib.suppress(SystemExit):
    main([*command, "warm"])  # everything is imported: the other user may not be able to
print("-")
if os.geteuid() == 0:
    os.setegid(65534), os.seteuid(65534)
main([*command, "bundle"])
"""


def test_the_directory_is_somebody_elses(place: Path) -> None:
    quickly("more.yaml")
    if os.geteuid() != 0:
        Path("bundle").chmod(0o555)
    place.chmod(0o755)
    done = subprocess.run([sys.executable, "-c", _AS_SOMEBODY_ELSE], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.partition("-\n")[2]) == (6, ""), done.stderr
    assert "error: bundle: cannot be written: Permission denied" in done.stderr
    assert content("bundle") == rendered("more.yaml")


def failing(at: int, error: BaseException) -> Callable[[Path, Path], Path]:
    """A rename that fails the ``at``-th time."""
    real, count = Path.replace, iter(range(1000))

    def replace(self: Path, target: Path) -> Path:
        if tree.STAGING in self.parts and next(count) == at:
            raise error
        return real(self, target)

    return replace


@pytest.mark.parametrize("error", [OSError(5, "Input/output error"), KeyboardInterrupt()], ids=["error", "interrupt"])
@pytest.mark.parametrize("at", range(3))
def test_a_rename_fails(at: int, error: BaseException, old: Snapshot, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", failing(at, error))
        expected = OutputError if isinstance(error, OSError) else KeyboardInterrupt
        with pytest.raises(expected):
            quickly("more.yaml")
    whole(old)
    assert quickly("more.yaml").state == "updated"
    assert content("bundle") == rendered("more.yaml")


@pytest.mark.parametrize("at", range(6))
def test_a_rename_fails_where_nothing_was(at: int, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", failing(at, OSError(5, "Input/output error")))
        with pytest.raises(OutputError):
            quickly("spec.yaml", Path("a/bundle"))
    assert not Path("a").exists()


_KILLED = """
import os, sys
from pathlib import Path
from sidestep.cli import main
def dying(real, at):
    count = iter(range(1000))
    def call(self, *arguments, **options):
        if ".sidestep-staging" in str(self) and next(count) == at:
            os.kill(os.getpid(), int(by))
        return real(self, *arguments, **options)
    return call
name, at, by, *arguments = sys.argv[1:]
setattr(Path, name, dying(getattr(Path, name), int(at)))
main(arguments)
"""


def killed(method: str, at: int, file: str, by: signal.Signals = signal.SIGKILL) -> None:
    """Renders in another process that is ended at the ``at``-th call of a method on what is staged."""
    arguments = ["render", file, "-o", "bundle", "--unsafe-skip-validation"]
    done = subprocess.run([sys.executable, "-c", _KILLED, method, str(at), str(int(by)), *arguments], check=False)
    assert done.returncode == (-signal.SIGKILL if by == signal.SIGKILL else 143)


# While files are being staged, before each of the renames, and before the end is noted.
POINTS = [("mkdir", 1), ("mkdir", 2), ("replace", 0), ("replace", 1), ("replace", 2), ("unlink", 1)]


@pytest.mark.parametrize(("method", "at"), POINTS)
def test_terminated_half_way_it_takes_back_what_it_did(method: str, at: int, old: Snapshot, place: Path) -> None:
    killed(method, at, "more.yaml", signal.SIGTERM)
    whole(old)


@pytest.mark.parametrize(("method", "at"), POINTS)
@pytest.mark.parametrize("then", ["spec.yaml", "more.yaml", "most.yaml"])
def test_killed_half_way_the_next_run_goes_on(method: str, at: int, then: str, old: Snapshot, place: Path) -> None:
    spec("most.yaml", service(), service(LEDGER, (50051, "GRPC")), service("x.y.svc.cluster.local", (1, "TCP")))
    killed(method, at, "more.yaml")
    assert Path("bundle", tree.STAGING).is_dir()
    quickly(then)
    assert content("bundle") == rendered(then)
    assert not Path("bundle", tree.STAGING).exists()


@pytest.mark.parametrize(("method", "at"), [*POINTS, ("replace", 3), ("replace", 5)])
def test_killed_half_way_through_a_first_run(method: str, at: int, place: Path) -> None:
    killed(method, at, "spec.yaml")
    quickly("more.yaml")
    assert content("bundle") == rendered("more.yaml")
    assert not Path("bundle", tree.STAGING).exists()


def test_what_an_issuer_wrote_after_a_kill_is_kept(place: Path) -> None:
    Path("roots.pem").write_bytes(roots())
    spec("rooted.yaml", roots="roots.pem")
    killed("replace", 6, "rooted.yaml")
    assert Path("bundle/certs/root-cert.pem").read_bytes() == roots()
    Path("bundle/certs/root-cert.pem").write_bytes(b"the issuer's")
    quickly("rooted.yaml")
    assert Path("bundle/certs/root-cert.pem").read_bytes() == b"the issuer's"


def test_killed_while_it_took_back_what_another_had_begun(old: Snapshot, place: Path) -> None:
    killed("replace", 2, "more.yaml")
    killed("replace", 0, "more.yaml")
    killed("replace", 1, "more.yaml")
    quickly("spec.yaml")
    assert content("bundle") == rendered("spec.yaml")


@pytest.mark.parametrize("name", ["../mine", "{place}/mine", "sds/../../mine", "link/mine"])
def test_a_journal_that_somebody_else_wrote_reaches_nothing_outside(name: str, old: Snapshot, place: Path) -> None:
    """Root renders for a user, who owns the directory: the journal must not be a way to remove root's files."""
    Path("mine").write_text("mine", encoding="utf-8")
    Path("bundle/link").symlink_to(place)
    forged({"files": {name.format(place=place): sha256(b"mine").hexdigest()}, "directories": []})
    quickly("more.yaml")
    assert Path("mine").read_text(encoding="utf-8") == "mine"
    assert content("bundle").items() >= rendered("more.yaml").items()


def test_a_journal_that_somebody_else_wrote_puts_nothing_back_from_outside(old: Snapshot, place: Path) -> None:
    Path("mine").write_text("mine", encoding="utf-8")
    forged({"files": {"lds.json": sha256(old["lds.json"][0]).hexdigest()}, "directories": []})
    Path("bundle", tree.STAGING, ".replaced").symlink_to(place)
    Path("lds.json").write_text("mine", encoding="utf-8")
    quickly("spec.yaml")
    assert Path("lds.json").read_text(encoding="utf-8") == "mine"
    assert content("bundle") == rendered("spec.yaml")


@pytest.mark.parametrize(
    "journal",
    [
        [],
        1,
        {},
        {"files": [1], "directories": []},
        {"files": {"a\0b": "x"}, "directories": []},
        {"files": {}, "directories": 5},
        {"files": {}, "directories": [{}]},
        {"files": {"certs": None, "nothing": None}, "directories": []},
        {"files": {"": "x"}, "directories": []},
        {"files": {"\ud800": "x", "b": "y"}, "directories": []},
        {"files": {"a" * 400: "x"}, "directories": ["b" * 400]},
        {"files": {}, "directories": [], "more": 1},
    ],
)
def test_a_journal_that_is_none_is_passed_over(journal: object, old: Snapshot, place: Path) -> None:
    forged(journal)
    quickly("more.yaml")
    assert content("bundle") == rendered("more.yaml")


@pytest.mark.parametrize("what", ["journal", "file"])
def test_a_journal_that_cannot_be_read_to_its_end(what: str, old: Snapshot, place: Path) -> None:
    if what == "file":
        forged({"files": {"x": sha256(b"").hexdigest()}, "directories": []})
        os.mkfifo("bundle/x")
    else:
        Path("bundle", tree.STAGING).mkdir()
        os.mkfifo(Path("bundle", tree.STAGING, ".journal"))
    quickly("more.yaml")
    assert not Path("bundle", tree.STAGING).exists()


def test_a_journal_that_is_a_directory(old: Snapshot, place: Path) -> None:
    Path("bundle", tree.STAGING, ".journal", "below").mkdir(parents=True)
    quickly("more.yaml")
    assert content("bundle") == rendered("more.yaml")


@pytest.mark.parametrize("kind", ["link", "file"])
def test_a_staging_directory_that_is_none(kind: str, old: Snapshot, place: Path) -> None:
    Path("theirs").mkdir()
    Path("theirs/.journal").write_text("mine", encoding="utf-8")
    staging = Path("bundle", tree.STAGING)
    if kind == "link":
        staging.symlink_to(place / "theirs")
    else:
        staging.write_text("mine", encoding="utf-8")
    refused(render("more.yaml"), f"{staging} is no directory of ours\nhint: Remove it.")
    assert content("theirs") == {".journal": b"mine"}
    staging.unlink()
    whole(old)


def test_what_is_edited_while_envoy_validates_is_not_lost(old: Snapshot, place: Path) -> None:
    def meanwhile(_directory: Path, _bootstrap: str) -> None:
        Path("bundle/cds.json").write_text("mine", encoding="utf-8")

    with pytest.raises(OutputError, match=r"cds\.json changed while the bundle was made"):
        bundle_of("more.yaml").install(Path("bundle"), validate=meanwhile, force=True)
    assert content("bundle") == {**rendered("spec.yaml"), "cds.json": b"mine"}


def forged(journal: object) -> None:
    Path("bundle", tree.STAGING).mkdir()
    Path("bundle", tree.STAGING, ".journal").write_text(json.dumps(journal), encoding="utf-8")


def test_two_at_once_are_one_after_the_other_or_refused(old: Snapshot, place: Path) -> None:
    """While one validates, another finds the directory taken, and says so."""
    inside, go_on = threading.Event(), threading.Event()

    def slow(_directory: Path, _bootstrap: str) -> None:
        inside.set()
        assert go_on.wait(20)

    first = threading.Thread(target=lambda: bundle_of("more.yaml").install(Path("bundle"), validate=slow))
    first.start()
    try:
        assert inside.wait(20)
        for options in ([], ["--force"]):
            refused(render("spec.yaml", "bundle", *options), "bundle: another process is writing there")
    finally:
        go_on.set()
        first.join()
    assert content("bundle") == rendered("more.yaml")


def test_many_at_once_leave_one_of_their_bundles(place: Path) -> None:
    files = ["spec.yaml", "more.yaml"] * 4
    commands = [
        [sys.executable, "-m", "sidestep", "render", file, "-o", "bundle", "--unsafe-skip-validation"] for file in files
    ]
    processes = [
        subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) for command in commands
    ]
    assert {process.wait() for process in processes} <= {0, 6}
    found, wanted = content("bundle"), {file: rendered(file) for file in files}
    origin = {name: [file for file in wanted if wanted[file].get(name) == each] for name, each in found.items()}
    assert found in wanted.values(), origin


def test_the_staging_directory_is_nobody_elses_business(place: Path) -> None:
    seen: list[int] = []
    bundle_of("spec.yaml").install(
        Path("bundle"), validate=lambda directory, _: seen.append(directory.stat().st_mode & 0o777)
    )
    assert seen == [0o700]

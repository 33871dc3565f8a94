"""``sidestep ca``: what it makes, and what it leaves alone."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import socket
import ssl
import subprocess
import sys
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import sidestep
from sidestep import ca
from sidestep.errors import OutputError
from sidestep.pki.authority import Authority
from sidestep.pki.identity import Identity
from sidestep.pki.keys import new_key
from sidestep.pki.pem import read_certificates
from sidestep.pki.requests import new_request
from sidestep.pki.spiffe import SpiffeId
from tests import commands
from tests.users import GROUP, USER, as_root

if TYPE_CHECKING:
    from collections.abc import Iterator

BILLING = "spiffe://cluster.local/ns/vms/sa/billing"
LAYOUT = {"ca-cert.pem", "ca-key.pem", "root-cert.pem", "cert-chain.pem"}


def run(*arguments: object) -> str:
    """What ``sidestep ca ARGUMENTS`` says."""
    ran = commands.run("ca", *arguments)
    assert (ran.code, ran.err) == (0, "")
    return ran.out


def refused(code: int, reason: str, *arguments: object) -> None:
    """It fails with ``code``, for a ``reason`` (a pattern), and says nothing else."""
    ran = commands.run("ca", *arguments)
    assert (ran.code, ran.out) == (code, "")
    assert re.search(reason, ran.err), ran.err


def tree(directory: Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def authority(directory: Path) -> Authority:
    return Authority.load({path.name: path.read_bytes() for path in directory.iterdir()}, datetime.now(UTC))


def identity(directory: Path) -> Identity:
    files = ("key.pem", "cert-chain.pem", "root-cert.pem")
    return Identity(*[(directory / name).read_bytes() for name in files])


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CA that tests only read."""
    directory = tmp_path_factory.mktemp("ca") / "ca"
    run("init", directory, "--machines-trust-domain", "vms.example")
    return directory


def test_init_makes_istios_layout_twice_and_a_root(made: Path) -> None:
    assert {path.name for path in (made / "mesh").iterdir()} == LAYOUT
    assert {path.name for path in (made / "machines").iterdir()} == LAYOUT
    assert {path.name for path in (made / "root").iterdir()} == {"root-cert.pem", "root-key.pem"}
    roots = {(made / folder / "root-cert.pem").read_bytes() for folder in ("root", "mesh", "machines")}
    assert len(roots) == 1
    assert authority(made / "mesh").trust_domain == "cluster.local"
    assert authority(made / "machines").trust_domain == "vms.example"


def test_init_keeps_keys_to_their_owner(made: Path) -> None:
    keys = list(made.rglob("*-key.pem"))
    assert len(keys) == 3
    assert {path.stat().st_mode & 0o777 for path in keys} == {0o600}
    folders = [made, *(path for path in made.iterdir() if path.is_dir())]
    assert {path.stat().st_mode & 0o777 for path in folders} == {0o700}


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
def test_the_mesh_ca_passes_what_istiod_checks(made: Path) -> None:
    command = ["openssl", "verify", "-CAfile", "root-cert.pem", "-untrusted", "cert-chain.pem", "ca-cert.pem"]
    assert subprocess.run(command, cwd=made / "mesh", check=True, capture_output=True).stdout == b"ca-cert.pem: OK\n"
    first = read_certificates((made / "mesh" / "cert-chain.pem").read_bytes(), "chain")[0]
    assert first == authority(made / "mesh").certificate


@contextmanager
def istiod(cacerts: Path, directory: Path, port: int) -> Iterator[subprocess.Popen[bytes]]:
    """A real istiod that signs with the CA in ``cacerts``, its secure port on 127.0.0.1."""
    servers = os.environ.get("SIDESTEP_TEST_SERVERS")
    if not servers:
        pytest.skip("SIDESTEP_TEST_SERVERS names no folder with a real istiod")
    (directory / "mesh.yaml").write_text("trustDomain: cluster.local\n")
    (directory / "config").mkdir()
    command = [f"{servers}/pilot-discovery", "discovery", "--configDir", "config", "--registries=", "--meshConfig"]
    command += ["mesh.yaml", "--secureGRPCAddr", f"127.0.0.1:{port}", "--grpcAddr", "127.0.0.1:0", "--httpAddr"]
    command += ["127.0.0.1:0", "--httpsAddr", "", "--monitoringAddr", "127.0.0.1:0", "--ctrlz_port", "0"]
    settings = {"POD_NAMESPACE": "istio-system", "POD_NAME": "istiod", "CLUSTER_ID": "Kubernetes"}
    settings["ROOT_CA_DIR"] = str(cacerts)
    with (
        (directory / "log").open("wb") as log,
        subprocess.Popen(command, cwd=directory, env=os.environ | settings, stdout=log, stderr=log) as process,
    ):
        try:
            yield process
        finally:
            process.kill()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def ended(process: subprocess.Popen[bytes]) -> bool:
    """Whether it has ended, after giving it a moment."""
    with suppress(subprocess.TimeoutExpired):
        process.wait(0.05)
    return process.returncode is not None


def test_a_real_istiod_signs_with_the_mesh_ca(made: Path, tmp_path: Path) -> None:
    context, port = ssl.create_default_context(cafile=str(made / "mesh" / "root-cert.pem")), free_port()
    with istiod(made / "mesh", tmp_path, port) as process:
        for _ in range(600):
            assert not ended(process), (tmp_path / "log").read_text()[-2000:]
            with suppress(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port)) as plain:
                with context.wrap_socket(plain, server_hostname="istiod.istio-system.svc") as secured:
                    assert ("commonName", "Mesh CA") in {pair for names in issuer(secured) for pair in names}
                return
    pytest.fail("istiod did not listen")


def issuer(secured: ssl.SSLSocket) -> tuple[tuple[tuple[str, str], ...], ...]:
    certificate = secured.getpeercert()
    return certificate["issuer"] if certificate else ()  # type: ignore[return-value]  # typeshed has it looser


def test_a_real_istiod_refuses_the_mesh_ca_with_the_wrong_key(made: Path, tmp_path: Path) -> None:
    shutil.copytree(made / "mesh", tmp_path / "mesh")
    shutil.copy(made / "machines" / "ca-key.pem", tmp_path / "mesh")
    with istiod(tmp_path / "mesh", tmp_path, free_port()) as process:
        assert process.wait(30) != 0
    assert "failed to create an istiod CA" in (tmp_path / "log").read_text()


def test_init_says_what_each_folder_is_for(tmp_path: Path) -> None:
    directory = tmp_path / "a ca"
    said = run("init", directory, "--machines-trust-domain", "vms.example")
    assert "offline" in said
    assert "trustDomains: [vms.example]" in said
    command = next(line for line in said.splitlines() if "kubectl" in line)
    files = {word.removeprefix("--from-file=") for word in shlex.split(command) if word.startswith("--from-file=")}
    assert files == {str(directory / "mesh" / name) for name in LAYOUT}


def test_init_again_changes_nothing(tmp_path: Path) -> None:
    run("init", tmp_path / "ca")
    before = tree(tmp_path)
    again = run("init", tmp_path / "ca")
    assert "holds this CA already" in again
    assert json.loads(run("init", tmp_path / "ca", "-o", "json"))["created"] is False
    assert tree(tmp_path) == before


def test_init_again_is_content_without_the_root_that_went_offline(tmp_path: Path) -> None:
    run("init", tmp_path / "ca")
    (tmp_path / "ca" / "root").rename(tmp_path / "vault")
    assert "already" in run("init", tmp_path / "ca")
    assert not (tmp_path / "ca" / "root").exists()
    assert "Move it off this machine" not in commands.run("ca", "init", tmp_path / "ca").out


def test_init_never_overwrites(tmp_path: Path) -> None:
    run("init", tmp_path / "ca")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "diary.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    run("init", tmp_path / "half")
    (tmp_path / "half" / "machines" / "ca-key.pem").unlink()
    before = tree(tmp_path)
    refused(6, r"trust domain cluster\.local", "init", tmp_path / "ca", "--trust-domain", "other.example")
    for name in ("other", "half"):
        refused(6, "holds no complete CA.*\nhint: Name another", "init", tmp_path / name)
    refused(6, "file: cannot be written: Not a directory", "init", tmp_path / "file")
    assert tree(tmp_path) == before


def test_init_fills_an_empty_directory_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    (tmp_path / "ca").mkdir()
    assert json.loads(run("init", tmp_path / "ca", "-o", "json"))["created"] is True
    assert [path.name for path in tmp_path.iterdir()] == ["ca"]


INTERRUPTED = """
import os, sys
from datetime import UTC, datetime
from pathlib import Path
from sidestep import ca
Path.replace = lambda *_: os._exit(9)
ca.init(Path(sys.argv[1]), datetime.now(UTC))
"""


def test_init_that_was_interrupted_is_made_anew(tmp_path: Path) -> None:
    command = [sys.executable, "-c", INTERRUPTED, str(tmp_path / "ca")]
    environment = os.environ | {"PYTHONPATH": str(Path(sidestep.__file__).parents[1])}
    assert subprocess.run(command, env=environment, check=False).returncode == 9
    assert any((tmp_path / "ca").iterdir())
    assert "Made" in run("init", tmp_path / "ca")
    run("issue", tmp_path / "ca", tmp_path / "certs", "--id", BILLING)
    assert {path.name for path in (tmp_path / "ca").iterdir()} == {"root", "mesh", "machines"}


def test_init_that_fails_leaves_no_half_a_ca(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    renames = iter([*"1234567"])
    rename = Path.replace

    def failing(self: Path, target: Path) -> Path:
        if self.parents[1].name.startswith(".sidestep") and next(renames, None) is None:
            raise OSError(28, "No space left on device")
        return rename(self, target)

    monkeypatch.setattr(Path, "replace", failing)
    refused(6, "No space left", "init", tmp_path / "ca")
    assert not tree(tmp_path)


def test_init_that_cannot_write_says_where(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    refused(6, "file/ca: cannot be written: Not a directory", "init", tmp_path / "file" / "ca")


@pytest.mark.parametrize("trust_domain", ["", "Upper", "a/b", "a b", "x" * 256, ".example"])
def test_init_refuses_what_is_no_trust_domain(tmp_path: Path, trust_domain: str) -> None:
    refused(7, "trust domain.*found.*allowed", "init", tmp_path / "ca", "--trust-domain", trust_domain)
    assert not list(tmp_path.iterdir())


def test_issue_writes_a_set_that_verifies(made: Path, tmp_path: Path) -> None:
    name = "spiffe://vms.example/ns/vms/sa/billing"
    said = run("issue", made, tmp_path / "certs", "--id", name, "-o", "json")
    issued = identity(tmp_path / "certs")
    issued.verify(datetime.now(UTC))
    assert str(issued.spiffe_id) == name == json.loads(said)["identity"]
    assert issued.not_after - issued.not_before == timedelta(hours=24, minutes=2)
    assert (tmp_path / "certs" / "key.pem").is_symlink()
    assert (tmp_path / "certs" / "key.pem").stat().st_mode & 0o777 == 0o600


def test_issue_again_renews(made: Path, tmp_path: Path) -> None:
    arguments = ("issue", made, tmp_path, "--id", "spiffe://vms.example/ns/vms/sa/billing")
    run(*arguments)
    first = identity(tmp_path)
    run(*arguments, "--lifetime", "7d")
    second = identity(tmp_path)
    second.verify(datetime.now(UTC))
    assert second.key != first.key
    assert second.not_after - first.not_after > timedelta(days=5)


@as_root
def test_root_issues_for_whoever_owns_the_directory(made: Path, theirs: Path) -> None:
    name = "spiffe://vms.example/ns/vms/sa/billing"
    (theirs / "key.pem").write_text("an old one")
    run("issue", made, theirs, "--id", name)
    files = [theirs / "..data", *(theirs / "..data").iterdir()]
    assert {(path.stat().st_uid, path.stat().st_gid) for path in files} == {(USER, GROUP)}
    assert {(path.stat().st_mode & 0o777) for path in files[1:]} == {0o600}
    assert os.geteuid() == os.getegid() == 0
    run("issue", made, theirs.parent / "mine", "--id", name)
    assert (theirs.parent / "mine" / "key.pem").stat().st_uid == 0


@as_root
def test_root_reads_nothing_for_the_owner_that_the_owner_cannot(made: Path, theirs: Path) -> None:
    """What is there is adopted: it must not be a copy of what a link of theirs leads to."""
    (theirs / "key.pem").symlink_to(made / "machines" / "ca-key.pem")
    ran = commands.run("ca", "issue", made, theirs, "--id", "spiffe://vms.example/ns/vms/sa/billing")
    assert (ran.code, ran.out) == (6, "")
    assert "Permission denied" in ran.err
    assert [path.name for path in theirs.iterdir()] == ["key.pem"]


@as_root
def test_root_does_not_take_another_users_word_for_a_name(made: Path, theirs: Path) -> None:
    forged = {"kind": "Bundle", "identity": "spiffe://vms.example/ns/istio-system/sa/istiod"}
    (theirs / "manifest.json").write_text(json.dumps(forged))
    os.chown(theirs / "manifest.json", USER, GROUP)
    ran = commands.run("ca", "issue", made, "--bundle", theirs)
    assert (ran.code, ran.out) == (7, "")
    assert f"may be the word of user {USER}, who could be anyone by it" in ran.err
    assert not (theirs / "certs").exists()
    run("issue", made, "--bundle", theirs, "--id", "spiffe://vms.example/ns/vms/sa/billing")
    assert str(identity(theirs / "certs").spiffe_id) == "spiffe://vms.example/ns/vms/sa/billing"
    assert (theirs / "certs" / "key.pem").stat().st_uid == USER


def test_errors_are_json_for_programs(made: Path, tmp_path: Path) -> None:
    ran = commands.run("ca", "issue", made, tmp_path, "--id", BILLING, "-o", "json")
    assert (ran.code, ran.json["ok"], ran.json["error"]["exit_code"]) == (7, False, 7)
    assert "may not sign" in ran.json["error"]["message"]


def test_the_library_makes_loads_and_issues(tmp_path: Path) -> None:
    now = datetime.now(UTC)
    made = ca.init(tmp_path / "ca", now, machines_trust_domain="vms.example")
    assert (made.created, ca.init(tmp_path / "ca", now, machines_trust_domain="vms.example").created) == (True, False)
    name = SpiffeId("vms.example", "vms", "billing")
    issued = ca.issue(ca.load(made.directory, now), name, tmp_path / "certs", now, timedelta(hours=1))
    assert issued.identity.spiffe_id == name
    assert {path.read_bytes() for path in issued.files.values()} == set(issued.identity.files().values())
    with pytest.raises(OutputError):
        ca.init(tmp_path / "ca", now)


def test_issue_takes_a_cacerts_directory(made: Path, tmp_path: Path) -> None:
    run("issue", made / "mesh", tmp_path, "--id", BILLING)
    identity(tmp_path).verify(datetime.now(UTC))


def test_issue_for_a_bundle_takes_its_name(made: Path, tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text(json.dumps({"identity": BILLING}))
    run("issue", made / "mesh", "--bundle", tmp_path)
    assert str(identity(tmp_path / "certs").spiffe_id) == BILLING


@pytest.mark.parametrize(
    ("content", "reason"),
    [(None, "cannot read"), ("{", "not JSON"), ("[]", "names no identity"), ('{"identity": 1}', "names no identity")],
)
def test_issue_for_what_is_no_bundle_is_refused(made: Path, tmp_path: Path, content: str | None, reason: str) -> None:
    if content is not None:
        (tmp_path / "manifest.json").write_text(content)
    refused(7, reason, "issue", made, "--bundle", tmp_path)
    assert not (tmp_path / "certs").exists()


def test_issue_refuses_a_foreign_trust_domain_and_writes_nothing(made: Path, tmp_path: Path) -> None:
    refused(
        7,
        r"may not sign .*allow only vms\.example\nhint: sidestep ca init --trust-domain",
        "issue",
        made,
        tmp_path / "certs",
        "--id",
        BILLING,
    )
    assert not (tmp_path / "certs").exists()


@pytest.mark.parametrize("name", ["", "billing", "spiffe://vms.example/billing"])
def test_issue_refuses_what_is_no_name(made: Path, tmp_path: Path, name: str) -> None:
    refused(7, "not a SPIFFE ID", "issue", made, tmp_path / "certs", "--id", name)


def test_issue_without_a_ca_says_so(tmp_path: Path) -> None:
    refused(7, r"the CA in .*: ca-cert\.pem is missing", "issue", tmp_path, tmp_path / "certs", "--id", BILLING)


@pytest.mark.parametrize("lifetime", ["0h", "-1h", "91d", "1", "h", "1.5h", "1w", "1h\n", "١h", "999999999d"])
def test_issue_refuses_a_lifetime_it_cannot_grant(made: Path, tmp_path: Path, lifetime: str) -> None:
    refused(2, "found.*\n?.*allowed", "issue", made, tmp_path, "--id", BILLING, f"--lifetime={lifetime}")


@pytest.mark.parametrize("arguments", [[], ["--id", BILLING], ["out"], ["out", "--bundle", "b"]])
def test_issue_wants_a_directory_and_a_name_or_a_bundle(made: Path, arguments: list[str]) -> None:
    refused(2, "either OUT_DIR and --id, or --bundle", "issue", made, *arguments)


def test_a_loaded_ca_signs_requests_of_others(made: Path) -> None:
    name = SpiffeId("vms.example", "vms", "billing")
    chain = authority(made / "machines").sign(new_request(new_key(), name), name, datetime.now(UTC))
    assert len(read_certificates(chain, "chain")) == 2

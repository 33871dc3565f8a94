"""`sidestep env` and `sidestep exec`, with the clients that people have: curl, gRPC's own, Python's."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from sidestep.cli.env import SHELLS
from sidestep.outputs import environment
from tests import documents
from tests.commands import run
from tests.documents import LEDGER, REVIEWS

if TYPE_CHECKING:
    from pathlib import Path

    from tests.by_name.conftest import Machine

pytestmark = pytest.mark.xdist_group("by-name")

GRPC = """
import grpc
with grpc.insecure_channel("ledger.pay:50051") as channel:
    print(channel.unary_unary("/sidestep.lab.Echo/Unary")(b"hello", timeout=10).decode())
"""
curl = pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl")


def within(machine: Machine, *command: str, more: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """What came of a command under ``sidestep exec``."""
    line = [sys.executable, "-m", "sidestep", "exec", str(machine.bundle), "--", *command]
    return subprocess.run(
        line, capture_output=True, text=True, check=False, timeout=60, env={**os.environ, **(more or {})}
    )


@curl
def test_curl_calls_by_name(machine: Machine) -> None:
    ran = within(machine, "curl", "-sS", "http://reviews.bookinfo:9080/")
    assert (ran.returncode, ran.stderr) == (0, "")
    assert json.loads(ran.stdout)["service"] == "reviews"


@curl
def test_curl_is_not_kept_from_it_by_exceptions(machine: Machine) -> None:
    ran = within(machine, "curl", "-sS", f"http://{REVIEWS}:9080/", more={"no_proxy": ".cluster.local, localhost"})
    assert json.loads(ran.stdout)["service"] == "reviews"


@curl
def test_curl_gets_nothing_else(machine: Machine) -> None:
    assert within(machine, "curl", "-sS", "http://example.com/").stdout.startswith("sidestep: no service example.com")
    tunnel = within(machine, "curl", "-sSp", "http://example.com/")
    assert (tunnel.returncode, tunnel.stderr) == (56, "curl: (56) CONNECT tunnel failed, response 404\n")


@curl
def test_curl_calls_by_socket(machine: Machine) -> None:
    [path] = machine.bundle.glob("reviews-*.sock")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    ran = subprocess.run(
        ["curl", "-sS", "--unix-socket", path.name, "http://reviews/"],
        cwd=path.parent,
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(ran.stdout)["host"] == f"{REVIEWS}:9080"


def test_grpc_calls_by_name(machine: Machine) -> None:
    ran = within(machine, sys.executable, "-c", GRPC, more={"https_proxy": "http://127.0.0.1:9"})
    assert json.loads(ran.stdout)["messages"] == ["hello"], ran.stderr


def test_grpc_gets_nothing_else(machine: Machine) -> None:
    ran = within(machine, sys.executable, "-c", GRPC.replace("ledger.pay", "example.com"))
    assert ran.returncode == 1
    assert "UNAVAILABLE" in ran.stderr


def test_python_calls_the_url_of_a_service(machine: Machine) -> None:
    code = "import os, urllib.request as r; print(r.urlopen(os.environ['REVIEWS_BOOKINFO_9080_URL']).read().decode())"
    assert json.loads(within(machine, sys.executable, "-c", code).stdout)["service"] == "reviews"


def test_the_commands_exit_code_and_arguments_are_its_own(machine: Machine) -> None:
    assert within(machine, "sh", "-c", "exit 7").returncode == 7
    assert within(machine, "echo", "--", "--wait", "-o", "*").stdout == "-- --wait -o *\n"


def test_the_command_hears_signals_as_in_a_shell(machine: Machine) -> None:
    """Python ignores SIGPIPE, and `yes` would complain."""
    ran = within(machine, "sh", "-c", "yes | head -n 1")
    assert (ran.stdout, ran.stderr) == ("y\n", "")


@pytest.mark.parametrize(
    ("command", "code", "says"),
    [
        ("no-such-command", 127, "error: no-such-command: there is no such command\n"),
        ("", 127, "error: : there is no such command\n"),
        ("/", 126, "error: /: Permission denied\n"),
    ],
)
def test_a_command_that_cannot_be_run(machine: Machine, command: str, code: int, says: str) -> None:
    ran = within(machine, command)
    assert (ran.returncode, ran.stderr) == (code, says)


def bundle(tmp_path: Path, *calls: Any, services: Any = (), **spec: Any) -> str:
    """A bundle that no Envoy runs."""
    file = documents.write(tmp_path / "spec.yaml", documents.mesh(*services), documents.workload(*calls, **spec))
    assert run("render", file, "-o", tmp_path / "bundle", "--unsafe-skip-validation").code == 0
    return str(tmp_path / "bundle")


def test_refuses_where_no_envoy_runs(tmp_path: Path) -> None:
    where = bundle(tmp_path, documents.egress(listen="unix:./reviews.sock"))
    ran = run("exec", where, "--", "true")
    message = f"error: the Envoy of {where} does not run: nobody listens on unix:{where}/reviews.sock\n"
    assert (ran.code, ran.err) == (5, f"{message}hint: cd {where} && envoy -c envoy.json --disable-hot-restart\n")


def test_refuses_where_there_is_no_command(tmp_path: Path) -> None:
    for nothing in ([], ["--"]):
        assert run("exec", tmp_path, *nothing).code == 2


def test_refuses_where_there_is_no_bundle(tmp_path: Path) -> None:
    for command in (["env", tmp_path], ["exec", tmp_path, "--", "true"]):
        ran = run(*command)
        assert (ran.code, ran.err) == (
            6,
            f"error: {tmp_path}: holds no bundle\nhint: sidestep render makes one.\n",
        )


def variables(*arguments: object) -> dict[str, str]:
    said = run("env", *arguments, "-o", "json")
    assert said.code == 0, said.err
    found: dict[str, str] = said.json["variables"]
    return found


def test_tells_addresses_and_urls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    services = [
        documents.service(REVIEWS, (9080, "HTTP"), (80, "HTTP")),
        documents.service(LEDGER, (50051, "GRPC"), (9000, "TCP")),
        documents.service("1.example.com", (443, "TLS"), serviceAccounts=["egress/gateway"]),
    ]
    calls = [
        documents.egress("reviews", "0.0.0.0:9080", port=9080),
        documents.egress("reviews", "none", port=80),
        documents.egress("ledger", "unix:./ledger.sock", port=50051),
        documents.egress("ledger", "none", port=9000),
        documents.egress("1.example.com", "[::1]:443"),
    ]
    where = bundle(tmp_path, *calls, services=services, proxy={})
    assert variables(where) == {
        "http_proxy": "http://127.0.0.1:3128",
        "HTTP_PROXY": "http://127.0.0.1:3128",
        "grpc_proxy": "http://127.0.0.1:3128",
        "no_proxy": "localhost,127.0.0.1,::1",
        "NO_PROXY": "localhost,127.0.0.1,::1",
        "REVIEWS_BOOKINFO_9080": "127.0.0.1:9080",
        "REVIEWS_BOOKINFO_9080_URL": "http://127.0.0.1:9080",
        "REVIEWS_BOOKINFO_80_URL": f"http://{REVIEWS}:80",
        "LEDGER_PAY_50051": f"unix:{where}/ledger.sock",
        "_1_EXAMPLE_COM_443": "[::1]:443",
    }
    assert set(variables(tmp_path / "spec.yaml")) == set(variables(where))


@pytest.mark.parametrize("listen", ["0.0.0.0:9080", "[::]:9080", "192.0.2.1:9080", "[2001:db8::1]:9080"])
def test_what_is_for_other_machines_has_no_name_on_this_one(tmp_path: Path, listen: str) -> None:
    where = bundle(tmp_path, documents.egress("reviews", listen))
    assert variables(where)["REVIEWS_BOOKINFO_9080"].endswith(":9080")
    said = run("hosts", where)
    assert (said.code, said.out) == (0, "")
    assert "no service of vms/billing is on a loopback address under its own port number" in said.err


def test_a_subset_stands_for_the_port_only_where_it_is_the_first(tmp_path: Path) -> None:
    every = documents.egress("reviews", "none", port=9080)
    v2 = documents.egress("reviews", "127.0.0.1:9082", port=9080, subset="v2")
    url = "REVIEWS_BOOKINFO_9080_URL"
    (tmp_path / "one").mkdir()
    (tmp_path / "other").mkdir()
    assert variables(bundle(tmp_path / "one", every, v2, proxy={}))[url] == f"http://{REVIEWS}:9080"
    assert variables(bundle(tmp_path / "other", v2, every, proxy={}))[url] == "http://127.0.0.1:9082"


def test_without_a_proxy_no_proxy_is_named(tmp_path: Path) -> None:
    assert variables(bundle(tmp_path)) == {
        "REVIEWS_BOOKINFO_9080": "127.0.0.1:9080",
        "REVIEWS_BOOKINFO_9080_URL": "http://127.0.0.1:9080",
    }


def test_a_socket_is_no_http_proxy(tmp_path: Path) -> None:
    where = bundle(tmp_path, proxy={"listen": "unix:/run/proxy.sock"})
    assert "http_proxy" not in variables(where)
    assert run("env", where, "-o", "json").json["proxy"] == "unix:/run/proxy.sock"


def test_names_that_would_be_the_same_are_whole_or_left_out() -> None:
    def egress(host: str, port: int) -> dict[str, object]:
        return {"host": host, "port": port, "protocol": "TCP", "listen": f"127.0.0.1:{port}"}

    hosts = [
        "a-b.c.svc.cluster.local",
        "a.b-c.svc.cluster.local",
        "d.e.svc.one.example",
        "d.e.svc.two.example",
    ]
    manifest = {"egress": [egress(host, 1) for host in hosts]}
    assert environment.variables(manifest, "/", {}) == {
        "D_E_SVC_ONE_EXAMPLE_1": "127.0.0.1:1",
        "D_E_SVC_TWO_EXAMPLE_1": "127.0.0.1:1",
    }


def test_exceptions_stay_but_for_names_of_the_mesh() -> None:
    manifest = {"proxy": "127.0.0.1:3128", "egress": [{"host": REVIEWS, "port": 1, "protocol": "TCP", "listen": None}]}
    present = {
        "no_proxy": "10.0.0.0/8, .corp.example,*,.local,svc,::2,fd00::/8,[fd00::1]:80,a.example:80",
        "NO_PROXY": f"bookinfo,{REVIEWS},localhost",
    }
    said = environment.variables(manifest, "/", present)["no_proxy"]
    assert said == "localhost,127.0.0.1,::1,10.0.0.0/8,.corp.example,::2,fd00::/8,[fd00::1]:80,a.example:80"
    again = environment.variables(manifest, "/", {"no_proxy": said})["no_proxy"]
    assert again == said


NASTY = "a'b\"c $HOME `id` $(id) \\ \n%PATH% !x \u2019; é"


@pytest.mark.parametrize("shell", ["sh", "fish"])
def test_shells_read_what_was_meant(shell: str) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"there is no {shell}")
    script = f"{SHELLS[shell]('NASTY', NASTY)}; env -0"
    said = subprocess.run([shell, "-c", script], capture_output=True, check=True).stdout.decode()
    assert f"NASTY={NASTY}" in said.split("\0")


def test_powershell_is_quoted_too() -> None:
    assert SHELLS["powershell"]("NAME", "it's \u2019") == "$env:NAME = 'it''s \u2019\u2019'"


def test_several_workloads_want_a_choice(tmp_path: Path) -> None:
    workloads = [documents.workload(name=name) for name in ("one", "two")]
    file = documents.write(
        tmp_path / "spec.yaml",
        documents.mesh(),
        *[{**each, "spec": {**each["spec"], "machine": each["metadata"]["name"]}} for each in workloads],
    )
    ran = run("env", file)
    assert (ran.code, "say which with --workload" in ran.err) == (2, True)
    assert variables(file, "--workload", "one")

"""``sidestep lab`` by its front door: what it says, what it leaves, how it ends."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sidestep.proxy.binary import find
from sidestep.proxy.validation import validate
from tests import commands
from tests.lab.command import command, environment, processes, run_lab, running, wait_until, wait_until_gone

pytestmark = [
    pytest.mark.xdist_group("lab"),
    pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc"),
]
NAMES = {
    "allow": {
        *("http1", "http2", "grpc-unary", "grpc-server-stream", "grpc-client-stream", "grpc-bidi", "tcp"),
        *("tcp-server-first", "websocket", "several-services", "certificate-rotation", "service-added-and-removed"),
        "gateway-lost",
    },
    "deny": {
        *("no-policy-http", "no-policy-grpc", "no-policy-tcp", "no-policy-server-first", "other-root", "expired"),
        *("wrong-trust-domain", "no-client-certificate", "wrong-server", "not-exported", "no-alpn"),
        "outside-name-constraint",
    },
}
"""What a first release must show."""
SPECS = ("mesh.yaml", "billing.yaml")
QUICK = ("--scenario", "http1", "--scenario", "no-policy-http", "--scenario", "expired")


@pytest.fixture(scope="module")
def once(tmp_path_factory: pytest.TempPathFactory) -> tuple[subprocess.CompletedProcess[str], Path]:
    """``sidestep lab --once -o json``, run once for all who ask, and where it had its temporary files."""
    temporary = tmp_path_factory.mktemp("once")
    return run_lab(temporary, "--once", "-o", "json"), temporary


def scenarios(ran: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    return {scenario["name"]: scenario for scenario in json.loads(ran.stdout)["scenarios"]}


def test_every_scenario_holds(once: tuple[subprocess.CompletedProcess[str], Path]) -> None:
    ran, _ = once
    assert ran.returncode == 0, ran.stdout + ran.stderr
    found = scenarios(ran)
    assert [name for name, scenario in found.items() if not scenario["ok"]] == []
    for expect, names in NAMES.items():
        assert {name: found[name]["expect"] for name in names} == dict.fromkeys(names, expect)


def test_programs_get_exactly_what_is_documented(once: tuple[subprocess.CompletedProcess[str], Path]) -> None:
    answer = json.loads(once[0].stdout)
    assert answer.keys() == {"scenarios", "ok"}
    assert answer["ok"] is True
    for scenario in answer["scenarios"]:
        assert scenario.keys() == {"name", "expect", "result", "ok", "detail", "ms"}
        assert scenario["expect"] == scenario["result"]
        assert scenario["expect"] in {"allow", "deny"}
        assert scenario["detail"]
        assert scenario["ms"] > 0


def test_the_detail_says_who_and_why(once: tuple[subprocess.CompletedProcess[str], Path]) -> None:
    found = scenarios(once[0])
    for part in ("200", "reviews.bookinfo:9080", "gateway 127.0.0.1:", "cluster.local/ns/vms/sa/billing"):
        assert part in found["http1"]["detail"]
    assert "admits only cluster.local/ns/hr/sa/portal" in found["no-policy-grpc"]["detail"]
    assert "220 payroll ready" in found["no-policy-server-first"]["detail"]
    assert "so does Istio" in found["no-policy-server-first"]["detail"]
    for name in ("certificate-rotation", "service-added-and-removed", "gateway-lost"):
        assert "; 0 of " in found[name]["detail"]


def test_nothing_is_left_of_it(once: tuple[subprocess.CompletedProcess[str], Path]) -> None:
    assert not processes(once[1])
    assert not list(once[1].iterdir())


def test_one_scenario_is_run_alone(tmp_path: Path) -> None:
    ran = run_lab(tmp_path, "--once", "--scenario", "tcp", "--scenario", "tcp")
    assert ran.returncode == 0
    assert "✓ tcp " in ran.stdout
    assert "1 of 1 scenarios are as they must be" in ran.stdout
    assert "\x1b" not in ran.stdout + ran.stderr


def test_listing_starts_nothing_and_names_all(once: tuple[subprocess.CompletedProcess[str], Path]) -> None:
    listed = commands.run("lab", "--list", "-o", "json").json["scenarios"]
    assert [scenario["name"] for scenario in listed] == [*scenarios(once[0])]
    text = commands.run("lab", "--list", "--envoy-path", "/nowhere").out
    assert [line.split()[0] for line in text.splitlines()[1:]] == [*scenarios(once[0])]


def test_an_unknown_scenario_is_an_error_that_lists_the_known_ones() -> None:
    ran = commands.run("lab", "--once", "--scenario", "htp1")
    assert (ran.code, ran.out) == (2, "")
    assert "'htp1' is none of: http1, " in ran.err


def test_what_is_kept_is_complete_and_valid_afterwards(tmp_path: Path) -> None:
    """Also where the path is too long for the address of a socket (108 bytes)."""
    temporary, keep = tmp_path / "tmp", tmp_path / ("long" * 30) / "kept"
    temporary.mkdir()
    ran = run_lab(temporary, "--once", *QUICK, "--keep", keep)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert f"Everything is in {keep}" in ran.stderr
    wait_until_gone(temporary)
    assert {path.name for path in keep.iterdir()} == {"mesh", "machine", "other-machine-1"}
    bundle, specs = (
        keep / "machine" / "bundle",
        [keep / "machine" / "spec" / f"{name}.yaml" for name in ("mesh", "billing")],
    )
    validate(find(), bundle)
    assert {path.name for path in (bundle / "certs").iterdir()} >= {"cert-chain.pem", "key.pem", "root-cert.pem"}
    assert "reviews.bookinfo" in (keep / "machine" / "logs" / "stdout.log").read_text()
    again = commands.run("render", *specs, "-o", bundle, "--format", "json")
    assert again.code == 0, again.out + again.err
    assert again.json["bundles"][0]["state"] == "unchanged"
    keys = [*keep.rglob("key.pem")]
    assert keys
    assert {key.stat().st_mode & 0o777 for key in keys} == {0o600}


def test_a_directory_that_holds_something_is_refused(tmp_path: Path) -> None:
    (tmp_path / "diary.txt").write_text("mine")
    for directory, reason in ((tmp_path, "is not empty"), (tmp_path / "diary.txt", "File exists")):
        ran = commands.run("lab", "--once", *QUICK, "--keep", directory)
        assert (ran.code, ran.out) == (6, "")
        assert f"{directory}: {reason}" in ran.err
    assert [path.name for path in tmp_path.iterdir()] == ["diary.txt"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_lab_that_is_ended_takes_everything_with_it(tmp_path: Path, number: signal.Signals) -> None:
    with running(tmp_path, *QUICK) as lab:
        lab.wait_until_up()
        assert list(processes(tmp_path).values()).count("envoy") >= 9
        lab.process.send_signal(number)
        assert lab.process.wait(30) == {signal.SIGINT: 0, signal.SIGTERM: 143}.get(number, -number)
    wait_until_gone(tmp_path)
    assert "Traceback" not in "".join(lab.lines)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize("envoys", [1, 5, 8])
def test_a_lab_that_is_ended_while_it_starts_takes_everything_with_it(
    tmp_path: Path, number: signal.Signals, envoys: int
) -> None:
    """The first Envoy that is seen is one that is asked for its version."""
    with running(tmp_path, *QUICK) as lab:
        wait_until(lambda: list(processes(tmp_path).values()).count("envoy") >= envoys, lambda: lab.lines)
        lab.process.send_signal(number)
        assert lab.process.wait(30) in {130 if number == signal.SIGINT else 143, -number}
    wait_until_gone(tmp_path)
    assert "Traceback" not in "".join(lab.lines)


def test_a_whole_terminal_that_is_closed_takes_everything_with_it(tmp_path: Path) -> None:
    with running(tmp_path, *QUICK) as lab:
        lab.wait_until_up()
        os.killpg(lab.process.pid, signal.SIGHUP)
        lab.process.wait(30)
    wait_until_gone(tmp_path)


def test_two_labs_run_side_by_side(tmp_path: Path) -> None:
    directories = [tmp_path / "one", tmp_path / "two"]
    for directory in directories:
        directory.mkdir()
    names = (*QUICK, "--scenario", "gateway-lost", "--scenario", "grpc-bidi", "--scenario", "not-exported")
    labs = [
        subprocess.Popen(command("--once", "-o", "json", *names), env=environment(each), stdout=subprocess.PIPE)
        for each in directories
    ]
    outputs = [lab.communicate(timeout=120)[0] for lab in labs]
    held = [(lab.returncode, json.loads(output)["ok"]) for lab, output in zip(labs, outputs, strict=True)]
    assert held == [(0, True)] * 2, outputs
    for directory in directories:
        wait_until_gone(directory)


def shell(line: str, stdin: str = "") -> str:
    ran = subprocess.run(["bash", "-c", line], input=stdin, capture_output=True, text=True, check=False, timeout=30)
    return ran.stdout


def starting_with(printed: list[str], start: str) -> list[str]:
    return [line for line in printed if line.startswith(start)]


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_what_it_invites_to_works(tmp_path: Path) -> None:
    with running(tmp_path, *QUICK) as lab:
        lab.wait_until_up()
        assert "kind: Workload" in "".join(lab.lines), "the spec is shown"
        assert "Ctrl-C ends the lab and removes everything." in lab.lines[-1]
        printed = lab.commands()
        [allowed], [denied] = starting_with(printed, "curl http"), starting_with(printed, "curl -i")
        assert json.loads(shell(allowed))["principal"] == "spiffe://cluster.local/ns/vms/sa/billing"
        assert shell(denied).startswith("HTTP/1.1 403")
        [tcp] = starting_with(printed, "nc ") or starting_with(printed, "curl -sN")
        assert shell(f"(echo hello; sleep 1) | timeout 2 {tcp}") == "hello\n"
        lab.wait_for("denied by its policy as cluster.local/ns/vms/sa/billing")
        lab.wait_for("TCP → ledger.pay:9000  6 bytes sent, 6 received")

        [there], [admin] = starting_with(printed, "cd "), starting_with(printed, "curl --unix-socket")
        [render] = [line for line in printed if " render " in line]
        listeners = shell(f"{there} && {admin}").splitlines()
        assert shell(
            f"{there} && sed -i '$d' spec/billing.yaml && PYTHONPATH={environment(tmp_path)['PYTHONPATH']} {render}"
        )
        wait_until(lambda: len(shell(f"{there} && {admin}").splitlines()) == len(listeners) - 1, lambda: lab.lines)

        [kill] = starting_with(printed, "kill -9 ")
        shell(kill)
        assert json.loads(shell(allowed))["service"] == "reviews"
        lab.process.send_signal(signal.SIGINT)
        assert lab.process.wait(30) == 0
    wait_until_gone(tmp_path)
    assert len(printed) == 7, "every command was tried"


def test_what_is_kept_is_not_said_to_be_removed(tmp_path: Path) -> None:
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    with running(temporary, *QUICK, "--keep", tmp_path / "kept") as lab:
        lab.wait_until_up()
        assert lab.lines[-1].endswith(" Ctrl-C ends the lab.\n")


LAX = """#!{python}
import json, os, sys
from pathlib import Path
def is_policy(value):
    return isinstance(value, dict) and "rbac" in str(value.get("name"))
def without_policy(value):
    if isinstance(value, dict):
        return {{name: without_policy(each) for name, each in value.items()}}
    return [without_policy(each) for each in value if not is_policy(each)] if isinstance(value, list) else value
config = Path("envoy.json")
if Path.cwd().name == "payroll.hr":
    config.write_text(json.dumps(without_policy(json.loads(config.read_text()))))
os.execv({envoy!r}, ["envoy", *sys.argv[1:]])
"""


def test_a_mesh_that_lets_everybody_in_does_not_pass(tmp_path: Path) -> None:
    """An Envoy that leaves out payroll's policy: what must be denied is answered, and the lab says so."""
    lax = tmp_path / "envoy"
    lax.write_text(LAX.format(python=sys.executable, envoy=str(find().path)))
    lax.chmod(0o755)
    arguments = ("--once", "--envoy-path", lax, "--scenario", "http1", "--scenario", "no-policy-http")
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    ran = run_lab(temporary, *arguments, "-o", "json")
    assert ran.returncode == 1, ran.stderr
    answer = json.loads(ran.stdout)
    assert answer["ok"] is False
    assert {name: (each["result"], each["ok"]) for name, each in scenarios(ran).items()} == {
        "http1": ("allow", True),
        "no-policy-http": ("allow", False),
    }
    ran = run_lab(temporary, *arguments)
    assert ran.returncode == 1
    assert "✗ no-policy-http" in ran.stdout
    assert "passes where it must be refused: 200 answered, as it must not" in ran.stdout
    assert "1 of 2 scenarios are as they must be; not: no-policy-http" in ran.stdout
    wait_until_gone(temporary)


@pytest.mark.parametrize("package", ["grpc", "httpx2", "hypercorn", "websockets"])
def test_a_missing_package_is_one_line_and_how_to_install_it(tmp_path: Path, package: str) -> None:
    ran = run_lab(tmp_path, "--once", first=f"import sys; sys.modules[{package!r}] = None")
    assert (ran.returncode, ran.stdout) == (8, "")
    assert ran.stderr == (
        f"error: the lab needs a package that is not installed: no module is named {package}\n"
        "hint: pip install 'sidestep[lab]'\n"
    )


def test_no_envoy_is_one_line_and_how_to_install_it(tmp_path: Path) -> None:
    without = (
        "import importlib.util as u; real = u.find_spec; u.find_spec = lambda name, *_: name != 'envoy' and real(name)"
    )
    ran = run_lab(tmp_path, "--once", first=without, PATH=str(tmp_path), SIDESTEP_ENVOY="")
    assert (ran.returncode, ran.stdout) == (4, "")
    error, hint = ran.stderr.splitlines()
    assert error.startswith("error: no Envoy")
    assert hint == "hint: pip install 'sidestep[envoy]'"
    assert not list(tmp_path.iterdir())


def test_an_envoy_that_cannot_run_the_lab_says_why(tmp_path: Path) -> None:
    broken = tmp_path / "envoy"
    broken.write_text(
        f'#!/bin/sh\n[ "$1" = --version ] && exec {find().path} --version\necho out of luck >&2; exit 1\n'
    )
    broken.chmod(0o755)
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    ran = run_lab(temporary, "--once", "--envoy-path", broken)
    assert ran.returncode == 5
    assert "out of luck" in ran.stderr
    assert "Traceback" not in ran.stderr
    wait_until_gone(temporary)

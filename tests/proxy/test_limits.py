"""How many files an Envoy opens, and may."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sidestep.proxy.limits import needed_files
from sidestep.proxy.process import Process
from tests.proxy.static import ENVOY, echo, run, shell, write_static


@pytest.mark.parametrize(("listeners", "workers"), [(1, 1), (10, 2), (40, 3)])
def test_the_need_of_open_files_is_what_envoy_opens(tmp_path: Path, listeners: int, workers: int) -> None:
    write_static(tmp_path, *(echo(f"listener-{number}", 0) for number in range(listeners)))

    async def test() -> None:
        async with Process(ENVOY, tmp_path, tmp_path, concurrency=workers) as envoy:
            await envoy.wait_ready()
            opened = len(list(Path(f"/proc/{envoy.pid}/fd").iterdir()))
            assert opened <= needed_files(listeners, workers) <= opened + 8

    run(test)


def test_children_may_open_what_the_hard_limit_allows(tmp_path: Path) -> None:
    code = """
import resource, subprocess
from sidestep.proxy.limits import open_files
with open_files(1, 1):
    print(subprocess.check_output(["sh", "-c", "ulimit -n"], text=True).strip())
print(resource.getrlimit(resource.RLIMIT_NOFILE)[0])
"""
    assert shell(tmp_path, "ulimit -Sn 500; ulimit -Hn 2000", code).split() == ["2000", "500"]


def test_starts_that_overlap_leave_the_limit_as_it_was(tmp_path: Path) -> None:
    code = """
import resource
from contextlib import ExitStack
from sidestep.proxy.limits import open_files
def soft(): return resource.getrlimit(resource.RLIMIT_NOFILE)[0]
first, second = ExitStack(), ExitStack()
first.enter_context(open_files(1, 1))
second.enter_context(open_files(1, 1))
first.close()
print(soft())
second.close()
print(soft())
"""
    assert shell(tmp_path, "ulimit -Sn 500; ulimit -Hn 2000", code).split() == ["2000", "500"]


@pytest.mark.parametrize(("more", "warned"), [(0, False), (-1, True)])
def test_a_shortage_names_what_is_needed(tmp_path: Path, more: int, warned: bool) -> None:
    need = needed_files(300, 4) + 256
    code = "from sidestep.proxy.limits import shortage; print(shortage(300, 4))"
    said = shell(tmp_path, f"ulimit -Sn {need + more}", code)
    assert (f"ulimit -n {need}" in said) is (f"LimitNOFILE={need}" in said) is warned
    assert bool(said) is warned


def test_render_warns_where_this_shell_allows_too_few(tmp_path: Path) -> None:
    services = "".join(
        f"  - {{host: s{number}.a.svc.cluster.local, ports: [{{number: {number}, protocol: TCP}}], "
        "serviceAccounts: [s]}\n"
        for number in range(2000, 2040)
    )
    egress = "".join(f"  - {{host: s{number}.a}}\n" for number in range(2000, 2040))
    (tmp_path / "spec.yaml").write_text(f"""\
apiVersion: sidestep/v1alpha1
kind: Mesh
metadata: {{name: lab}}
spec:
  gateways: [{{address: 192.0.2.1}}]
  services:
{services}---
apiVersion: sidestep/v1alpha1
kind: Workload
metadata: {{name: billing, namespace: vms}}
spec:
  egress:
{egress}""")
    code = """
import json, os, sys
os.cpu_count = lambda: 8
from sidestep.cli import main
main(["render", "spec.yaml", "-o", "bundle", "--format", "json"])
"""
    need = needed_files(40, 8) + 256
    warnings = json.loads(shell(tmp_path, f"ulimit -Sn {need - 1}", code))["warnings"]
    assert len(warnings) == 1
    assert f"billing: its Envoy needs {need} open files" in warnings[0]
    assert json.loads(shell(tmp_path, f"ulimit -Sn {need}", code))["warnings"] == []


def test_too_low_a_limit_of_open_files_is_an_error_that_says_how_many(tmp_path: Path) -> None:
    code = """
from sidestep.errors import EnvoyError
from sidestep.proxy.limits import open_files
try:
    with open_files(1000, 4): pass
except EnvoyError as problem:
    print(problem)
"""
    said = shell(tmp_path, "ulimit -n 1024", code)
    assert (
        said
        == f"Envoy needs {needed_files(1000, 4) + 256} open files for 1000 listeners with 4 workers; the limit is 1024"
    )

"""How many files an Envoy opens, and may."""

from __future__ import annotations

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
with open_files(1, 1) as granted:
    print(granted, subprocess.check_output(["sh", "-c", "ulimit -n"], text=True).strip())
print(resource.getrlimit(resource.RLIMIT_NOFILE)[0])
"""
    assert shell(tmp_path, "ulimit -Sn 500; ulimit -Hn 2000", code).split() == ["2000", "2000", "500"]


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

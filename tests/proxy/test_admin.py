"""The admin interface of an Envoy: on a socket, on TCP, or not there."""

from __future__ import annotations

from pathlib import Path

import pytest

from sidestep.errors import EnvoyError, EnvoyStopped
from sidestep.proxy.admin import Admin
from tests.proxy.static import HOST, address, echo, free_port, process, run, write_static


@pytest.mark.parametrize(
    ("bootstrap", "reason"),
    [("", "not JSON"), ("{}", "no admin interface"), ('{"admin":{"address":{"pipe":7}}}', "no admin interface")],
)
def test_a_bootstrap_that_cannot_be_supervised_is_refused(tmp_path: Path, bootstrap: str, reason: str) -> None:
    with pytest.raises(EnvoyError, match="cannot read"):
        process(tmp_path)
    (tmp_path / "envoy.json").write_text(bootstrap)
    with pytest.raises(EnvoyError, match=reason):
        process(tmp_path)


def test_the_admin_interface_may_be_on_tcp(tmp_path: Path) -> None:
    write_static(tmp_path, admin={"address": address(free_port())})

    async def test() -> None:
        async with process(tmp_path) as envoy:
            await envoy.wait_ready()
            assert (await envoy.admin("/nothing")).status == 404

    run(test)


def test_the_admin_socket_may_lie_deep(tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 120)
    deep.mkdir()
    write_static(deep, echo("one", free_port()))

    async def test() -> None:
        async with process(deep) as envoy:
            await envoy.wait_ready()

    run(test)


def test_an_admin_interface_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    for admin in (Admin(tmp_path / "absent.sock"), Admin((HOST, free_port()))):
        with pytest.raises(EnvoyStopped, match="does not answer"):
            admin.request("/ready")

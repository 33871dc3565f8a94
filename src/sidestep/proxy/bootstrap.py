"""What a supervisor must know out of a bootstrap in JSON: the admin interface's address, the listeners to expect."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from sidestep.errors import EnvoyError
from sidestep.files import read
from sidestep.proxy.admin import Admin

if TYPE_CHECKING:
    from pathlib import Path


def read_json(path: Path) -> object:
    """The JSON in ``path``; `EnvoyError` naming it when there is none."""
    try:
        decoded: object = json.loads(read(path))
    except OSError as problem:
        raise EnvoyError(f"cannot read {path}: {problem.strerror or problem}") from problem
    except ValueError as problem:
        raise EnvoyError(f"{path} is not JSON: {problem}") from problem
    return decoded


def at(value: object, *keys: str) -> object:
    """What is under ``keys`` in nested objects, or None."""
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def items(value: object) -> list[object]:
    """``value``, if it is a list, else nothing."""
    return value if isinstance(value, list) else []


def admin_of(directory: Path, config_file: str) -> Admin:
    """The admin interface that the bootstrap opens; paths in it are relative to ``directory``. `EnvoyError` if none."""
    address = at(read_json(directory / config_file), "admin", "address")
    pipe = at(address, "pipe", "path")
    host, port = at(address, "socket_address", "address"), at(address, "socket_address", "port_value")
    if isinstance(pipe, str):
        return Admin(directory / pipe)
    if isinstance(host, str) and isinstance(port, int) and port:
        return Admin((host, port))
    raise EnvoyError(f"{directory / config_file} has no admin interface at a known address")


def listeners_of(directory: Path, config_file: str) -> frozenset[str]:
    """Names of the listeners in the bootstrap and in the LDS file that it refers to."""
    bootstrap = read_json(directory / config_file)
    listeners = items(at(bootstrap, "static_resources", "listeners"))
    source = at(bootstrap, "dynamic_resources", "lds_config", "path_config_source", "path")
    if isinstance(source, str):
        listeners = [*listeners, *items(at(read_json(directory / source), "resources"))]
    names = (at(listener, "name") for listener in listeners)
    return frozenset(name for name in names if isinstance(name, str) and name)

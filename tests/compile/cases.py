"""The golden cases: a folder each, named as a sentence, with the documents and the bundles that they make.

``cases/SENTENCE/spec.yaml`` makes ``cases/SENTENCE/WORKLOAD/envoy.json`` and so on, written for reading. They are
written anew by ``pytest tests/compile --update-golden``.
"""

from __future__ import annotations

from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import orjson

from sidestep import onboard, spec
from sidestep.descriptors.protoc import compile_protos
from tests.contents import contents

ROOT = Path(__file__).parent / "cases"
NAMES = sorted(path.name for path in ROOT.iterdir())
_NOW = datetime(2026, 6, 1, tzinfo=UTC)


@cache
def bundles(case: str) -> dict[str, onboard.Bundle]:
    """The bundles that a case makes, by the directory that each would be in."""
    made = onboard.bundles(spec.load([str(ROOT / case / "spec.yaml")], _NOW, compile_protos))
    return dict(zip(onboard.directory_names(made), made, strict=True))


def content(bundle: onboard.Bundle) -> dict[str, Any]:
    """A bundle's files by name: JSON as values, the rest as text; without what changes with every release."""
    files = {name: _read(name, held) for name, held in contents(bundle.tree).items()}
    del files["manifest.json"]["sidestep"]
    return files


def expected(case: str) -> dict[str, dict[str, Any]]:
    """What the case is to make."""
    directories = [path for path in (ROOT / case).iterdir() if path.is_dir()]
    return {directory.name: _expected(directory) for directory in directories}


def _expected(directory: Path) -> dict[str, Any]:
    files = [path for path in directory.rglob("*") if path.is_file()]
    return {str(path.relative_to(directory)): _read(path.name, path.read_bytes()) for path in files}


def _read(name: str, content: bytes) -> Any:
    if name.endswith(".pb"):
        return content
    return orjson.loads(content) if name.endswith(".json") else content.decode()


def update(case: str) -> None:
    """Writes what a case makes now as what it is to make."""
    for name, bundle in bundles(case).items():
        for file, value in content(bundle).items():
            path = ROOT / case / name / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(_written(value))


def _written(value: object) -> bytes:
    if isinstance(value, bytes):
        return value
    if isinstance(value, str):
        return value.encode()
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS | orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)

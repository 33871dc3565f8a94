"""What the files of a tree hold, without writing them to a disk."""

from __future__ import annotations

import json
from io import BytesIO
from typing import TYPE_CHECKING, Any

from sidestep.files import File, FileTree, Output

if TYPE_CHECKING:
    from collections.abc import Mapping


def contents(tree: FileTree) -> dict[str, bytes]:
    """Every file of a tree, its manifest last."""
    digests, found = {}, {}
    for name, file in tree.files.items():
        found[name], digests[name] = _written(file)
    if tree.manifest:
        found[tree.manifest.name] = tree.manifest.content(digests)
    return found


def _written(file: File) -> tuple[bytes, str]:
    stream = BytesIO()
    output = Output(stream)
    file.write_to(output)
    return stream.getvalue(), output.digest


def with_json(tree: FileTree, values: Mapping[str, Any]) -> FileTree:
    """The same tree with other JSON in files of it."""
    files = {name: File.of(json.dumps(value).encode()) for name, value in values.items()}
    return FileTree({**tree.files, **files}, tree.directories)

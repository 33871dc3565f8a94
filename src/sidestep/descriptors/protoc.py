"""``.proto`` files to a descriptor set, by the real compiler."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Final

from sidestep.errors import MissingDependency

if TYPE_CHECKING:
    from collections.abc import Sequence

_SECONDS: Final = 60
_COMPLAINT: Final = re.compile(r"(?P<file>[^:\n]+\.proto):(?:(?P<line>\d+):(?P<column>\d+):)? ?(?P<message>.+)")


@dataclass(frozen=True)
class Complaint:
    """What the compiler says of a file."""

    file: str
    """As the compiler names it: relative to an import path."""
    line: int
    """1-based; 0 where it means the file as a whole."""
    column: int
    message: str


class NotCompiled(Exception):
    """The compiler refused; ``complaints`` say why."""

    def __init__(self, complaints: Sequence[Complaint]) -> None:
        super().__init__("\n".join(each.message for each in complaints))
        self.complaints = complaints


def compile_protos(directory: Path, protos: Sequence[str], import_paths: Sequence[str]) -> bytes:
    """The descriptor set of ``protos`` and of all they import. Paths are relative to ``directory``.

    Google's own ``google/api/…`` and ``google/protobuf/…`` are found without being named. Raises `NotCompiled`, and
    `MissingDependency` where there is no compiler.
    """
    command = _compiler()
    includes = [f"-I{path}" for path in (*import_paths, *_common_protos())]
    with tempfile.TemporaryDirectory(prefix="sidestep-") as temporary:
        result = Path(temporary) / "set.pb"
        arguments = [*command, *includes, "--include_imports", f"--descriptor_set_out={result}", *map(_plain, protos)]
        try:
            done = subprocess.run(arguments, cwd=directory, capture_output=True, timeout=_SECONDS, check=False)
        except subprocess.TimeoutExpired:
            raise NotCompiled([Complaint(protos[0], 0, 0, f"not compiled within {_SECONDS} s")]) from None
        except OSError as error:
            raise NotCompiled([Complaint(protos[0], 0, 0, f"{command[0]}: {error.strerror}")]) from None
        if done.returncode != 0:
            raise NotCompiled(_complaints(done.stderr.decode(errors="replace"), protos[0]))
        return result.read_bytes()


def _plain(name: str) -> str:
    """A file's name that the compiler does not take for an option or for a file of options."""
    return f"./{name}" if name.startswith(("-", "@")) else name


def _compiler() -> list[str]:
    """``protoc`` on PATH, else the one inside grpcio-tools."""
    if protoc := shutil.which("protoc"):
        return [protoc]
    if find_spec("grpc_tools"):
        # -P: without it Python would import grpc_tools from the documents' directory, whoever has put it there.
        return [sys.executable, "-P", "-m", "grpc_tools.protoc"]
    raise MissingDependency(
        "compiling .proto files needs protoc on PATH, or grpcio-tools", hint="pip install 'sidestep[transcode]'"
    )


def _common_protos() -> list[str]:
    """Where googleapis-common-protos and grpcio-tools keep the files that nearly every ``.proto`` imports."""
    paths = []
    common = find_spec("google.api") if find_spec("google") else None
    if common and common.submodule_search_locations:
        paths += [str(Path(location).parent.parent) for location in common.submodule_search_locations]
    tools = find_spec("grpc_tools")
    if tools and tools.submodule_search_locations:
        paths += [str(Path(location) / "_proto") for location in tools.submodule_search_locations]
    return [path for path in dict.fromkeys(paths) if Path(path).is_dir()]


def _complaints(said: str, file: str) -> list[Complaint]:
    """Every line of the compiler's that names a place; what follows from an earlier one is left out."""
    found = [
        Complaint(match["file"], int(match["line"] or 0), int(match["column"] or 0), match["message"].strip())
        for match in map(_COMPLAINT.fullmatch, said.splitlines())
        if match and "is defined in" not in match["message"]
    ]
    return found or [Complaint(file, 0, 0, " ".join(said.split())[:500] or "the compiler gave no reason")]

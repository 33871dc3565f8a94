"""Descriptor sets for tests, from ``.proto`` texts."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING, Any

from sidestep.descriptors.protoc import compile_protos
from tests import documents

if TYPE_CHECKING:
    from pathlib import Path

HEAD = 'syntax = "proto3";\npackage demo.v1;\n'
MESSAGES = "message A { string id = 1; B inner = 2; repeated string many = 3; }\nmessage B { string name = 1; }\n"
ANNOTATED = 'import "google/api/annotations.proto";\n'
PLAIN = f"{HEAD}{MESSAGES}service S {{ rpc Get(A) returns (B); }}\n"


def compiled(directory: Path, text: str) -> bytes:
    """The descriptor set of one ``.proto`` file with everything it imports."""
    (directory / "demo.proto").write_text(text, encoding="utf-8")
    return compile_protos(directory, ["demo.proto"], ["."])


def annotated(*methods: tuple[str, str]) -> str:
    """A service with methods and what their google.api.http annotations say."""
    lines = [f"rpc {name}(A) returns (B) {{ option (google.api.http) = {{ {rule} }}; }}\n" for name, rule in methods]
    return f"{HEAD}{ANNOTATED}{MESSAGES}service S {{ {''.join(lines)} }}\n"


def without_imports(directory: Path, text: str) -> bytes:
    """The set that protoc writes when --include_imports is forgotten."""
    compiled(directory, text)
    whole = directory / "alone.pb"
    command = [
        sys.executable,
        "-m",
        "grpc_tools.protoc",
        "-I.",
        *_google(),
        f"--descriptor_set_out={whole}",
        "demo.proto",
    ]
    subprocess.run(command, cwd=directory, check=True)
    return whole.read_bytes()


def _google() -> list[str]:
    from sidestep.descriptors import protoc

    return [f"-I{path}" for path in protoc._common_protos()]


def spec(directory: Path, transcode: dict[str, Any], **egress: Any) -> str:
    """Documents with one transcoded egress, beside what it names."""
    service = documents.service(documents.LEDGER, (50051, "GRPC"), (9000, "TCP"))
    call = {"host": "ledger.pay", "port": 50051, "transcode": transcode, **egress}
    return documents.write(directory / "spec.yaml", documents.mesh(service), documents.workload(call))

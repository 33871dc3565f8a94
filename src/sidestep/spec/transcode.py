"""What an egress may say of REST to gRPC (``transcode``), and what comes of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import sha256
from typing import Annotated

from pydantic import Field

from sidestep.spec.base import Finding, Model
from sidestep.spec.scalars import FileName, ProtobufName


class Transcode(Model):
    """REST for a gRPC service: Envoy turns JSON over HTTP into gRPC and back. Exactly one of descriptor and protos."""

    descriptor: FileName | None = None
    """Descriptor set (protoc --include_imports --descriptor_set_out, or `sidestep transcode reflect`), relative to this
    document."""
    protos: Annotated[list[FileName], Field(min_length=1)] | None = None
    """Or the .proto files, relative to this document, to be compiled with protoc or grpcio-tools."""
    import_paths: Annotated[list[FileName], Field(min_length=1)] = Field(default_factory=lambda: ["."])
    """Where .proto files and their imports are looked for, relative to this document."""
    services: list[ProtobufName] = Field(default_factory=list)
    """Services to give REST routes, by full name; every one in the descriptor unless said otherwise."""
    ignore_unknown_query_parameters: bool = False
    """Take requests with query parameters that the method does not know, instead of answering 400."""
    preserve_proto_field_names: bool = False
    """Answer with field names as in the .proto file (snake_case) instead of lowerCamelCase."""
    always_print_primitive_fields: bool = False
    """Answer also with fields that have their default value."""
    always_print_enums_as_ints: bool = False
    """Answer with enum values as numbers instead of names."""
    stream_newline_delimited: bool = False
    """Answer streams with one JSON object a line instead of one JSON array."""

    def _exactly_one(self) -> Iterator[Finding]:
        if self.says("descriptor") == self.says("protos"):
            yield Finding((), "says too little or too much", allowed="exactly one of descriptor and protos")

    def _there_is_something_to_find(self) -> Iterator[Finding]:
        if "import_paths" in self.model_fields_set and not self.says("protos") and self.says("descriptor"):
            message = "importPaths says where protos are found, and there are none"
            yield Finding(("importPaths",), message, allowed="protos, or no importPaths")

    checks = (_exactly_one, _there_is_something_to_find)


@dataclass(frozen=True)
class Transcoding:
    """An egress' ``transcode`` with everything it names."""

    settings: Transcode
    descriptor: bytes = field(repr=False)
    """The descriptor set, known to be whole."""
    services: tuple[str, ...]
    """Full names."""
    streams: tuple[str, ...]
    """gRPC paths (``/package.Service/Method``) of the methods whose server streams."""

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the descriptor set, in hexadecimal."""
        return sha256(self.descriptor).hexdigest()

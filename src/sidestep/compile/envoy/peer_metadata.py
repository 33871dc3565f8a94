"""How the machine appears by name in the mesh's telemetry: two headers, read and removed by the sidecar.

The value is a serialised ``google.protobuf.Struct`` in base64 (facts/istio.md §4.1). Envoy's own protobuf is not worth
a dependency for three nested maps of strings; a test holds this encoder against Google's.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from typing import TYPE_CHECKING, Final, TypeAlias

if TYPE_CHECKING:
    from sidestep.compile.envoy.resources import Resource
    from sidestep.spec import Machine

Fields: TypeAlias = "Mapping[str, str | Fields]"

METADATA: Final = "x-envoy-peer-metadata"
METADATA_ID: Final = "x-envoy-peer-metadata-id"


@dataclass(frozen=True)
class PeerMetadata:
    """What a machine says of itself."""

    workload: str
    namespace: str
    fields: Fields

    @classmethod
    def of(cls, machine: Machine) -> PeerMetadata:
        """The names that Istio's telemetry knows a workload by (facts/istio.md §4.2)."""
        metadata = machine.workload.metadata
        name, namespace, labels = metadata.name, metadata.namespace, metadata.labels
        app = labels.get("app.kubernetes.io/name") or labels.get("app") or name
        version = labels.get("app.kubernetes.io/version") or labels.get("version") or "latest"
        named = {
            "app": app,
            "version": version,
            "service.istio.io/canonical-name": labels.get("service.istio.io/canonical-name", app),
            "service.istio.io/canonical-revision": labels.get("service.istio.io/canonical-revision", version),
        }
        return cls(name, namespace, {"LABELS": named, "NAME": name, "NAMESPACE": namespace, "WORKLOAD_NAME": name})

    @cached_property
    def value(self) -> str:
        """The ``x-envoy-peer-metadata`` header."""
        return b64encode(_struct(self.fields)).decode()

    @cached_property
    def node_id(self) -> str:
        """The node's ID, in Istio's form, and the ``x-envoy-peer-metadata-id`` header.

        Receivers cache the metadata by it and never refresh, so it changes with the content (facts/istio.md §4.1).
        """
        digest = sha256(_struct(self.fields)).hexdigest()[:8]
        return f"sidecar~0.0.0.0~{self.workload}-{digest}.{self.namespace}~{self.namespace}.svc.cluster.local"

    @cached_property
    def headers(self) -> list[Resource]:
        """Both headers, to be added in place of what is there."""
        both = {METADATA: self.value, METADATA_ID: self.node_id}
        return [
            {"header": {"key": key, "value": value}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}
            for key, value in both.items()
        ]


def _struct(fields: Fields) -> bytes:
    """``message Struct { map<string, Value> fields = 1; }``, keys in order."""
    return b"".join(
        _bytes(1, _bytes(1, key.encode()) + _bytes(2, _value(value))) for key, value in sorted(fields.items())
    )


def _value(value: str | Fields) -> bytes:
    """``message Value { oneof kind { string string_value = 3; Struct struct_value = 5; … } }``."""
    return _bytes(3, value.encode()) if isinstance(value, str) else _bytes(5, _struct(value))


def _bytes(number: int, content: bytes) -> bytes:
    """A length-delimited field (wire type 2)."""
    return bytes([number << 3 | 2]) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    encoded = b""
    while value > 0x7F:
        encoded += bytes([value & 0x7F | 0x80])
        value >>= 7
    return encoded + bytes([value])

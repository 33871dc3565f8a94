"""JSON Schemas of protobuf messages, by protobuf's JSON mapping (protobuf.dev, "ProtoJSON Format")."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, TypeAlias

if TYPE_CHECKING:
    from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor

Object: TypeAlias = dict[str, Any]

_INT32: Final[Object] = {"type": "integer", "format": "int32"}
_UINT32: Final[Object] = {"type": "integer", "format": "int64", "minimum": 0}
_INT64: Final[Object] = {"type": "string", "format": "int64"}
_UINT64: Final[Object] = {"type": "string", "format": "uint64"}
_BYTES: Final[Object] = {"type": "string", "contentEncoding": "base64"}
_TEXT: Final[Object] = {"type": "string"}
_SCALARS: Final[Mapping[int, Object]] = {  # by google.protobuf.FieldDescriptorProto.Type
    1: {"type": "number", "format": "double"},
    2: {"type": "number", "format": "float"},
    3: _INT64,
    4: _UINT64,
    5: _INT32,
    6: _UINT64,
    7: _UINT32,
    8: {"type": "boolean"},
    9: _TEXT,
    12: _BYTES,
    13: _UINT32,
    15: _INT32,
    16: _INT64,
    17: _INT32,
    18: _INT64,
}
_TIMES: Final[Mapping[str, Object]] = {
    "google.protobuf.Timestamp": {"type": "string", "format": "date-time"},
    "google.protobuf.Duration": {"type": "string", "pattern": r"^-?\d+(\.\d{1,9})?s$"},
    "google.protobuf.FieldMask": _TEXT,
}
_WRAPPERS: Final[Mapping[str, int]] = {
    f"google.protobuf.{name}Value": number
    for name, number in {
        "Double": 1,
        "Float": 2,
        "Int64": 3,
        "UInt64": 4,
        "Int32": 5,
        "Bool": 8,
        "String": 9,
        "Bytes": 12,
        "UInt32": 13,
    }.items()
}
_KNOWN: Final[Mapping[str, Object]] = {
    **_TIMES,
    **{name: {**_SCALARS[number], "type": [_SCALARS[number]["type"], "null"]} for name, number in _WRAPPERS.items()},
    "google.protobuf.Struct": {"type": "object", "additionalProperties": True},
    "google.protobuf.Value": {},
    "google.protobuf.ListValue": {"type": "array", "items": {}},
    "google.protobuf.Empty": {"type": "object", "additionalProperties": False},
    "google.protobuf.Any": {"type": "object", "properties": {"@type": _TEXT}, "required": ["@type"]},
}


class Schemas:
    """Schemas by the full name of message or enum, of all that is referred to."""

    def __init__(self, *, proto_names: bool, ints: bool) -> None:
        self._proto_names, self._ints = proto_names, ints
        self._made: dict[str, Object] = {}
        self._referred: dict[str, Descriptor] = {}

    @staticmethod
    def is_known(message: Descriptor) -> bool:
        """Whether JSON has a form of its own for it."""
        return message.full_name in _KNOWN

    @staticmethod
    def is_text(message: Descriptor) -> bool:
        """Whether it is written as one value, and so fits into a query."""
        return message.full_name in _TIMES or message.full_name in _WRAPPERS

    def components(self) -> dict[str, Object]:
        """What was referred to, by name; each refers to more."""
        while waiting := [each for name, each in self._referred.items() if name not in self._made]:
            self._made.update({each.full_name: self._object(each) for each in waiting})
        return dict(sorted(self._made.items()))

    def name(self, field: FieldDescriptor) -> str:
        """What a field is called in JSON."""
        return field.name if self._proto_names else field.json_name

    def message(self, message: Descriptor) -> Object:
        """A reference to a message's schema, or the schema itself where JSON has a form of its own for it."""
        if message.full_name in _KNOWN:
            return _KNOWN[message.full_name]
        self._referred[message.full_name] = message
        return _reference(message.full_name)

    def of(self, field: FieldDescriptor) -> Object:
        """The schema of a field: a map, a list, or a single value."""
        message = field.message_type
        if message is not None and message.GetOptions().map_entry:
            return {"type": "object", "additionalProperties": self.single(message.fields_by_name["value"])}
        return {"type": "array", "items": self.single(field)} if field.is_repeated else self.single(field)

    def single(self, field: FieldDescriptor) -> Object:
        """The schema of one value of a field."""
        if field.message_type is not None:
            return self.message(field.message_type)
        return self._enum(field.enum_type) if field.enum_type is not None else _SCALARS[field.type]

    def _enum(self, enum: EnumDescriptor) -> Object:
        if enum.full_name == "google.protobuf.NullValue":
            return {"type": "null"}
        names = [value.name for value in enum.values]
        numbers = sorted({value.number for value in enum.values})
        self._made[enum.full_name] = (
            {"type": "integer", "format": "int32", "enum": numbers} if self._ints else {"type": "string", "enum": names}
        )
        return _reference(enum.full_name)

    def _object(self, message: Descriptor) -> Object:
        schema: Object = {
            "type": "object",
            "properties": {self.name(field): self.of(field) for field in message.fields},
        }
        required = [self.name(field) for field in message.fields if field.is_required]
        choices = [oneof.fields for oneof in message.oneofs if len(oneof.fields) > 1]
        if required:
            schema["required"] = required
        if choices:
            schema["allOf"] = [self._at_most_one(fields) for fields in choices]
        return schema

    def _at_most_one(self, fields: Sequence[FieldDescriptor]) -> Object:
        each: list[Object] = [{"required": [self.name(field)]} for field in fields]
        return {"oneOf": [*each, {"not": {"anyOf": each}}]}


def _reference(name: str) -> Object:
    return {"$ref": f"#/components/schemas/{name}"}

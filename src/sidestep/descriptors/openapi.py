"""An OpenAPI 3.1 document for the REST routes of services."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Final

from sidestep.descriptors.routes import HTTP_BODY
from sidestep.descriptors.schemas import Object, Schemas

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from google.protobuf.descriptor import Descriptor, FieldDescriptor

    from sidestep.descriptors.routes import Route
    from sidestep.descriptors.templates import Template

_VERSION: Final = re.compile(r"\.(v\d+[a-z0-9]*)\.")
_METHODS: Final = frozenset(("GET", "PUT", "POST", "DELETE", "OPTIONS", "HEAD", "PATCH", "TRACE"))
_DEEPEST: Final = 5
"""How deep messages in messages are spread into query parameters; a message may hold itself."""
_MOST: Final = 2000
"""How many fields are looked at for them; one that holds itself twelve times would come to a quarter of a million."""


@dataclass(frozen=True)
class Style:
    """How Envoy was told to write JSON."""

    preserve_proto_field_names: bool = False
    always_print_enums_as_ints: bool = False
    stream_newline_delimited: bool = False


def document(routes: Sequence[Route], style: Style, server: str = "") -> Object:
    """The OpenAPI document. ``server`` is the URL under which the routes are called."""
    services = list(dict.fromkeys(route.method.containing_service.full_name for route in routes))
    version = _VERSION.search(f"{services[0]}.") if services else None
    writer = _Writer(
        style, Schemas(proto_names=style.preserve_proto_field_names, ints=style.always_print_enums_as_ints)
    )
    paths: dict[str, Object] = {}
    for route in routes:
        if route.verb in _METHODS:  # OpenAPI has no place for methods of one's own
            path, names = writer.path(route.template)
            paths.setdefault(path, {})[route.verb.lower()] = writer.operation(route, names)
    return {
        "openapi": "3.1.0",
        "info": {"title": ", ".join(services), "version": version[1] if version else "1"},
        **({"servers": [{"url": server}]} if server else {}),
        "tags": [{"name": name} for name in services],
        "paths": paths,
        "components": {"schemas": {**writer.schemas.components(), "google.rpc.Status": _STATUS}},
    }


@dataclass
class _Writer:
    style: Style
    schemas: Schemas
    written: Counter[str] = field(default_factory=Counter)
    places: dict[str, tuple[str, list[str]]] = field(default_factory=dict)
    taken: set[str] = field(default_factory=set)

    def path(self, template: Template) -> tuple[str, list[str]]:
        """A path of OpenAPI's, and the names of its parameters: a parameter is a segment, so each wildcard is one.

        The same for all that match the same paths, whatever they call what they bind; for others another one.
        """
        if template.shape not in self.places:
            names = [*_numbered(each.field.replace(".", "_") or "segment" for each in template.wildcards)]
            while (path := template.filled(f"{{{name}}}" for name in names)) in self.taken:
                names = [f"{name}_" for name in names]
            self.taken.add(path)
            self.places[template.shape] = path, names
        return self.places[template.shape]

    def operation(self, route: Route, names: Sequence[str]) -> Object:
        name = route.method.full_name
        self.written[name] += 1
        parameters = [*self._path_parameters(route, names), *self._query_parameters(route)]
        return {
            "operationId": name if self.written[name] == 1 else f"{name}_{self.written[name]}",
            "tags": [route.method.containing_service.full_name],
            **({"parameters": parameters} if parameters else {}),
            **self._request(route),
            "responses": {"200": self._reply(route), "default": _ERROR},
        }

    def _path_parameters(self, route: Route, names: Sequence[str]) -> Iterator[Object]:
        for name, wildcard in zip(names, route.template.wildcards, strict=True):
            pattern = route.template.variables.get(wildcard.field)
            whole = pattern == "*"
            schema = self.schemas.single(_field(route.method.input_type, wildcard.field)) if whole else _SEGMENT
            notes = [] if whole or not pattern else [f"A part of `{wildcard.field}`, which is `{pattern}`."]
            notes += ["Any number of segments: slashes in it are sent as they are."] if wildcard.text == "**" else []
            description: Object = {"description": " ".join(notes)} if notes else {}
            yield {"name": name, "in": "path", "required": True, **description, "schema": schema}

    def _query_parameters(self, route: Route) -> Iterator[Object]:
        if route.body != "*":
            taken = {*route.template.variables, route.body}
            for name, found in islice(_fields(route.method.input_type, "", _DEEPEST), _MOST):
                if _is_value(found) and name not in taken and name.partition(".")[0] != route.body:
                    yield {"name": self._query_name(name, found), "in": "query", "schema": self.schemas.of(found)}

    def _query_name(self, name: str, found: FieldDescriptor) -> str:
        before, dot, _ = name.rpartition(".")
        return f"{before}{dot}{self.schemas.name(found)}"

    def _request(self, route: Route) -> Object:
        if not route.body:
            return {}
        message = route.method.input_type
        schema = self.schemas.message(message) if route.body == "*" else self.schemas.of(_field(message, route.body))
        if route.method.client_streaming:
            schema = {"type": "array", "items": schema}
        return {"requestBody": {"required": True, "content": _content(schema, message)}}

    def _reply(self, route: Route) -> Object:
        message = route.method.output_type
        schema = self.schemas.message(message)
        description = "Done."
        if route.method.server_streaming and self.style.stream_newline_delimited:
            description = "A stream: one JSON object a line, each of this schema. One that fails is cut off."
        elif route.method.server_streaming:
            description = "A stream, as one JSON array. One that fails is cut off."
            schema = {"type": "array", "items": schema}
        return {"description": description, "content": _ANYTHING if route.response_body else _content(schema, message)}


def _content(schema: Object, message: Descriptor) -> Object:
    if message.full_name == HTTP_BODY:
        return _ANYTHING
    return {"application/json": {"schema": schema}}


def _field(message: Descriptor, path: str) -> FieldDescriptor:
    *above, name = path.split(".")
    for each in above:
        inner = message.fields_by_name[each].message_type
        assert inner is not None
        message = inner
    return message.fields_by_name[name]


def _fields(message: Descriptor, prefix: str, depth: int) -> Iterator[tuple[str, FieldDescriptor]]:
    """Fields of a message, and after them those of messages inside."""
    yield from ((f"{prefix}{found.name}", found) for found in message.fields)
    for found in message.fields:
        inner = found.message_type
        if inner and not _is_value(found) and not found.is_repeated and depth and not Schemas.is_known(inner):
            yield from _fields(inner, f"{prefix}{found.name}.", depth - 1)


def _is_value(found: FieldDescriptor) -> bool:
    """Whether it fits into a query: a value, or a list of values."""
    return found.message_type is None or Schemas.is_text(found.message_type)


def _numbered(names: Iterable[str]) -> Iterator[str]:
    """Names as they are, but for those that come again."""
    seen = Counter[str]()
    for name in names:
        seen[name] += 1
        yield name if seen[name] == 1 else f"{name}_{seen[name]}"


_SEGMENT: Final[Object] = {"type": "string"}
_ANYTHING: Final[Object] = {"*/*": {}}
_STATUS: Final[Object] = {
    "type": "object",
    "description": "What went wrong (google.rpc.Status).",
    "properties": {
        "code": {"type": "integer", "format": "int32", "description": "The gRPC status, such as 5 for NOT_FOUND."},
        "message": {"type": "string"},
        "details": {"type": "array", "items": {"type": "object", "properties": {"@type": {"type": "string"}}}},
    },
}
_ERROR: Final[Object] = {
    "description": "An error: the HTTP status that stands for the gRPC status, and the status itself.",
    "content": {"application/json": {"schema": {"$ref": "#/components/schemas/google.rpc.Status"}}},
}

"""The REST routes that Envoy's transcoder makes of a service's methods."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NoReturn

from sidestep.descriptors import templates
from sidestep.descriptors.sets import Unusable

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from google.api.http_pb2 import HttpRule
    from google.protobuf.descriptor import Descriptor, MethodDescriptor, ServiceDescriptor

    from sidestep.descriptors.templates import Template

HTTP_BODY: Final = "google.api.HttpBody"
"""The message that stands for bytes of any kind. Envoy takes no other as a ``response_body``."""
_VERBS: Final = ("get", "put", "post", "delete", "patch")


@dataclass(frozen=True)
class Route:
    """One HTTP method and path, and the gRPC method behind them."""

    verb: str
    """The HTTP method."""
    template: Template
    method: MethodDescriptor = field(repr=False)
    body: str
    """``*``: the whole message; the name of a field; or empty for none. What is not in it goes into the query."""
    response_body: str
    annotated: bool
    """Whether a google.api.http annotation says so; else it is POST to the method's own path."""

    @property
    def path(self) -> str:
        """The path template."""
        return self.template.text

    @property
    def rpc(self) -> str:
        """The gRPC method: ``package.Service/Method``."""
        return f"{self.method.containing_service.full_name}/{self.method.name}"

    @property
    def streaming(self) -> str:
        """Who streams: ``client``, ``server``, ``both`` or nobody (empty)."""
        streams = (self.method.client_streaming, self.method.server_streaming)
        return {(True, True): "both", (True, False): "client", (False, True): "server"}.get(streams, "")


def of(services: Sequence[ServiceDescriptor]) -> list[Route]:
    """The routes of services, in the order of their methods. Raises `Unusable`, also where two are the same."""
    found: dict[tuple[str, str], Route] = {}
    for service in services:
        for method in service.methods:
            for route in _routes(method):
                other = found.setdefault((route.verb, route.template.shape), route)
                if other is not route:
                    # Envoy would take both without a word and call one of them.
                    raise Unusable(
                        f"{other.rpc} and {route.rpc} have the same route",
                        found=f"{route.verb} {route.path}",
                        allowed="a route of its own for each method",
                    )
    return list(found.values())


def streams(services: Sequence[ServiceDescriptor]) -> tuple[str, ...]:
    """The gRPC paths of the methods whose server streams."""
    methods = [method for service in services for method in service.methods if method.server_streaming]
    return tuple(sorted(f"/{method.containing_service.full_name}/{method.name}" for method in methods))


def _routes(method: MethodDescriptor) -> Iterator[Route]:
    from google.api.annotations_pb2 import http
    from google.protobuf.descriptor_pb2 import MethodOptions

    # The set's own pool does not know the extension as ours; its bytes are the same.
    options = MethodOptions.FromString(method.GetOptions().SerializeToString())
    if not options.HasExtension(http):
        path = f"/{method.containing_service.full_name}/{method.name}"
        yield Route("POST", templates.Template(path, tuple(path[1:].split("/"))), method, "*", "", annotated=False)
        return
    rule = options.Extensions[http]
    for binding in (rule, *rule.additional_bindings):
        yield _bound(method, binding)


def _bound(method: MethodDescriptor, rule: HttpRule) -> Route:
    verb, path = _verb_and_path(method, rule)
    try:
        template = templates.parse(path)
    except Unusable as error:
        raise Unusable(f"{method.full_name}: {error.message}", found=error.found, allowed=error.allowed) from None
    for name in template.variables:
        _check_variable(method, name)
    if rule.body not in {"", "*", *method.input_type.fields_by_name}:
        _no_field(method, method.input_type, rule.body)
    if rule.response_body:
        _check_response_body(method, rule.response_body)
    return Route(verb, template, method, rule.body, rule.response_body, annotated=True)


def _verb_and_path(method: MethodDescriptor, rule: HttpRule) -> tuple[str, str]:
    pattern = rule.WhichOneof("pattern")
    if pattern in _VERBS:
        return pattern.upper(), getattr(rule, pattern)
    if pattern == "custom":
        return rule.custom.kind.upper(), rule.custom.path
    raise Unusable(f"{method.full_name} has an empty google.api.http annotation", allowed=", ".join(_VERBS))


def _check_variable(method: MethodDescriptor, name: str) -> None:
    message: Descriptor | None = method.input_type
    repeated = False
    for step in name.split("."):
        found = message.fields_by_name.get(step) if message is not None else None
        if found is None:
            _no_field(method, message or method.input_type, name)
        message, repeated = found.message_type, repeated or found.is_repeated
    if message is not None or repeated:
        raise Unusable(f"{method.full_name} binds a path to a field that is no single value", found=name)


def _check_response_body(method: MethodDescriptor, name: str) -> None:
    found = method.output_type.fields_by_name.get(name)
    if found is None:
        _no_field(method, method.output_type, name)
    if found.message_type is None or found.message_type.full_name != HTTP_BODY:
        message = f"{method.full_name} answers with a part of its message"
        raise Unusable(message, found=f"response_body: {name}", allowed=f"a field of type {HTTP_BODY}, or none")


def _no_field(method: MethodDescriptor, message: Descriptor, name: str) -> NoReturn:
    allowed = ", ".join(message.fields_by_name) or "none: the message is empty"
    raise Unusable(
        f"{method.full_name} binds a field that {message.full_name} does not have", found=name, allowed=allowed
    )

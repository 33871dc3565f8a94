"""What a scalar may be, said once: for checking it, for error messages and for editors.

pydantic's own checks are used where they can say it: they are compiled, and there may be 50,000 services to check.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeAlias

from pydantic_core import PydanticCustomError, core_schema

if TYPE_CHECKING:
    from enum import StrEnum

    from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
    from pydantic.json_schema import JsonSchemaValue
    from pydantic_core import CoreSchema, ErrorDetails

NOT_ALLOWED: Final = "not_allowed"
"""The type of the errors of all of these."""
_MESSAGE: Final = "not an allowed value"
_JsonSchema: TypeAlias = Mapping[str, "str | int | bool | list[str]"]
_TEXT: Final[_JsonSchema] = {"type": "string"}


@dataclass(frozen=True, eq=False)
class Scalar:
    """An annotation: values are what ``core`` makes of them."""

    core: CoreSchema
    allowed: str
    schema: _JsonSchema

    def __get_pydantic_core_schema__(self, _source: object, _handler: GetCoreSchemaHandler) -> CoreSchema:
        return self.core

    def __get_pydantic_json_schema__(self, _schema: CoreSchema, _handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {**self.schema, "description": self.allowed}


def checked(parse: Callable[[object], object], allowed: str, schema: _JsonSchema = _TEXT) -> Scalar:
    """What ``parse`` returns; ``allowed`` is said where it raises `ValueError`, after what that says."""

    def validate(value: object) -> object:
        try:
            return parse(value)
        except ValueError as error:
            context = {"message": str(error) or _MESSAGE, "allowed": allowed}
            raise PydanticCustomError(NOT_ALLOWED, "{message}", context) from None

    return Scalar(core_schema.no_info_plain_validator_function(validate), allowed, schema)


def text(pattern: str, allowed: str, longest: int) -> Scalar:
    """Text of at most ``longest`` characters that a pattern matches as a whole; one that Rust's regex knows, too."""
    anchored = f"^(?:{pattern})$"
    core = core_schema.str_schema(pattern=anchored, max_length=longest, strict=True)
    schema: _JsonSchema = {"type": "string", "pattern": anchored, "maxLength": longest}
    return Scalar(_native(core, allowed, unquoted="no text, unless put in quotes"), allowed, schema)


def whole(lowest: int, highest: int, allowed: str) -> Scalar:
    """A whole number."""
    core = core_schema.int_schema(ge=lowest, le=highest, strict=True)
    return Scalar(_native(core, allowed), allowed, {"type": "integer", "minimum": lowest, "maximum": highest})


def one_of(values: Iterable[str]) -> Scalar:
    """One of some words."""
    words = [*values]
    allowed = ", ".join(words)
    return Scalar(_native(core_schema.literal_schema(words), allowed), allowed, {"type": "string", "enum": words})


def member_of(words: type[StrEnum]) -> Scalar:
    """One of the words of an enumeration."""
    core = core_schema.enum_schema(words, [*words], sub_type="str", strict=False)
    allowed = ", ".join(words)
    return Scalar(_native(core, allowed), allowed, {"type": "string", "enum": [*words]})


def message(details: ErrorDetails) -> tuple[str, str]:
    """What an error of the type `NOT_ALLOWED` says, and what it says to be allowed."""
    context = details["ctx"]
    unquoted = context.get("unquoted") if isinstance(details["input"], (bool, int, float)) else None
    return unquoted or context["message"], context["allowed"]


def _native(core: CoreSchema, allowed: str, **context: str) -> CoreSchema:
    return core_schema.custom_error_schema(
        core,
        NOT_ALLOWED,
        custom_error_message="{message}",
        custom_error_context={"message": _MESSAGE, "allowed": allowed, **context},
    )

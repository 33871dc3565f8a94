"""Path templates of google.api.http: ``/v1/{name=accounts/*}/entries/{id}:verb`` (google/api/http.proto)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from sidestep.descriptors.sets import Unusable

_LITERAL: Final = r"[-A-Za-z0-9_.~!$&'()+,;=@%]+"
_FIELD: Final = r"[A-Za-z_][A-Za-z0-9_]*(?:\.[A-Za-z_][A-Za-z0-9_]*)*"
_PLAIN: Final = rf"(?:\*\*|\*|{_LITERAL})"
_VARIABLE: Final = rf"\{{(?P<field>{_FIELD})(?:=(?P<pattern>{_PLAIN}(?:/{_PLAIN})*))?\}}"
_SEGMENT: Final = re.compile(rf"/(?:{_VARIABLE}|(?P<plain>{_PLAIN}))")
_VERB: Final = re.compile(rf":{_LITERAL}")


@dataclass(frozen=True)
class Template:
    """A parsed template."""

    text: str
    shape: str
    """The template with its variables replaced by what they match: equal for two that match the same paths."""
    openapi: str
    """The path with a plain ``{field}`` for every variable."""
    variables: dict[str, str]
    """Field path → what it matches (``*``: one segment)."""


def parse(text: str) -> Template:
    """Parses a template. Raises `Unusable`."""
    at, shape, openapi, variables = 0, "", "", dict[str, str]()
    while match := _SEGMENT.match(text, at):
        at = match.end()
        plain, name = match["plain"], match["field"]
        if name in variables:
            raise Unusable(f"the path binds {name} twice", found=text, allowed="each field once")
        if name:
            variables[name] = match["pattern"] or "*"
        shape += f"/{plain or variables[name]}"
        openapi += f"/{plain}" if plain else f"/{{{name}}}"
    verb = text[at:]
    if at == 0 or (verb and not _VERB.fullmatch(verb)):
        raise Unusable("the path cannot be read", found=text, allowed="a path such as /v1/accounts/{account}")
    return Template(text, shape + verb, openapi + verb, variables)

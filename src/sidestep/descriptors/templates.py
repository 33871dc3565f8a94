"""Path templates of google.api.http: ``/v1/{name=accounts/*}/entries/{id}:verb`` (google/api/http.proto)."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from sidestep.descriptors.sets import Unusable

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_LITERAL: Final = r"[-A-Za-z0-9_.~!$&'()+,;=@%]+"
_FIELD: Final = r"[A-Za-z_][A-Za-z0-9_]*(?:\.[A-Za-z_][A-Za-z0-9_]*)*"
_PLAIN: Final = rf"(?:\*\*|\*|{_LITERAL})"
_VARIABLE: Final = rf"\{{(?P<field>{_FIELD})(?:=(?P<pattern>{_PLAIN}(?:/{_PLAIN})*))?\}}"
_SEGMENT: Final = re.compile(rf"/(?:{_VARIABLE}|(?P<plain>{_PLAIN}))")
_VERB: Final = re.compile(rf":{_LITERAL}")


@dataclass(frozen=True)
class Wildcard:
    """A place in a path that callers fill in."""

    text: str
    """``*``: one segment; ``**``: any number."""
    field: str = ""
    """The field that has it as its value, or as a part of that; empty for none."""


@dataclass(frozen=True)
class Template:
    """A parsed template."""

    text: str
    segments: tuple[str | Wildcard, ...]
    verb: str = ""
    """What comes last, with its colon."""
    variables: Mapping[str, str] = field(default_factory=dict)
    """Field path → what it matches (``*``: one segment)."""

    @property
    def wildcards(self) -> list[Wildcard]:
        """What callers fill in, in order."""
        return [each for each in self.segments if isinstance(each, Wildcard)]

    @property
    def shape(self) -> str:
        """The template with its variables replaced by what they match: equal for two that match the same paths."""
        return self.filled(each.text for each in self.wildcards)

    def filled(self, values: Iterable[str]) -> str:
        """The path with a value for each wildcard."""
        rest = iter(values)
        return "".join(f"/{next(rest) if isinstance(each, Wildcard) else each}" for each in self.segments) + self.verb


def parse(text: str) -> Template:
    """Parses a template. Raises `Unusable`."""
    at, segments, variables = 0, list[str | Wildcard](), dict[str, str]()
    while match := _SEGMENT.match(text, at):
        at = match.end()
        name = match["field"]
        if name in variables:
            raise Unusable(f"the path binds {name} twice", found=text, allowed="each field once")
        pattern = match["plain"] or match["pattern"] or "*"
        if name:
            variables[name] = pattern
        segments += [Wildcard(each, name or "") if each in {"*", "**"} else each for each in pattern.split("/")]
    verb = text[at:]
    if at == 0 or (verb and not _VERB.fullmatch(verb)):
        raise Unusable("the path cannot be read", found=text, allowed="a path such as /v1/accounts/{account}")
    return Template(text, tuple(segments), verb, variables)

"""All that is wrong in some files, as it is found; where in the text it stands is looked up once, at the end."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Final

from sidestep.errors import Problem, printable
from sidestep.spec.documents import field_name, shortened, shown

if TYPE_CHECKING:
    from sidestep.spec.base import Finding
    from sidestep.spec.documents import Document
    from sidestep.spec.positions import Position

_LINE_BREAK: Final = re.compile("\r\n|[\n\r\x85\u2028\u2029]")
"""As YAML counts lines."""
_NUMBER: Final = re.compile(r"(?:&\S+ +)?([-+.0-9][-+.0-9a-zA-Z]*)")
"""Behind an anchor, perhaps."""


class Report:
    """What was found so far."""

    def __init__(self) -> None:
        self._found: dict[str, list[tuple[Document, Finding]]] = defaultdict(list)
        self._elsewhere: list[Problem] = []

    def add(self, document: Document, *findings: Finding) -> None:
        """Takes what is wrong in a document; its paths begin there."""
        self._found[document.file] += [(document, finding) for finding in findings]

    def take(self, problems: Iterable[Problem]) -> None:
        """Takes what is known to stand somewhere else: in a file that is no YAML, in a file that a document names."""
        self._elsewhere += problems

    def problems(self) -> list[Problem]:
        """All of it. Each file is gone through once, however much is wrong in it."""
        return [*self._elsewhere, *(problem for found in self._found.values() for problem in _placed(found))]


def _placed(found: list[tuple[Document, Finding]]) -> list[Problem]:
    if not found:
        return []
    from sidestep.spec.positions import positions  # only where something is wrong

    text = found[0][0].text
    where = positions(text, [(document.index, *finding.path) for document, finding in found])
    lines = _LINE_BREAK.split(text)
    return [_problem(document, finding, where[document.index, *finding.path], lines) for document, finding in found]


def _problem(document: Document, finding: Finding, position: Position, lines: Sequence[str]) -> Problem:
    path, *words, is_of_key = finding
    message, found, allowed = map(printable, words)
    place, value = position.key if is_of_key else position.value, document.at(path)
    if type(value) in {int, float} and found == shown(value):
        line, column = place
        written = _NUMBER.match(lines[line - 1], column - 1)
        found = shortened(written[1]) if written else found
    return Problem(document.file, *place, field_name(path), found, allowed, message)

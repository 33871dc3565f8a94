"""YAML text to plain values, safely and fast.

Values are built from PyYAML's C event stream, without recursion, so neither depth nor aliases can exhaust the machine.
Scalars follow YAML 1.2's core schema: ``on`` and ``no`` are strings, ``010`` is ten.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import yaml
from yaml.events import (
    AliasEvent,
    CollectionEndEvent,
    CollectionStartEvent,
    DocumentEndEvent,
    MappingStartEvent,
    ScalarEvent,
)

from sidestep.errors import Problem, printable

if TYPE_CHECKING:
    from collections.abc import Iterator


class Refused:
    """What stands in a value for something that is no usable YAML, and reported: nothing else is to be said of it."""


Value: TypeAlias = "dict[str, Value] | list[Value] | str | int | float | bool | Refused | None"
Path: TypeAlias = tuple[str | int, ...]

MAX_BYTES: Final = 32 * 1024 * 1024
"""A file larger than this is refused unread; 50,000 services take about 10 MB."""
MAX_DEPTH: Final = 32
MAX_PROBLEMS: Final = 1000
"""What a file may have that is no usable YAML until the rest of it is left unread."""
MAX_DOCUMENTS: Final = 20_000
MAX_ALIASED: Final = 100_000
"""How many values aliases may add to those that are written down, over the whole file."""

_SYNTAX: Final[dict[str, str]] = {
    "cannot start any token": "spaces to indent, no tabs; a text that begins with @, ` or % in quotes",
    "mapping values are not allowed": "KEY: VALUE, indented like its neighbours; a text with ': ' in it in quotes",
    "expected <block end>": "KEY: VALUE, indented like its neighbours",
    "did not find expected key": "KEY: VALUE, indented like its neighbours",
    "could not find expected ':'": "KEY: VALUE, with a space after the colon",
}
"""What to do about some of what the YAML parser says."""
MERGE: Final = "<<"
"""The key whose mappings YAML 1.1 adds to those around it; here it is refused, and what they hold is not known."""
REFUSED: Final = Refused()
_Loader: Final = yaml.CSafeLoader if hasattr(yaml, "CSafeLoader") else yaml.SafeLoader
_INTEGER = re.compile(r"[-+]?[0-9]{1,18}|0x[0-9a-fA-F]{1,15}|0o[0-7]{1,20}")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]{1,3})?")
_CONSTANTS: Final[dict[str, bool | None]] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}


@dataclass(frozen=True)
class Document:
    """One YAML document."""

    file: str
    text: str
    """The whole file."""
    index: int
    """0-based place among the documents of the file."""
    line: int
    """1-based line that it begins on."""
    value: Value

    def at(self, path: Path) -> Value:
        """What is written where ``path`` leads; None where nothing is."""
        value = self.value
        for step in path:
            if isinstance(value, dict) and isinstance(step, str):
                value = value.get(step)
            elif isinstance(value, list) and isinstance(step, int) and step < len(value):
                value = value[step]
            else:
                return None
        return value


class _Unusable(Exception):
    """The text is no usable YAML; carries the problem."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem


def read(file: str, content: bytes) -> tuple[list[Document], list[Problem]]:
    """The documents of a file that are not empty, as far as it can be read, and what keeps the rest from being read."""
    documents: list[Document] = []
    builder = _Builder(file)
    try:
        text = _decode(file, content)
        for index, (line, value) in enumerate(_values(builder, file, text)):
            documents.append(Document(file, text, index, line, value))
    except _Unusable as unusable:
        builder.problems.append(unusable.problem)
    filled = [document for document in documents if document.value is not None]
    if not filled and not builder.problems:
        allowed = "documents of kind Mesh and Workload"
        builder.problems.append(Problem(file, 0, 0, "", "no document", allowed, "the file is empty"))
    return filled, builder.problems


def events(text: str) -> Iterator[yaml.Event]:
    """The YAML events of a text. `yaml.parse` says the same with two more calls for each."""
    return iter(_Loader(text).get_event, None)


def field_name(path: Path) -> str:
    """``("spec", "egress", 0, "port")`` as people write it: ``spec.egress[0].port``."""
    name = ""
    for step in path:
        name += f"[{step}]" if isinstance(step, int) else f".{shortened(step)}" if name else shortened(step)
    return name


def shown(value: object) -> str:
    """A value as it may stand in a message: short, on one line, with control characters escaped."""
    if isinstance(value, dict):
        return "a mapping" if value else "an empty mapping"
    if isinstance(value, list):
        return "a list" if value else "an empty list"
    if value is None:
        return "nothing"
    text = {True: "true", False: "false"}.get(value) if isinstance(value, bool) else None
    text = text or (repr(value) if isinstance(value, (int, float)) else '"' + printable(str(value)[:100]) + '"')
    return text if len(text) <= 80 else text[:60] + f"… ({len(str(value))} characters)"


def shortened(text: str) -> str:
    """The text as it may stand in a message: of a long one, the beginning."""
    return printable(text if len(text) <= 100 else f"{text[:100]}…")


def _decode(file: str, content: bytes) -> str:
    if len(content) > MAX_BYTES:
        raise _Unusable(Problem(file, 0, 0, "", "more", f"at most {MAX_BYTES:,} bytes", "the file is too large"))
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        found = f"byte 0x{content[error.start]:02x} at offset {error.start}"
        raise _Unusable(Problem(file, 0, 0, "", found, "UTF-8 text", "the file is not text")) from None


def _values(builder: _Builder, file: str, text: str) -> Iterator[tuple[int, Value]]:
    try:
        yield from _not_too_many(file, builder.documents(events(text)))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line, column = (mark.line + 1, mark.column + 1) if mark else (0, 0)
        message = " ".join(part for part in (error.context, error.problem) if part)
        allowed = next((allowed for words, allowed in _SYNTAX.items() if words in message), "")
        raise _Unusable(Problem(file, line, column, "", "", allowed, f"not valid YAML: {message}")) from None
    except yaml.reader.ReaderError as error:
        raise _Unusable(_unreadable(file, text, error)) from None


def _not_too_many(file: str, documents: Iterator[tuple[int, Value]]) -> Iterator[tuple[int, Value]]:
    for index, (line, value) in enumerate(documents):
        if index == MAX_DOCUMENTS:
            allowed = f"{MAX_DOCUMENTS:,} documents"
            raise _Unusable(Problem(file, line, 1, "", "more", allowed, "there are too many documents"))
        yield line, value


def _unreadable(file: str, text: str, error: yaml.reader.ReaderError) -> Problem:
    character = re.search(r"[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", text)
    if character is None:
        return Problem(file, 0, 0, "", "", "", f"not valid YAML: {error.reason}")
    line = text.count("\n", 0, character.start()) + 1
    column = character.start() - text.rfind("\n", 0, character.start())
    found = f"control character {printable(character[0])}"
    return Problem(file, line, column, "", found, "printable text", "not valid YAML")


class _Builder:
    """Builds values from events with a stack of its own."""

    def __init__(self, file: str) -> None:
        self.problems: list[Problem] = []
        """What was refused without ending the reading."""
        self._file = file
        self._refused: list[tuple[Any, str | int]] = []
        """Lists and mappings, each with where in it something stands that was refused."""
        self._anchors: dict[str, tuple[Value, int] | None] = {}
        """By name: the value and its size, or None while it is being built."""
        self._line = 1
        """That the document begins on."""
        self._count = 0
        self._aliased = 0

    def documents(self, events: Iterator[yaml.Event]) -> Iterator[tuple[int, Value]]:
        """Yields each document's line and value.

        The innermost open container and the key that waits for its value are locals: this loop sees a million
        events for 50,000 services.
        """
        container: dict[str, Value] | list[Value] | None = None
        key: str | None = None
        opened: list[tuple[dict[str, Value] | list[Value] | None, str | None, str | None, int]] = []
        value: Value = None
        for event in events:
            if isinstance(event, ScalarEvent):
                if isinstance(container, dict) and key is None:
                    key = self._key(event, container)
                    continue
                value = self._scalar(event)
                self._remember(event.anchor, value, 1)
            elif isinstance(event, CollectionStartEvent):
                self._enter(event, container, key, len(opened))
                opened.append((container, key, event.anchor, self._count))
                container, key = ({} if isinstance(event, MappingStartEvent) else []), None
                continue
            elif isinstance(event, CollectionEndEvent):
                value = container
                container, key, anchor, before = opened.pop()
                self._remember(anchor, value, self._count - before + 1)
            elif isinstance(event, AliasEvent):
                value = self._alias(event, container, key)
            elif isinstance(event, DocumentEndEvent):  # with what came last, for a document is one value
                self._finish()
                yield self._line, value
                continue
            else:
                continue
            self._count += 1
            if isinstance(container, list):
                container.append(value)
            elif container is not None and key is not None:
                container[key], key = value, None

    def _finish(self) -> None:
        """Ends a document."""
        for container, place in self._refused:
            container[place] = REFUSED
        self._refused.clear()
        self._anchors.clear()

    def _remember(self, anchor: str | None, value: Value, size: int) -> None:
        if anchor is not None:
            self._anchors[anchor] = (value, size)

    def _enter(self, event: CollectionStartEvent, container: object, key: str | None, depth: int) -> None:
        if event.tag is not None:
            self._refuse_tag(event)
            if isinstance(container, list) or key is not None:
                self._refused.append((container, len(container) if isinstance(container, list) else str(key)))
        if not depth and event.start_mark:
            self._line = event.start_mark.line + 1
        if event.anchor is not None:
            self._anchors[event.anchor] = None
        if isinstance(container, dict) and key is None:
            raise self._unusable(event, "a key must be text", "a list or mapping", "text")
        if depth >= MAX_DEPTH:
            raise self._unusable(event, "nested too deeply", f"more than {MAX_DEPTH} levels", f"{MAX_DEPTH} levels")

    def _refuse_tag(self, event: ScalarEvent | CollectionStartEvent) -> None:
        self._refuse(event, "YAML tags have no meaning here", shown(event.tag), "values without a tag")

    def _key(self, event: ScalarEvent, container: dict[str, Value]) -> str:
        key: str = event.value
        if event.tag is not None or event.anchor is not None:
            self._refuse(event, "a key has neither anchor nor tag", shown(key), "the key alone")
        if key == MERGE and not event.style:
            self._refuse(event, "YAML merge keys have no meaning here", MERGE, "the keys themselves")
            self._refused.append((container, key))
        elif key in container:
            self._refuse(event, f"the key {shown(key)} stands twice in one mapping", shown(key), "each key once")
            self._refused.append((container, key))
        return key

    def _alias(self, event: AliasEvent, container: object, key: str | None) -> Value:
        if isinstance(container, dict) and key is None:
            raise self._unusable(event, "a key must be text", f"the alias *{event.anchor}", "text")
        anchored = self._anchors.get(event.anchor or "")
        if anchored is None:
            self._refuse(event, "the alias points to nothing", f"*{event.anchor}", "an anchor that ends before it")
            return REFUSED
        value, size = anchored
        self._aliased += size
        self._count += size - 1
        if self._aliased > MAX_ALIASED:
            raise self._unusable(event, "aliases expand to too much", f"over {MAX_ALIASED:,} values", "fewer aliases")
        return value

    def _scalar(self, event: ScalarEvent) -> Value:
        if event.tag is not None:
            self._refuse_tag(event)
            return REFUSED
        text: str = event.value
        return text if event.style or (text[:1].isalpha() and text not in _CONSTANTS) else _plain(text)

    def _refuse(self, event: yaml.Event, message: str, found: str, allowed: str) -> None:
        self.problems.append(self._unusable(event, message, found, allowed).problem)
        if len(self.problems) >= MAX_PROBLEMS:
            raise self._unusable(
                event, "there is too much that is no usable YAML", "more", f"{MAX_PROBLEMS:,} problems"
            )

    def _unusable(self, event: yaml.Event, message: str, found: str, allowed: str) -> _Unusable:
        mark = event.start_mark
        line, column = (mark.line + 1, mark.column + 1) if mark else (0, 0)
        return _Unusable(Problem(self._file, line, column, "", found, allowed, message))


def _plain(text: str) -> Value:
    if text in _CONSTANTS:
        return _CONSTANTS[text]
    if _INTEGER.fullmatch(text):
        return int(text, 0 if text[:2] in {"0x", "0o"} else 10)
    if _FLOAT.fullmatch(text):
        return float(text)
    return text

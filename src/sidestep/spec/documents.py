"""YAML text to plain values, safely and fast, with the position of every value to be had when one is wrong.

Values are built from PyYAML's C event stream, without recursion, so neither depth nor aliases can exhaust the machine.
Scalars follow YAML 1.2's core schema: ``on`` and ``no`` are strings, ``010`` is ten. Positions are looked up only for
what is reported: a document without problems never pays for them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Final, TypeAlias

import yaml
from yaml.events import AliasEvent, CollectionEndEvent, CollectionStartEvent, MappingStartEvent, ScalarEvent

from sidestep.errors import Problem

if TYPE_CHECKING:
    from collections.abc import Iterator

Value: TypeAlias = "dict[str, Value] | list[Value] | str | int | float | bool | None"
Path: TypeAlias = tuple[str | int, ...]

MAX_BYTES: Final = 32 * 1024 * 1024
"""A file larger than this is refused unread; 50,000 services take about 10 MB."""
MAX_DEPTH: Final = 32
MAX_ALIASED: Final = 100_000
"""How many values aliases may add to those that are written down, over the whole file."""

_Loader = yaml.CSafeLoader if hasattr(yaml, "CSafeLoader") else yaml.SafeLoader
_INTEGER = re.compile(r"[-+]?[0-9]{1,18}|0x[0-9a-fA-F]{1,15}|0o[0-7]{1,20}")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]{1,3})?")
_CONSTANTS: Final[dict[str, bool | None]] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}


@dataclass(frozen=True)
class Document:
    """One YAML document: its value, and how to find the position of anything inside it."""

    file: str
    text: str
    index: int
    """0-based place among the documents of the file."""
    value: Value

    def problem(self, path: Path, message: str, *, found: str = "", allowed: str = "") -> Problem:
        """A `Problem` at the value that ``path`` leads to, or at the nearest value around it that is there."""
        line, column = self._position(path)
        return Problem(self.file, line, column, field_name(path), found, allowed, message)

    def _position(self, path: Path) -> tuple[int, int]:
        node = _composed(self.text)[self.index]
        mark = node.start_mark
        for step in path:
            child = _child(node, step)
            if child is None:
                break
            node, mark = child
        return mark.line + 1, mark.column + 1


class _Unusable(Exception):
    """The text is no usable YAML; carries the problem."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem


def read(file: str, content: bytes) -> tuple[list[Document], list[Problem]]:
    """The documents of a file that are not empty, or the one problem that keeps the file from being read."""
    try:
        text = _decode(file, content)
        documents = [Document(file, text, index, value) for index, value in enumerate(_values(file, text))]
    except _Unusable as unusable:
        return [], [unusable.problem]
    filled = [document for document in documents if document.value is not None]
    if not filled:
        return [], [Problem(file, 0, 0, "", "no document", "documents of kind Mesh and Workload", "the file is empty")]
    return filled, []


def field_name(path: Path) -> str:
    """``("spec", "egress", 0, "port")`` as people write it: ``spec.egress[0].port``."""
    name = ""
    for step in path:
        name += f"[{step}]" if isinstance(step, int) else f".{_shortened(step)}" if name else _shortened(step)
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


def printable(text: str) -> str:
    """The text with control characters escaped, so that it stays on its line."""
    return text if text.isprintable() else "".join(c if c.isprintable() else _escape(c) for c in text)


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode()


def _shortened(key: str) -> str:
    return printable(key if len(key) <= 100 else f"{key[:100]}…")


def _decode(file: str, content: bytes) -> str:
    if len(content) > MAX_BYTES:
        raise _Unusable(Problem(file, 0, 0, "", "more", f"at most {MAX_BYTES:,} bytes", "the file is too large"))
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        found = f"byte 0x{content[error.start]:02x} at offset {error.start}"
        raise _Unusable(Problem(file, 0, 0, "", found, "UTF-8 text", "the file is not text")) from None


def _values(file: str, text: str) -> Iterator[Value]:
    try:
        yield from _Builder(file).documents(iter(_Loader(text).get_event, None))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line, column = (mark.line + 1, mark.column + 1) if mark else (0, 0)
        message = " ".join(part for part in (error.context, error.problem) if part)
        raise _Unusable(Problem(file, line, column, "", "", "", f"not valid YAML: {message}")) from None
    except yaml.reader.ReaderError as error:
        raise _Unusable(_unreadable(file, text, error)) from None


def _unreadable(file: str, text: str, error: yaml.reader.ReaderError) -> Problem:
    character = re.search(r"[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", text)
    if character is None:
        return Problem(file, 0, 0, "", "", "", f"not valid YAML: {error.reason}")
    line = text.count("\n", 0, character.start()) + 1
    column = character.start() - text.rfind("\n", 0, character.start())
    found = f"control character {_escape(character[0])}"
    return Problem(file, line, column, "", found, "printable text", "not valid YAML")


class _Builder:
    """Builds values from events with a stack of its own."""

    def __init__(self, file: str) -> None:
        self._file = file
        self._anchors: dict[str, tuple[Value, int] | None] = {}
        """By name: the value and its size, or None while it is being built."""
        self._count = 0
        self._aliased = 0

    def documents(self, events: Iterator[yaml.Event]) -> Iterator[Value]:
        """Yields each document's value.

        The innermost open container and the key that waits for its value are locals: this loop sees a million
        events for 50,000 services.
        """
        container: dict[str, Value] | list[Value] | None = None
        key: str | None = None
        opened: list[tuple[dict[str, Value] | list[Value] | None, str | None, str | None, int]] = []
        value: Value
        for event in events:
            if isinstance(event, ScalarEvent):
                if isinstance(container, dict) and key is None:
                    key = self._key(event, container)
                    continue
                value = self._scalar(event)
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
            else:
                continue
            self._count += 1
            if container is None:
                yield value
                self._anchors.clear()
            elif isinstance(container, list):
                container.append(value)
            elif key is not None:
                container[key], key = value, None

    def _anchor(self, event: ScalarEvent | CollectionStartEvent) -> None:
        """Notes that an anchor is set. YAML allows it to be set anew; PyYAML then finds no positions."""
        name = str(event.anchor)
        if name in self._anchors:
            raise self._unusable(event, "the anchor stands twice in one document", f"&{name}", "each once")
        self._anchors[name] = None

    def _remember(self, anchor: str | None, value: Value, size: int) -> None:
        if anchor is not None:
            self._anchors[anchor] = (value, size)

    def _enter(self, event: CollectionStartEvent, container: object, key: str | None, depth: int) -> None:
        self._no_tag(event)
        if event.anchor is not None:
            self._anchor(event)
        if isinstance(container, dict) and key is None:
            raise self._unusable(event, "a key must be text", "a list or mapping", "text")
        if depth >= MAX_DEPTH:
            raise self._unusable(event, "nested too deeply", f"more than {MAX_DEPTH} levels", f"{MAX_DEPTH} levels")

    def _no_tag(self, event: ScalarEvent | CollectionStartEvent) -> None:
        if event.tag is not None:
            raise self._unusable(event, "YAML tags have no meaning here", shown(event.tag), "values without a tag")

    def _key(self, event: ScalarEvent, container: dict[str, Value]) -> str:
        key: str = event.value
        if event.tag is not None or event.anchor is not None:
            raise self._unusable(event, "a key has neither anchor nor tag", shown(key), "the key alone")
        if key == "<<" and not event.style:
            raise self._unusable(event, "YAML merge keys have no meaning here", "<<", "the keys themselves")
        if key in container:
            raise self._unusable(
                event, f"the key {shown(key)} stands twice in one mapping", shown(key), "each key once"
            )
        return key

    def _alias(self, event: AliasEvent, container: object, key: str | None) -> Value:
        if isinstance(container, dict) and key is None:
            raise self._unusable(event, "a key must be text", f"the alias *{event.anchor}", "text")
        anchored = self._anchors.get(event.anchor or "")
        if anchored is None:
            allowed = "an anchor that ends before it"
            raise self._unusable(event, "the alias points to nothing", f"*{event.anchor}", allowed)
        value, size = anchored
        self._aliased += size
        self._count += size - 1
        if self._aliased > MAX_ALIASED:
            raise self._unusable(event, "aliases expand to too much", f"over {MAX_ALIASED:,} values", "fewer aliases")
        return value

    def _scalar(self, event: ScalarEvent) -> Value:
        if event.tag is not None:
            self._no_tag(event)
        text: str = event.value
        value = text if event.style or (text[:1].isalpha() and text not in _CONSTANTS) else _plain(text)
        if event.anchor is not None:
            self._anchor(event)
            self._remember(event.anchor, value, 1)
        return value

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


def _child(node: yaml.Node, step: str | int) -> tuple[yaml.Node, yaml.Mark] | None:
    if isinstance(node, yaml.SequenceNode) and isinstance(step, int) and step < len(node.value):
        return node.value[step], node.value[step].start_mark
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if key.value == step:
                return value, (value.start_mark if isinstance(value, yaml.ScalarNode) else key.start_mark)
    return None


@lru_cache(maxsize=2)
def _composed(text: str) -> list[yaml.Node]:
    """The node graph with positions. Safe to compose: the builder has bounded the depth before anything gets here."""
    return list(yaml.compose_all(text, Loader=_Loader))

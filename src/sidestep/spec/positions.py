"""Where values stand in YAML text: found in one pass over its events, for all that are asked for, and never kept.

A node graph of 50,000 services takes ten times the memory of their values, and as long as everything else together.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import yaml

from sidestep.spec.documents import events

if TYPE_CHECKING:
    from sidestep.spec.documents import Path

Place: TypeAlias = tuple[int, int]
"""Line and column, 1-based."""


class Position(NamedTuple):
    """Where a value stands, and where its key does."""

    value: Place
    """Of a list or mapping under a key, the key's."""
    key: Place
    """The value's, where it has none: an item of a list, a document."""


@dataclass
class _Wanted:
    """A value whose position is asked for, or that of something in it."""

    position: Position | None = None
    inner: dict[str | int, _Wanted] = field(default_factory=dict)


@dataclass
class _Open:
    """A list or mapping that is being read, because something in it is asked for."""

    wanted: _Wanted
    step: str | int | None
    """Where in it the next value stands; None in a mapping whose next key is still to come."""
    key: Place | None = None

    def note(self, place: Place) -> _Wanted | None:
        """Takes ``place`` for that of the next value, where that is wanted."""
        wanted = self.wanted.inner.get(self.step) if self.step is not None else None
        if wanted:
            wanted.position = Position(place, self.key or place)
        return wanted


def positions(text: str, paths: Iterable[Path]) -> Mapping[Path, Position]:
    """Where each value stands in the documents of ``text``; a path begins with the 0-based number of its document.

    Where it is not there, that is where the nearest value around it stands, or the alias for what holds it.
    """
    root = _Wanted(Position((1, 1), (1, 1)))
    paths = list(paths)
    for path in paths:
        node = root
        for step in path:
            node = node.inner.setdefault(step, _Wanted())
    last = max(number for number in root.inner if isinstance(number, int))
    _follow(events(text), root, last)
    return {path: _nearest(root, path) for path in paths}


def _nearest(node: _Wanted, path: Path) -> Position:
    position = node.position
    for step in path:
        node = node.inner[step]
        position = node.position or position
    assert position is not None
    return position


def _follow(stream: Iterator[yaml.Event], root: _Wanted, last: int) -> None:
    """Notes the place of what is wanted, until document ``last`` ends. The stream is taken for a list of documents."""
    within, around = _Open(root, 0), list[_Open]()
    for event in stream:
        assert event.start_mark is not None
        place = (event.start_mark.line + 1, event.start_mark.column + 1)
        if isinstance(event, yaml.CollectionStartEvent):
            wanted = within.note(within.key or place)
            if wanted and wanted.inner:
                around.append(within)
                within = _Open(wanted, None if isinstance(event, yaml.MappingStartEvent) else 0)
                continue
            _skip(stream)
        elif isinstance(event, yaml.ScalarEvent) and within.step is None:
            within.step, within.key = event.value, place
            continue
        elif isinstance(event, (yaml.ScalarEvent, yaml.AliasEvent)):
            within.note(place)
        elif isinstance(event, yaml.CollectionEndEvent):
            within = around.pop()
        else:
            continue
        if not around and within.step == last:
            return
        within.step = within.step + 1 if isinstance(within.step, int) else None


def _skip(stream: Iterator[yaml.Event]) -> None:
    """Passes the rest of a list or mapping."""
    depth = 1
    while depth:
        event = next(stream)
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1

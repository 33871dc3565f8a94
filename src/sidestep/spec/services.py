"""The services of one mesh, to be found by any beginning of their name that is unambiguous."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from functools import cached_property
from typing import TYPE_CHECKING, Final
from unicodedata import normalize

if TYPE_CHECKING:
    from sidestep.spec.documents import Value
    from sidestep.spec.model import Service

_COMPARISONS: Final = 50_000
"""Of names with hosts, in all: about a second."""
_LONGEST_HOST: Final = 253


class Services:
    """Every service whose host is known."""

    def __init__(self, services: Iterable[Service], refused: Iterable[Value] = ()) -> None:
        """``refused`` is what stands where hosts should, and was not taken."""
        self._by_host: dict[str, Service] = {}
        self._compared = 0
        self._refused = {name for host in refused for name in _names(_readable(host)[:_LONGEST_HOST])}
        for service in services:
            if service.knows("host"):
                self._by_host.setdefault(service.host, service)  # one listed twice is reported
        self._hosts = sorted(self._by_host)

    def matching(self, name: str) -> Sequence[Service]:
        """The services that ``name`` can mean: the one with exactly that host, else all whose host begins with it."""
        exact = self._by_host.get(name)
        if exact:
            return [exact]
        first, last = (bisect_left(self._hosts, f"{name}{end}") for end in "./")  # no character is between those two
        return [self._by_host[host] for host in self._hosts[first:last]]

    def might_match(self, name: str) -> bool:
        """Whether ``name`` may mean a service whose host was refused: one that reads the same, or cannot be read."""
        return "" in self._refused or _readable(name) in self._refused

    def like(self, name: str) -> list[str]:
        """Hosts to suggest for a name that means nothing: like it, as long as comparing takes no time to speak of."""
        if self._compared > _COMPARISONS:
            return self._hosts[:3]
        likely = dict.fromkeys(host for label in _labels(name) for host in self._labelled.get(label, ()))
        candidates = list(likely) or self._hosts
        close: list[str] = []
        self._compared += len(candidates)
        if self._compared <= _COMPARISONS:
            count = name.count(".") + 1
            short: dict[str, list[str]] = defaultdict(list)
            for host in candidates:
                short[".".join(host.split(".", count)[:count])].append(host)
            close = [host for each in get_close_matches(name, short) for host in short[each]]
        return (close or sorted(candidates))[:3]

    @cached_property
    def _labelled(self) -> Mapping[str, list[str]]:
        """Hosts by each of their `_labels`."""
        labelled = defaultdict(list)
        for host in self._by_host:
            for label in _labels(host):
                labelled[label].append(host)
        return labelled


def _labels(host: str) -> list[str]:
    """The first label; and a dot and the second, where there is one, which is mostly the namespace."""
    first, dot, rest = host.partition(".")
    return [first, *([f".{rest.partition('.')[0]}"] if dot else [])]


def _readable(host: Value) -> str:
    """What is left of a host that somebody may have meant; nothing where that cannot be told."""
    if not isinstance(host, str) or "*" in host:
        return ""
    text = normalize("NFKD", host.casefold()).rpartition("://")[2]
    return re.sub(r":[0-9]+$|[^a-z0-9.]", "", text).strip(".")


def _names(host: str) -> Iterator[str]:
    """Every name that means a host: itself, and what it begins with up to a dot."""
    labels = host.split(".")
    return (".".join(labels[:count]) for count in range(1, len(labels) + 1))

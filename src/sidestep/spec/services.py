"""The services of one mesh, to be found by any beginning of their name that is unambiguous."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from difflib import get_close_matches
from itertools import islice
from typing import TYPE_CHECKING, Final
from unicodedata import normalize

if TYPE_CHECKING:
    from sidestep.spec.documents import Value
    from sidestep.spec.model import Service

_COMPARISONS: Final = 200_000


class Services:
    """Every service whose host is known."""

    def __init__(self, services: Iterable[Service], refused: Iterable[Value] = ()) -> None:
        """``refused`` is what stands where hosts should, and was not taken."""
        self._by_prefix: dict[str, list[Service]] = defaultdict(list)
        self._by_host: dict[str, Service] = {}
        self._compared = 0
        self._refused = {name for host in refused for name in _names(_readable(host))}
        for service in services:
            host = service.host if service.knows("host") else ""
            if not host or self._by_host.setdefault(host, service) is not service:
                continue  # refused, or listed twice, which is reported
            at = host.find(".")
            while at > 0:
                self._by_prefix[host[:at]].append(service)
                at = host.find(".", at + 1)

    def matching(self, name: str) -> Sequence[Service]:
        """The services that ``name`` can mean: the one with exactly that host, else all whose host begins with it."""
        exact = self._by_host.get(name)
        return [exact] if exact else self._by_prefix.get(name, [])

    def might_match(self, name: str) -> bool:
        """Whether ``name`` may mean a service whose host was refused: one that reads the same, or cannot be read."""
        return name in self._refused or "" in self._refused or not self._by_host

    def like(self, name: str) -> list[str]:
        """Hosts to suggest for a name that means nothing: like it, as long as comparing takes no time to speak of."""
        self._compared += len(self._by_host)
        close = get_close_matches(name, self._by_host, 3, 0.4) if self._compared <= _COMPARISONS else []
        return close or sorted(islice(self._by_host, 3))


def _readable(host: Value) -> str:
    """The host that somebody may have meant by one that was refused; nothing where that cannot be told."""
    if not isinstance(host, str) or "*" in host:
        return ""
    text = normalize("NFKD", host.casefold()).rpartition("://")[2]
    return re.sub(r":[0-9]+$|[^a-z0-9.-]", "", text).strip(".")


def _names(host: str) -> Iterator[str]:
    """Every name that means a host: itself, and what it begins with up to a dot."""
    labels = host.split(".")
    return (".".join(labels[:count]) for count in range(1, len(labels) + 1))

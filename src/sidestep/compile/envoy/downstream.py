"""The other end of connections that a listener for calls to the mesh takes: local applications, unless it is said."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, TypeAlias

if TYPE_CHECKING:
    from sidestep.compile.envoy.resources import Json, Resource
    from sidestep.spec import LocalAddress


@dataclass(frozen=True)
class Downstream:
    """Who is at the other end, as far as filters must know it."""

    logged: Mapping[str, str] = field(default_factory=dict)
    """What the access log says of a client, beside its address."""
    filters: Sequence[Json] = ()
    """HTTP filters that every request passes first."""
    tunnelled: Sequence[Json] = ()
    """HTTP filters that a request for a tunnel passes after those."""
    settings: Mapping[str, Json] = field(default_factory=dict)
    """Of the HTTP connection manager."""
    replies: Sequence[Json] = ()
    """How Envoy's own answers differ."""


LOCAL: Final = Downstream()
Filter: TypeAlias = Callable[[Downstream], "Resource"]
"""Makes the network filter of a listener, for who is at the other end."""


class FilterChains:
    """The filter chains of listeners for calls to the mesh: who may connect. Here: whoever can reach them."""

    within_tunnels: Downstream = LOCAL
    """Who speaks through a tunnel that somebody else has opened."""

    def around(self, listen: LocalAddress, make: Filter, *, http: bool, is_proxy: bool = False) -> Resource:  # noqa: ARG002
        """The fields of a listener that say who may connect; ``make`` makes its network filter.

        ``http`` says whether that reads requests, ``is_proxy`` whether it is the proxy's, which may ask for passwords.
        """
        return {"filter_chains": [{"filters": [make(LOCAL)]}]}

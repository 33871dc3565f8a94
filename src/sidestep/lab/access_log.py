"""Reads an Envoy's access log: who called whom, through which filter chain, as which principal, and what came of it."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

_POLL_SECONDS = 0.01


@dataclass(frozen=True)
class Entry:
    """One line: a request, a TCP connection, or a connection as the listener saw it."""

    fields: Mapping[str, str | int | None]

    @property
    def kind(self) -> str:
        """``http``, ``tcp``, or ``connection`` for what the listener itself logs, failed handshakes among it."""
        if self._text("access_log_type").startswith("Tcp"):
            return "tcp"
        return "http" if self._text("method") else "connection"

    @property
    def principal(self) -> str:
        """The SPIFFE ID in the caller's certificate; empty where none was accepted."""
        return self._text("downstream_peer_uri_san")

    @property
    def sni(self) -> str:
        """The server name that the caller asked for."""
        return self._text("requested_server_name")

    @property
    def cluster(self) -> str:
        """Where it was sent."""
        return self._text("upstream_cluster")

    @property
    def chain(self) -> str:
        """The name of the filter chain that took it."""
        return self._text("filter_chain_name")

    @property
    def port(self) -> int:
        """The Service's port whose filter chain took it; 0 where none did. Istiod ends the chain's name with it."""
        _, _, port = self.chain.rpartition("_")
        return int(port) if port.isdigit() else 0

    @property
    def status(self) -> int:
        """The HTTP status; 0 where there is none."""
        return int(self._text("response_code") or 0)

    @property
    def refusal(self) -> str:
        """Why it was refused, in Envoy's words; empty where it was not."""
        if "NR" in self._text("response_flags"):
            return "no filter chain matches its SNI and ALPN"
        for details in ("connection_termination_details", "response_code_details"):
            if self._text(details).startswith("rbac_access_denied"):
                return self._text(details)
        return self._text("downstream_transport_failure_reason") or self._text("upstream_transport_failure_reason")

    def _text(self, name: str) -> str:
        value = self.fields.get(name)
        return "" if value is None else str(value)


class AccessLog:
    """The access log of one Envoy. A mark is a place in it; whatever was logged after a mark can be read."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def mark(self) -> int:
        """The end of the log as it is now."""
        return self._path.stat().st_size if self._path.exists() else 0

    def since(self, mark: int) -> list[Entry]:
        """Everything logged after a mark, oldest first. Envoy writes a moment after the fact: see `wait`."""
        return self.read(mark)[0]

    def read(self, mark: int, most: int | None = None) -> tuple[list[Entry], int]:
        """What was logged after a mark, oldest first and at ``most`` so many, and the mark after that."""
        if not self._path.exists():
            return [], mark
        with self._path.open("rb") as log:
            log.seek(mark)
            written, end, _ = log.read().rpartition(b"\n")
        lines = (written + end).splitlines(keepends=True)[:most]
        return [Entry(json.loads(line)) for line in lines], mark + sum(map(len, lines))

    async def wait(self, mark: int, wanted: Callable[[Entry], bool], *, deadline: float = 5.0) -> Entry | None:
        """The first wanted entry after a mark, as soon as it is there; None when it does not come."""
        try:
            async with asyncio.timeout(deadline):
                while (found := next(filter(wanted, self.since(mark)), None)) is None:
                    await asyncio.sleep(_POLL_SECONDS)
                return found
        except TimeoutError:
            return None

"""Tells of the calls of the machine as they pass: what was called, by which gateway, as whom, and what came of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from sidestep.lab.access_log import AccessLog, Entry
from sidestep.lab.session import Lab

_POLL_SECONDS: Final = 0.1
_PATIENCE: Final = 1.0
"""Seconds until the sidecar has logged the same call."""
_MOST: Final = 5
"""Calls told of a poll; of the others their number."""


@dataclass(frozen=True)
class Seen:
    """A call, as the machine's Envoy and the destination's sidecar have logged it."""

    what: str
    service: str
    answer: str
    gateway: str
    """Address of the gateway that took it; empty where none did."""
    principal: str
    """Whom the sidecar took the machine for; empty where it never came so far."""
    denied: bool
    """Whether the sidecar's policy did not admit that principal."""


async def watch(lab: Lab) -> AsyncIterator[Seen | int]:
    """Every call from now on, for ever; a number stands for so many more at the same time."""
    logs = {host: [pod.sidecar.log for pod in pods] for host, pods in lab.mesh.replicas.items()}
    marks = _marks(logs)
    mark = lab.machine.log.mark()
    while True:
        entries, mark = lab.machine.log.read(mark)
        calls = [entry for entry in entries if _is_outbound(entry)]
        for entry in calls[:_MOST]:
            host = entry.cluster.rpartition("|")[2]
            told = None
            if host in logs and entry.fields.get("upstream_host"):
                told = await _told(logs[host], marks[host], str(lab.machine.spiffe_id))
            yield _seen(entry, told)
        if calls[_MOST:]:
            marks = _marks(logs)
            yield len(calls) - _MOST
        await asyncio.sleep(_POLL_SECONDS)


def _marks(logs: Mapping[str, Sequence[AccessLog]]) -> dict[str, list[int]]:
    return {host: [log.mark() for log in each] for host, each in logs.items()}


def _is_outbound(entry: Entry) -> bool:
    return entry.cluster.startswith(("outbound|", "outbound-upgrade|")) or (entry.kind == "http" and not entry.cluster)


async def _told(logs: Sequence[AccessLog], marks: list[int], principal: str) -> Entry | None:
    """What one of a service's sidecars has logged next of the machine; moves the marks to where that ends."""
    for _ in range(round(_PATIENCE / _POLL_SECONDS)):
        for number, log in enumerate(logs):
            while (found := log.read(marks[number], most=1))[0]:
                [entry], marks[number] = found
                if entry.principal == principal and entry.kind != "connection":
                    return entry
        await asyncio.sleep(_POLL_SECONDS)
    return None


def _seen(entry: Entry, told: Entry | None) -> Seen:
    fields, is_http = entry.fields, entry.kind == "http"
    status = str(entry.status) if entry.status else "no answer"
    count = f"{fields['bytes_received']} bytes sent, {fields['bytes_sent']} received"
    return Seen(
        what=f"{fields['method']} {fields['path']}" if is_http else "TCP",
        service=_service(entry.cluster) or str(fields.get("authority") or ""),
        answer=status if is_http else count,
        gateway=str(fields.get("upstream_host") or ""),
        principal=told.principal.removeprefix("spiffe://") if told else "",
        denied=bool(told and told.refusal.startswith("rbac_access_denied")),
    )


def _service(cluster: str) -> str:
    """``reviews.bookinfo:9080``, of ``outbound|9080||reviews.bookinfo.svc.cluster.local``."""
    _, port, _, host = cluster.split("|") if cluster else [""] * 4
    return f"{'.'.join(host.split('.')[:2])}:{port}" if host else ""

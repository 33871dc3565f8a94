"""Listen addresses that are taken twice, or by an application, among the workloads of each machine."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, TypeAlias

from sidestep.spec.base import Finding, Unknown
from sidestep.spec.clients import HEALTH
from sidestep.spec.proxy import PATH as PROXY
from sidestep.spec.scalars import UNSPECIFIED, Listen

if TYPE_CHECKING:
    from sidestep.spec.documents import Document, Path
    from sidestep.spec.model import Workload
    from sidestep.spec.resolve import Resolution
    from sidestep.spec.sockets import LocalAddress

Claim: TypeAlias = "tuple[Path, LocalAddress, str]"
"""Where in a document an address is taken, which one, and for what."""


def clashes(machines: Iterable[Sequence[tuple[Workload, Resolution]]]) -> Iterator[tuple[Document, Finding]]:
    """What clashes among the workloads of each machine, and in which of their documents."""
    for workloads in machines:
        taken: dict[Hashable, dict[str, str]] = defaultdict(dict)
        for number, (workload, resolution) in enumerate(workloads):
            for path, listen, purpose in _claims(workload, resolution):
                place, address = _place(listen, number)
                owners = taken[place]
                owner = _owner(owners, address)
                if owner:
                    yield resolution.document, _clash(path, listen, owner)
                else:
                    owners[address] = f"{_name(workload)} for {purpose}"
        for _, resolution in workloads:
            yield from ((resolution.document, found) for found in _applications_in_the_way(resolution, taken))


def _name(workload: Workload) -> str:
    try:
        return workload.metadata.name
    except Unknown:
        return "a workload"


def _applications_in_the_way(resolution: Resolution, taken: Mapping[Hashable, Mapping[str, str]]) -> Iterator[Finding]:
    for port, path in zip(resolution.ingress, resolution.ingress_paths, strict=True):
        application = port.application
        place, address = _place(application, 0)
        owner = _owner(taken.get(place, {}), address)
        if owner:
            message = f"Envoy itself listens there: {owner}"
            allowed = "another `application` address, or `listen` on another port"
            yield Finding((*path, "application"), message, str(application), allowed)


def _claims(workload: Workload, resolution: Resolution) -> Iterator[Claim]:
    """Every address that a workload listens on, as far as it is known."""
    for at, (port, path) in enumerate(zip(resolution.ports, resolution.paths, strict=True)):
        if port.listen and at not in resolution.unplaced:
            yield (*path, "listen"), port.listen, f"{port.service.host}:{port.number}"
    for served, path in zip(resolution.ingress, resolution.ingress_paths, strict=True):
        yield (*path, "listen"), served.listen, f"its own port {served.number}"
    yield from resolution.claims
    if not workload.knows("spec"):
        return
    for field, path, purpose in (("proxy", PROXY, "its proxy"), ("health", HEALTH, "its health endpoint")):
        part = getattr(workload.spec, field) if workload.spec.knows(field) else None
        if part and part.knows("listen"):
            yield path, part.listen, purpose


def _place(listen: LocalAddress, workload: int) -> tuple[Hashable, str]:
    """What two addresses must have in common to clash, and what tells them apart within that."""
    if isinstance(listen, Listen):
        return (":" in listen.address, listen.port), listen.address
    return (workload if listen.is_in_bundle else None), listen.path


def _owner(owners: Mapping[str, str], address: str) -> str | None:
    """Who keeps ``address`` from being bound: the same address, or either of the two standing for every address."""
    if not owners or address in owners:
        return owners.get(address)
    everywhere = next((owners[each] for each in UNSPECIFIED if each in owners), None)
    return everywhere or (next(iter(owners.values())) if address in UNSPECIFIED else None)


def _clash(path: Path, listen: LocalAddress, owner: str) -> Finding:
    allowed = "a `listen` address of its own, or another `machine` for one of two workloads"
    return Finding(path, f"already listened on by {owner}", str(listen), allowed)

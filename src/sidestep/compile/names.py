"""The names by which a caller inside the mesh may call a service.

As Kubernetes' search path and Istio have it (istio `pilot/pkg/networking/core/httproute.go`, GenerateAltVirtualHosts):
``reviews.bookinfo.svc.cluster.local`` is also ``reviews.bookinfo.svc`` and ``reviews.bookinfo``, and for a workload of
namespace ``bookinfo`` just ``reviews``. A host that is not in this form has no other name.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from sidestep.spec import Listen

if TYPE_CHECKING:
    from sidestep.spec import EgressPort, Machine, Service


def names(services: Iterable[Service], namespace: str) -> Mapping[str, Sequence[str]]:
    """The names of each service by its host, the host first, for a workload of ``namespace``.

    A short name that two services would share is nobody's, and a service's whole name is never another's short one.
    """
    short = {service.host: _short(service, namespace) for service in services}
    count = Counter(name for each in short.values() for name in each)
    return {
        host: [host, *(name for name in each if count[name] == 1 and name not in short)] for host, each in short.items()
    }


def _short(service: Service, namespace: str) -> list[str]:
    own = service.namespace
    if own is None:
        return []
    name = service.host.partition(".")[0]
    within = f"{name}.{own}"
    return [f"{within}.svc", within, *([name] if own == namespace else [])]


def local_names(machine: Machine) -> dict[str, list[str]]:
    """The names that may stand for a loopback address of the machine, shortest first, by address.

    Only services whose every port is on that address under its own number: a name says nothing of a port. What is
    listened on for other machines is named where those are, not here.
    """
    services = {port.service.host: port.service for port in machine.egress}
    known = names(services.values(), machine.workload.metadata.namespace)
    named: dict[str, list[str]] = {}
    for host, address in _addresses(machine).items():
        if address is not None:
            named.setdefault(address, []).extend(sorted(known[host], key=len))
    return named


def _addresses(machine: Machine) -> dict[str, str | None]:
    """Where each service listens on loopback under its own port numbers; None for one that does not, or not only."""
    addresses: dict[str, str | None] = {}
    for port in machine.egress:
        host, address = port.service.host, _own_address(port)
        addresses[host] = address if addresses.get(host, address) == address else None
    return addresses


def _own_address(port: EgressPort) -> str | None:
    listen = port.listen
    if isinstance(listen, Listen) and listen.is_loopback and listen.port == port.number:
        return listen.address
    return None

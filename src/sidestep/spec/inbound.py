"""A workload's ingress, resolved: every address decided, and what contradicts itself reported."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

from sidestep.spec.base import Finding, Unknown
from sidestep.spec.documents import shown
from sidestep.spec.principals import meet

if TYPE_CHECKING:
    from sidestep.spec.ingress import Ingress
    from sidestep.spec.scalars import Listen, Protocol

_PRIVILEGED: Final = 1024


class IngressPort(NamedTuple):
    """One port that the mesh may call, and where it leads."""

    spec: Ingress
    listen: Listen
    application: Listen

    @property
    def number(self) -> int:
        """The port that the mesh calls."""
        return self.spec.port

    @property
    def protocol(self) -> Protocol:
        """What it carries."""
        return self.spec.protocol


def each_once(ingress: Sequence[Ingress]) -> Iterator[tuple[int, Ingress]]:
    """Each with its place in the list, without those whose port stands before them already."""
    seen: set[int] = set()
    for index, each in enumerate(ingress):
        if each.knows("port"):
            if each.port in seen:
                continue
            seen.add(each.port)
        yield index, each


def resolved(ingress: Ingress) -> IngressPort:
    """The port with its addresses. Raises `Unknown` where one cannot be had."""
    listen = ingress.listens_on
    if not ingress.knows("port") or listen is None or ingress.called_at.is_unspecified:
        raise Unknown
    return IngressPort(ingress, listen, ingress.called_at)


def never_admitted(ingress: Ingress, trust_domain: str) -> Iterator[Finding]:
    """Principals in rules that ``allow`` keeps out anyway."""
    allow = ingress.allow
    if not allow or ingress.without_client_certificate:  # which is reported, where there are principals
        return
    for at, rule in enumerate(ingress.rules or ()):
        for source, from_ in enumerate(rule.from_ or ()):
            for index, principal in enumerate(from_.source.principals):
                if not any(meet(admitted, principal, trust_domain) for admitted in allow):
                    where = ("rules", at, "from", source, "source", "principals", index)
                    allowed = f"a principal that `allow` admits: {', '.join(allow[:10])}"
                    yield Finding(where, "`allow` does not admit it", shown(principal), allowed)


def warnings(name: str, ports: Sequence[IngressPort], trust_domain: str) -> Iterator[str]:
    """What is allowed and still worth a second look."""
    for port in ports:
        balancer = port.spec.load_balancer
        if balancer and balancer.unsafe_tls_mode:
            sources = ", ".join(balancer.sources)
            how = "in plain text" if balancer.unsafe_tls_mode == "DISABLE" else "without a certificate"
            yield f"{name}: whoever sends from {sources} calls {port.application} {how}; nothing tells who that is"
        if "*" in (port.spec.allow or ()):
            yield f"{name}: any workload of trust domain {trust_domain} may call {port.application}"
        if not port.application.is_loopback:
            yield f"{name}: calls go on to {port.application} in plain text, and not on this machine alone"
        if port.listen.port < _PRIVILEGED:
            yield (
                f"{name}: {port.listen} takes the right to open ports below {_PRIVILEGED} "
                f"(CAP_NET_BIND_SERVICE), or `listen` on another and targetPort in the ServiceEntry"
            )

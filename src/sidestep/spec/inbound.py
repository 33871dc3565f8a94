"""A workload's ingress, resolved: every address decided, and what contradicts itself reported."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from sidestep.errors import Problem
from sidestep.spec.documents import Document, Path, shown
from sidestep.spec.ingress import Ingress
from sidestep.spec.principals import covers
from sidestep.spec.scalars import Listen, Protocol

_BESIDE: Final = 10_000
"""Envoy and the application cannot both have the number that the mesh calls: Envoy then listens on this much more."""
_PRIVILEGED: Final = 1024


@dataclass(frozen=True)
class IngressPort:
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


def resolve(
    document: Document, ingress: Sequence[Ingress], trust_domain: str
) -> tuple[list[IngressPort], list[Path], list[Problem]]:
    """The ports that can be had, where in the document each stands, and problems with the rest."""
    ports, paths, problems = [], [], list(_repeated(document, ingress))
    for index, each in enumerate(ingress):
        path: Path = ("spec", "ingress", index)
        problems += _never_admitted(document, path, each, trust_domain)
        application = each.application or Listen("127.0.0.1", each.port)
        listen = each.listen or _listen(each.port, application)
        if application.is_unspecified:
            allowed = f"the address to call it on, such as 127.0.0.1:{application.port}"
            problems.append(
                document.problem(
                    (*path, "application"), "is no address to call", found=str(application), allowed=allowed
                )
            )
        elif listen is None:
            message = f"Envoy cannot have the application's port, nor {each.port} + {_BESIDE}"
            allowed = "an address to listen on, such as 0.0.0.0:18080"
            problems.append(document.problem((*path, "listen"), message, allowed=allowed))
        else:
            ports.append(IngressPort(each, listen, application))
            paths.append(path)
    return ports, paths, problems


def _listen(port: int, application: Listen) -> Listen | None:
    number = port + _BESIDE if application.port == port else port
    return Listen("0.0.0.0", number) if number <= 65535 else None


def _repeated(document: Document, ingress: Sequence[Ingress]) -> Iterator[Problem]:
    seen: set[int] = set()
    for index, each in enumerate(ingress):
        if each.port in seen:
            path = ("spec", "ingress", index, "port")
            yield document.problem(path, "the port is already listed", found=str(each.port), allowed="each one once")
        seen.add(each.port)


def _never_admitted(document: Document, path: Path, ingress: Ingress, trust_domain: str) -> Iterator[Problem]:
    """Principals in rules that ``allow`` keeps out anyway."""
    allow = ingress.allow or []
    for at, rule in enumerate(ingress.rules or ()):
        for source, from_ in enumerate(rule.from_ or ()):
            for index, principal in enumerate(from_.source.principals):
                if not any(covers(admitted, principal, trust_domain) for admitted in allow):
                    where = (*path, "rules", at, "from", source, "source", "principals", index)
                    allowed = f"a principal that `allow` admits: {', '.join(allow[:10])}"
                    yield document.problem(where, "`allow` does not admit it", found=shown(principal), allowed=allowed)


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

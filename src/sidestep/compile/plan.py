"""The plan: everything that one machine's bundle will say, before it takes the form of files."""

from __future__ import annotations

from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, NamedTuple

from sidestep.compile.envoy import (
    application,
    bootstrap,
    clusters,
    forwarder,
    inbound,
    listeners,
    proxy,
    secrets,
    tunnel,
)
from sidestep.compile.envoy.peer_metadata import PeerMetadata
from sidestep.compile.envoy.resources import TYPE, Resources

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from sidestep.compile.envoy.resources import Resource
    from sidestep.spec import Machine


class Plan(NamedTuple):
    """One machine's Envoy, as resources of its API, and the machine that they were made from."""

    machine: Machine
    bootstrap: Resource
    listeners: Resources
    clusters: Resources
    routes: list[Resource]
    """Route configurations that change more often than their listeners."""
    identity: Resource
    """Secret: the workload's certificate and key, from files."""
    roots: Resource
    """Secret: the root certificates that servers are checked against, from a file."""

    def inline(self) -> Plan:
        """The same with nothing to read from files: ``--mode validate`` does not read what is dynamic (facts k)."""
        return self._replace(
            bootstrap=bootstrap.static(self.bootstrap),
            listeners=Resources(partial(_untyped, Resources(partial(proxy.inline, self.listeners, self.routes)))),
            clusters=Resources(partial(_untyped, self.clusters)),
            routes=[],
        )


def compile_machine(machine: Machine) -> Plan:
    """The plan for one machine. The same machine gives the same plan, to the byte."""
    metadata = PeerMetadata.of(machine)
    return Plan(
        machine=machine,
        bootstrap=bootstrap.dynamic(metadata, forwarder.most_connections(machine)),
        listeners=Resources(partial(_listeners, machine, metadata)),
        routes=proxy.routes(machine, metadata),
        clusters=Resources(partial(_clusters, machine)),
        identity=secrets.identity(),
        roots=secrets.roots(),
    )


def _listeners(machine: Machine, metadata: PeerMetadata) -> Iterator[Resource]:
    chains = forwarder.filter_chains(machine)
    yield from listeners.egress(machine, metadata, chains)
    yield from proxy.listeners(machine, chains)
    yield from forwarder.health(machine)
    yield from inbound.ingress(machine, metadata)


def _clusters(machine: Machine) -> Iterable[Resource]:
    return chain(clusters.egress(machine), tunnel.clusters(machine), application.clusters(machine))


def _untyped(resources: Iterable[Resource]) -> Iterator[Resource]:
    """Where they stand inline, what they are is clear, and Envoy refuses to be told."""
    for each in resources:
        yield {name: value for name, value in each.items() if name != TYPE}

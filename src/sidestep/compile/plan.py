"""The plan: everything that one machine's bundle will say, before it takes the form of files."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

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

if TYPE_CHECKING:
    from sidestep.compile.envoy.resources import Resource
    from sidestep.spec import Machine


@dataclass(frozen=True)
class Plan:
    """One machine's Envoy, as resources of its API, and the machine that they were made from."""

    machine: Machine
    bootstrap: Resource
    listeners: list[Resource]
    clusters: list[Resource]
    routes: list[Resource]
    """Route configurations that change more often than their listeners."""
    identity: Resource
    """Secret: the workload's certificate and key, from files."""
    roots: Resource
    """Secret: the root certificates that servers are checked against, from a file."""

    @property
    def addresses(self) -> int:
        """How many addresses it listens on: tunnels end at a listener that has none."""
        return sum("address" in listener for listener in self.listeners)

    @property
    def static_bootstrap(self) -> Resource:
        """The same with everything inline: ``--mode validate`` does not read what is dynamic (facts k)."""
        return bootstrap.static(self.bootstrap, proxy.inline(self.listeners, self.routes), self.clusters)


def compile_machine(machine: Machine) -> Plan:
    """The plan for one machine. The same machine gives the same plan, to the byte."""
    metadata = PeerMetadata.of(machine)
    return Plan(
        machine=machine,
        bootstrap=forwarder.bootstrap(bootstrap.dynamic(metadata), machine),
        listeners=[
            *forwarder.listeners([*listeners.egress(machine, metadata), *proxy.listeners(machine)], machine),
            *inbound.ingress(machine, metadata),
        ],
        routes=proxy.routes(machine, metadata),
        clusters=[*clusters.egress(machine), *tunnel.clusters(machine), *application.clusters(machine)],
        identity=secrets.identity(),
        roots=secrets.roots(),
    )

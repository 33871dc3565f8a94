"""The machine to measure: a bundle rendered by Sidestep, or its hand-written peer, with certificates and gateways."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import handwritten
import measure
from sidestep.files import write_set
from sidestep.lab.identities import Authorities
from sidestep.lab.ports import Ports
from sidestep.pki.identity import Identity
from sidestep.pki.spiffe import SpiffeId

TRUST_DOMAIN = "cluster.local"
AS_ON_THE_FACT_SHEET = "hand-written, as on the fact sheet"
PEERS = {
    "hand-written, certificate files, all statistics": handwritten.Style(shared_secret=False, few_stats=False),
    "hand-written, shared secret, few statistics": handwritten.Style(),
    AS_ON_THE_FACT_SHEET: handwritten.Style(shared_secret=False, few_stats=False, access_log=False, by_name=True),
}
"""For the same job; the best way with a listener for each service; and the fact sheet's, of as many statistics and
files as that says, and as large within a tenth."""


@dataclass(frozen=True)
class Machines:
    """Makes machines of any size, each in a directory of its own."""

    directory: Path
    identity: Identity
    gateways: Sequence[int]

    def bundle(self, services: int) -> Path:
        """Sidestep's."""
        made = self.directory / f"sidestep-{services}"
        specification = self.directory / f"spec-{services}.yaml"
        specification.write_text(measure.documents(services, self.gateways))
        measure.render(specification, made)
        write_set(made / "certs", self.identity.files())
        return made

    def peer(self, name: str, services: int) -> Path:
        """One of `PEERS`."""
        made = self.directory / f"{list(PEERS).index(name)}-{services}"
        handwritten.write(made, self.gateways, handwritten.calls(services), PEERS[name])
        write_set(made / "certs", self.identity.files())
        return made

    def all(self, services: int) -> dict[str, Path]:
        """Sidestep's and its peers, by name."""
        return {"Sidestep": self.bundle(services), **{name: self.peer(name, services) for name in PEERS}}


def machine_identity(authorities: Authorities) -> Identity:
    """The certificate of the workload in `measure.documents`."""
    return authorities.machine(SpiffeId(TRUST_DOMAIN, "vms", "billing"))


@contextlib.contextmanager
def machines() -> Iterator[Machines]:
    """Machines in front of two gateways that accept connections and never answer."""
    with measure.scratch() as directory, Ports() as ports:
        gateways = (ports.reserve(), ports.reserve())
        silent = directory / "gateways"
        silent.mkdir()
        (silent / "envoy.json").write_text(json.dumps(_silent(gateways)))
        identity = machine_identity(Authorities.make(TRUST_DOMAIN, datetime.now(UTC)))
        with measure.running(silent, ("127.0.0.1", gateways[-1]), http=False):
            yield Machines(directory, identity, gateways)


def _silent(ports: Sequence[int]) -> handwritten.Config:
    config = {"@type": "type.googleapis.com/envoy.extensions.filters.network.echo.v3.Echo"}
    return {
        "static_resources": {
            "listeners": [
                {
                    "name": str(port),
                    "enable_reuse_port": False,
                    "address": {"socket_address": {"address": "127.0.0.1", "port_value": port}},
                    "filter_chains": [{"filters": [{"name": "envoy.filters.network.echo", "typed_config": config}]}],
                }
                for port in ports
            ]
        }
    }

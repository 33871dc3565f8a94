"""Requests a second and latency from a pod of the mesh to an application on a machine.

::

    wrk ─▶ pod's sidecar ─ mTLS ─▶ machine ─▶ application (1 KiB)

The sidecar is the lab's; everything is an Envoy with one worker. The machine is Sidestep's bundle, or a hand-written
static configuration that lets the same caller in, with the same access log; or there is none, and the sidecar calls the
application in plain text. Needs ``wrk``. Target: no fewer requests a second, and no more processor time, than the
hand-written one.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

import handwritten
import machines
import measure
import throughput
from sidestep.files import write_set
from sidestep.lab import sidecar
from sidestep.lab.identities import Authorities
from sidestep.lab.pod import Outbound, pod_bootstrap
from sidestep.lab.ports import Ports
from sidestep.lab.topology import Protocol
from sidestep.pki.spiffe import SpiffeId

PLAIN: Final = "application in plain text"
PROTOCOLS: Final = (Protocol.HTTP, Protocol.HTTP2, Protocol.TCP)
CALLER: Final = SpiffeId(machines.TRUST_DOMAIN, "shop", "caller")
MACHINE: Final = SpiffeId(machines.TRUST_DOMAIN, "vms", "billing")
_FIRST_PORT: Final = 8080


@dataclass(frozen=True)
class Bench:
    """Starts what is on the way; the stack ends it."""

    way: throughput.Way

    def start(self) -> dict[Protocol, dict[str, throughput.End]]:
        """For each protocol, where to send load, by what is behind the pod's sidecar."""
        heard = self.way.ports.reserve()
        application = self.way.envoy("application", throughput.application(heard), heard)
        listens = {name: self._ports() for name in (throughput.PEER, throughput.OURS)}
        running = {name: self._machine(name, ports, heard) for name, ports in listens.items()}
        running[PLAIN], listens[PLAIN] = application, dict.fromkeys(PROTOCOLS, heard)
        calls = self._pod(listens)
        return {
            protocol: {name: (calls[name][protocol], running[name]) for name in (PLAIN, *listens)}
            for protocol in PROTOCOLS
        }

    def _ports(self) -> dict[Protocol, int]:
        return {protocol: self.way.ports.reserve() for protocol in PROTOCOLS}

    def _machine(self, name: str, listens: Mapping[Protocol, int], application: int) -> measure.Running:
        directory = self.way.directory / name
        if name == throughput.PEER:
            served = [
                handwritten.Served(port, application, str(CALLER), http=not each.is_tcp, http2=each.is_http2)
                for each, port in listens.items()
            ]
            handwritten.write_inbound(directory, served)
        else:
            specification = self.way.directory / "spec.yaml"
            specification.write_text(_documents(listens, application))
            measure.render(specification, directory)
        write_set(directory / "certs", machines.machine_identity(self.way.authorities).files())
        last = [*listens.values()][-1]
        return self.way.stack.enter_context(measure.running(directory, ("127.0.0.1", last), http=False))

    def _pod(self, listens: Mapping[str, Mapping[Protocol, int]]) -> dict[str, dict[Protocol, int]]:
        """Starts the pod's sidecar; for each name and protocol, where its application calls."""
        calls = {name: self._ports() for name in listens}
        outbounds = [
            Outbound(
                f"{protocol.lower()}.way-{number}.example",
                _FIRST_PORT,
                protocol,
                endpoint,
                str(MACHINE),
                listen=calls[name][protocol],
                mtls=name != PLAIN,
            )
            for number, (name, ports) in enumerate(listens.items())
            for protocol, endpoint in ports.items()
        ]
        secrets = {name: json.dumps(secret).encode() for name, secret in sidecar.secrets().items()}
        files = {**secrets, **self.way.authorities.workload(CALLER).files()}
        self.way.envoy("pod", pod_bootstrap(outbounds), outbounds[0].listen, files=files, http=False)
        return calls


def _documents(listens: Mapping[Protocol, int], application: int) -> str:
    ingress = [
        {
            "port": _FIRST_PORT + number,
            "protocol": protocol,
            "listen": f"127.0.0.1:{listen}",
            "application": f"127.0.0.1:{application}",
            "allow": [str(CALLER).removeprefix("spiffe://")],
        }
        for number, (protocol, listen) in enumerate(listens.items())
    ]
    service = {"host": "unused.shop.svc.cluster.local", "ports": [{"number": 80, "protocol": "HTTP"}]}
    mesh = {"gateways": [{"address": "127.0.0.1"}], "services": [{**service, "serviceAccounts": ["unused"]}]}
    documents = [
        ("Mesh", {"name": "bench"}, mesh),
        ("Workload", {"name": "billing", "namespace": "vms"}, {"ingress": ingress}),
    ]
    return "\n---\n".join(
        json.dumps({"apiVersion": "sidestep/v1alpha1", "kind": kind, "metadata": metadata, "spec": spec})
        for kind, metadata, spec in documents
    )


def main() -> None:
    """Measures and prints."""
    options = measure.options(__doc__, runs=12)
    if shutil.which("wrk") is None:
        sys.exit("wrk is not installed")
    report = throughput.report("From the mesh to a machine", "protocol", "of plain")
    with measure.scratch() as directory, Ports() as ports, ExitStack() as stack:
        authorities = Authorities.make(machines.TRUST_DOMAIN, datetime.now(UTC))
        started = Bench(throughput.Way(directory, ports, stack, authorities)).start()
        for protocol, ends in started.items():
            for connections in throughput.CONNECTIONS:
                throughput.measured(report, f"{protocol}", ends, connections, options.runs)
    report.show(as_json=options.json)


if __name__ == "__main__":
    main()

"""``sidestep validate``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from sidestep.cli import collector
from sidestep.cli.paths import NAME
from sidestep.cli.terminal import Terminal, format_option

if TYPE_CHECKING:
    from sidestep.spec import EgressPort, IngressPort, Machine, Spec


@click.command(short_help="Check documents and show what they mean.")
@click.argument("files", type=NAME, nargs=-1, required=True, metavar="FILE…")
@format_option()
@click.pass_obj
@collector.paused()
def validate(terminal: Terminal, files: tuple[str, ...]) -> None:
    """Check documents (kinds Mesh and Workload) and show what they mean. `-` is standard input.

    Every problem is reported at once, with file, line and column. Nothing is written.

    \b
    Examples:
      sidestep validate mesh.yaml billing.yaml
      sidestep validate -o json mesh.yaml
    """
    from sidestep import onboard

    spec = onboard.load(files)
    terminal.warn(spec.warnings)
    terminal.answer(
        {"ok": True, "warnings": spec.warnings, "workloads": [_for_programs(each) for each in spec.machines]}
    )
    _for_people(terminal, spec)


def _for_people(terminal: Terminal, spec: Spec) -> None:
    for machine in spec.machines:
        metadata = machine.workload.metadata
        mesh = machine.mesh.metadata.name
        if machine.egress:
            terminal.say(f"{metadata.name} is {machine.identity} and calls mesh {mesh}:")
            terminal.table(["LISTENS ON", "FOR", "PROTOCOL"], _calls(machine))
            terminal.say()
        if machine.ingress:
            terminal.say(f"{metadata.name} is {machine.identity} and is called by mesh {mesh}:")
            terminal.table(["PORT", "LISTENS ON", "FOR", "PROTOCOL", "CALLERS"], list(map(_served, machine.ingress)))
            terminal.say()
    services = sum(len(mesh.spec.services) for mesh in spec.meshes)
    counts = [
        (len(spec.meshes), "mesh", "meshes"),
        (services, "service", "services"),
        (len(spec.machines), "workload", "workloads"),
    ]
    terminal.say("ok: " + ", ".join(f"{count:,} {one if count == 1 else many}" for count, one, many in counts))


def _calls(machine: Machine) -> list[list[str]]:
    proxy = machine.workload.spec.proxy
    rows = [[port.address or "(by name)", _called(port), port.protocol] for port in machine.egress]
    return [*rows, *([[str(proxy.listen), "each of them by name", "HTTP proxy"]] if proxy else [])]


def _called(port: EgressPort) -> str:
    subset = port.traffic.subset
    return f"{port.service.host}:{port.number}" + (f" (subset {subset})" if subset else "")


def _served(port: IngressPort) -> list[str]:
    balancer = port.spec.load_balancer
    callers = port.spec.allow or [f"whoever is at {source}" for source in (balancer.sources if balancer else ())]
    return [str(port.number), str(port.listen), str(port.application), port.protocol, ", ".join(callers)]


def _for_programs(machine: Machine) -> dict[str, object]:
    from sidestep.outputs.envoy import manifest

    metadata, proxy = machine.workload.metadata, machine.workload.spec.proxy
    return {
        "name": metadata.name,
        "namespace": metadata.namespace,
        "identity": machine.identity,
        "mesh": machine.mesh.metadata.name,
        "egress": manifest(machine)["egress"],
        **({"proxy": str(proxy.listen)} if proxy else {}),
        "ingress": [
            {
                "port": port.number,
                "protocol": port.protocol,
                "listen": str(port.listen),
                "application": str(port.application),
                "allow": port.spec.allow,
            }
            for port in machine.ingress
        ],
    }

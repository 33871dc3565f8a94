"""How ``sidestep lab`` looks: the mesh, each scenario, what to try, and the calls that are seen meanwhile."""

from __future__ import annotations

import shlex
import shutil
import sys
import time
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from sidestep.cli.terminal import Terminal
    from sidestep.lab.mesh import Pod
    from sidestep.lab.session import Lab, Result
    from sidestep.lab.watch import Seen

_NAME = 27


def introduce(terminal: Terminal, lab: Lab) -> None:
    """What there is: the mesh and the machine."""
    gateways = ", ".join(f"{gateway.address}:{gateway.port}" for gateway in lab.mesh.gateways)
    terminal.say(_heading("The mesh"))
    terminal.say(f"  east-west gateways (AUTO_PASSTHROUGH): {gateways}")
    terminal.say("  services, each behind a sidecar of its own:")
    terminal.table(["    SERVICE", "MTLS", "WHO MAY CALL"], [_service(pod) for pod in lab.mesh.pods.values()])
    terminal.say()
    terminal.say(_heading(f"The machine {lab.machine.spiffe_id.service_account}"))
    terminal.say(f"  {lab.machine.spiffe_id}, onboarded from this spec:")
    terminal.say()
    for line in lab.machine.spec[1].read_text().splitlines():
        terminal.say(f"    {line}")
    terminal.say()
    terminal.say(_heading("What passes, and what is refused"))


def _service(pod: Pod) -> list[str]:
    service = pod.service
    callers = ", ".join(service.policy.principals) if service.policy else "everyone"
    if not service.exported:
        callers = "nobody outside: the gateways do not export it"
    elif service.presents:
        callers += ", but another workload answers"
    return [f"    {service.name}.{service.namespace}", str(service.mtls), callers]


def show(terminal: Terminal, result: Result) -> None:
    """One scenario: what it is, what came of it and why."""
    outcome, scenario = result.outcome, result.scenario
    words = {"allow": "passes", "deny": "refused", "error": "failed"}
    mark = click.style("✓", fg="green") if outcome.ok else click.style("✗", fg="red")
    title = terminal.wrapped(scenario.title, indent=_NAME + 2).lstrip()
    terminal.say(f"{mark} {click.style(scenario.name.ljust(_NAME), bold=True)}{title}")
    missed = "" if outcome.ok else f" where it must be {words[scenario.expect]}"
    text = f"{words[outcome.result]}{missed}: {outcome.detail} ({result.milliseconds:.0f} ms)"
    terminal.say(click.style(terminal.wrapped(text, indent=4), dim=outcome.ok))


def conclude(terminal: Terminal, results: Sequence[Result]) -> None:
    """All scenarios, in a line; for programs, in full."""
    failed = [result.scenario.name for result in results if not result.outcome.ok]
    count = f"{len(results) - len(failed)} of {len(results)} scenarios are as they must be"
    terminal.say()
    terminal.say(
        click.style(count + (f"; not: {', '.join(failed)}" if failed else ""), fg="red" if failed else "green")
    )
    terminal.answer({"scenarios": [_for_programs(result) for result in results], "ok": not failed})


def _for_programs(result: Result) -> dict[str, object]:
    return {
        "name": result.scenario.name,
        "expect": result.scenario.expect,
        "result": result.outcome.result,
        "ok": result.outcome.ok,
        "detail": result.outcome.detail,
        "ms": result.milliseconds,
    }


def invite(terminal: Terminal, lab: Lab, *, kept: bool) -> None:
    """What to try while it is up; whether its files are ``kept`` afterwards."""
    terminal.say()
    terminal.say(_heading("Everything is up. Try, in another terminal:"))
    for what, command in _commands(lab):
        terminal.say()
        terminal.say(click.style(f"  # {what}", dim=True))
        terminal.say(f"  {command}")
    terminal.say()
    end = "ends the lab" if kept else "ends the lab and removes everything"
    terminal.say(_heading(f"Calls are shown here as they pass. Ctrl-C {end}."))


def _commands(lab: Lab) -> Iterator[tuple[str, str]]:
    from sidestep.lab import sample

    machine, listen = lab.machine, lab.machine.listen
    reviews, payroll = (f"http://127.0.0.1:{listen(service, 9080)}/" for service in (sample.REVIEWS, sample.PAYROLL))
    ledger = listen(sample.LEDGER, 9000)
    yield "allowed: reviews answers, and says whom its sidecar saw", f"curl {reviews}"
    yield "denied: the policy of payroll admits somebody else", f"curl -i {payroll}"
    tcp = f"nc 127.0.0.1 {ledger}" if shutil.which("nc") else f"curl -sN telnet://127.0.0.1:{ledger}"
    yield "TCP: what you type comes back, until Ctrl-C", tcp
    yield "a gateway dies: call again, and the other one takes it", f"kill -9 {lab.mesh.gateways[0].envoy.pid}"
    spec = " ".join(shlex.quote(str(path.relative_to(machine.directory))) for path in machine.spec)
    yield "the machine's files, and the spec that they were made from", f"cd {shlex.quote(str(machine.directory))}"
    yield "in there: what its Envoy listens on", "curl --unix-socket bundle/admin.sock http://admin/listeners"
    yield "edit spec/billing.yaml, render it: Envoy takes what changed", f"{_sidestep()} render {spec} -o bundle"


def _sidestep() -> str:
    """The command with its path: in another terminal it may not be on PATH."""
    found = shutil.which("sidestep")
    return shlex.quote(found) if found else f"{shlex.quote(sys.executable)} -m sidestep"


def seen(terminal: Terminal, call: Seen | int) -> None:
    """A call that was made while the lab is up."""
    if isinstance(call, int):
        terminal.say(f"          … and {call:,} more")
        return
    terminal.say(f"{time.strftime('%H:%M:%S')}  {call.what} → {call.service}  {click.style(call.answer, bold=True)}")
    terminal.say(click.style(terminal.wrapped(_why(call), indent=10), fg="yellow" if call.denied else None, dim=True))


def _why(call: Seen) -> str:
    if not call.gateway:
        return "it never left the machine"
    way = f"by gateway {call.gateway}"
    if not call.principal:
        return f"{way}; no sidecar took it"
    word = "denied by its policy" if call.denied else "let in"
    return f"{way} to its sidecar, {word} as {call.principal}"


def _heading(text: str) -> str:
    return click.style(text, bold=True)

"""Calls that the destination's AuthorizationPolicy denies: the mesh knows the machine, and admits somebody else."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Final

from sidestep.lab import clients, sample
from sidestep.lab.scenarios.scenario import Call, Outcome, Scenario, Verdict, not_refused

if TYPE_CHECKING:
    from sidestep.lab.session import Lab

GREETING: Final = Call(sample.PAYROLL, 2525, clients.tcp_greeting)


async def denied_by_policy(call: Call, lab: Lab) -> Outcome:
    """The sidecar knows the machine, and its policy admits somebody else."""
    marks = lab.marks(call.service)
    answer = await call.by(lab.machine)
    seen = await marks.sidecar(lambda entry: entry.port == call.port and entry.refusal.startswith("rbac_access_denied"))
    said = " ".join(part for part in (answer.status, answer.error) if part)
    if answer.ok or seen is None or seen.principal != str(lab.machine.spiffe_id):
        return not_refused(answer, "no sidecar denied it by policy")
    admitted = ", ".join(call.service.policy.principals) if call.service.policy else ""
    return Outcome(Verdict.DENY, ok=True, detail=f"{said}: the policy of {call} admits only {admitted}")


async def greeting_denied(lab: Lab) -> Outcome:
    """A service that speaks first is heard before Istio denies: policy is asked at the caller's first byte."""
    outcome = await denied_by_policy(GREETING, lab)
    answer = await GREETING.by(lab.machine)
    greeted = answer.text.startswith("220 ")
    detail = (
        f"greeting {answer.text.strip()!r} was seen, then the connection was cut at the first byte sent: so does Istio"
    )
    return Outcome(outcome.result, outcome.ok and greeted and not answer.ok, detail if greeted else outcome.detail)


DENIED: Final[Mapping[str, tuple[str, Call]]] = {
    "no-policy-http": ("HTTP to a service that admits others", Call(sample.PAYROLL, 9080, clients.http1)),
    "no-policy-grpc": ("gRPC to a service that admits others", Call(sample.PAYROLL, 50051, clients.grpc_unary)),
    "no-policy-tcp": ("TCP to a service that admits others", Call(sample.PAYROLL, 9000, clients.tcp_echo)),
}
SCENARIOS: Final = (
    *(Scenario(name, Verdict.DENY, title, partial(denied_by_policy, call)) for name, (title, call) in DENIED.items()),
    Scenario("no-policy-server-first", Verdict.DENY, "a server that speaks first and admits others", greeting_denied),
)
EGRESS: Final = tuple((call.service, call.port) for call in (*(call for _, call in DENIED.values()), GREETING))

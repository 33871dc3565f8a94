"""An application that speaks TLS of its own inside the mesh's: it passes as bytes, and its ends check each other."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Final

from sidestep.lab import clients, sample
from sidestep.lab.application_tls import client_context
from sidestep.lab.scenarios.calls import allowed
from sidestep.lab.scenarios.scenario import Call, Outcome, Scenario, Verdict, not_refused

if TYPE_CHECKING:
    from sidestep.lab.clients import Answer
    from sidestep.lab.session import Lab

PORT: Final = 8443
_REFUSAL: Final = "CERTIFICATE_VERIFY_FAILED"


async def _echo(port: int, name: str) -> Answer:
    return await clients.tcp_echo(port, tls=(client_context(), name))


async def other_name(call: Call, lab: Lab) -> Outcome:
    """The application's certificate is for another name: its client refuses, whatever the mesh has checked."""
    answer = await call.by(lab.machine)
    if answer.ok or _REFUSAL not in answer.error:
        return not_refused(answer, f"its client did not say {_REFUSAL}")
    return Outcome(Verdict.DENY, ok=True, detail=f"the application's client says {answer.error}")


def _call(name: str) -> Call:
    return Call(sample.LEDGER, PORT, partial(_echo, name=name))


CALLS: Final[Mapping[str, tuple[str, Call]]] = {
    "tls-inside": ("an application's own TLS", _call("ledger.example")),
}
SCENARIOS: Final = (
    *(Scenario(name, Verdict.ALLOW, title, partial(allowed, call)) for name, (title, call) in CALLS.items()),
    Scenario(
        "tls-inside-other-name",
        Verdict.DENY,
        "an application's own TLS, for another name",
        partial(other_name, _call("payroll.example")),
    ),
)
EGRESS: Final = tuple((call.service, call.port) for _, call in CALLS.values())

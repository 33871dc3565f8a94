"""Calls that pass: every protocol, to strict and permissive sidecars."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Final

from sidestep.lab import clients, sample
from sidestep.lab.scenarios.scenario import Call, Outcome, Scenario, Verdict, without_failure

if TYPE_CHECKING:
    from sidestep.lab.session import Lab

HTTP1: Final = Call(sample.REVIEWS, 9080, clients.http1)


async def allowed(call: Call, lab: Lab) -> Outcome:
    """The call is answered, and the destination's sidecar knows the machine by its certificate."""
    marks = lab.marks(call.service)
    answer = await call.by(lab.machine)
    seen = await marks.sidecar(
        lambda entry: entry.port == call.port and entry.principal == str(lab.machine.spiffe_id) and not entry.refusal
    )
    if not answer.ok:
        return Outcome(Verdict.DENY, ok=False, detail=f"{answer.status} {answer.error}".strip())
    if seen is None:
        return Outcome(Verdict.ALLOW, ok=False, detail="answered, but no sidecar saw the machine's principal")
    way = f"{answer.status or 'answer'} from {call} by gateway {await marks.gateway(call)}"
    return Outcome(Verdict.ALLOW, ok=True, detail=f"{way}; its sidecar let in {lab.machine.spiffe_id.principal}")


async def several_services(lab: Lab) -> Outcome:
    """Calls to four services at the same time."""
    calls = [HTTP1, Call(sample.LEDGER, 50051, clients.grpc_unary), Call(sample.LEDGER, 9000, clients.tcp_echo)]
    calls.append(Call(sample.RATINGS, 9080, clients.http1))
    answers = await asyncio.gather(*(call.by(lab.machine) for call in calls for _ in range(5)))
    failed = [answer for answer in answers if not answer.ok]
    detail = f"{len(answers)} calls at once to {', '.join(map(str, calls))}; {len(failed)} failed"
    return without_failure(not failed, detail)


CALLS: Final[Mapping[str, tuple[str, Call]]] = {
    "http1": ("HTTP/1.1 to a STRICT service", HTTP1),
    "http1-permissive": ("HTTP/1.1 to a PERMISSIVE service", Call(sample.RATINGS, 9080, clients.http1)),
    "http1-undeclared": ("HTTP/1.1 on a port without a protocol", Call(sample.REVIEWS, 9081, clients.http1)),
    "http2": ("HTTP/2", Call(sample.REVIEWS, 9090, clients.http2)),
    "grpc-unary": ("a gRPC call", Call(sample.LEDGER, 50051, clients.grpc_unary)),
    "grpc-server-stream": ("a gRPC stream from the server", Call(sample.LEDGER, 50051, clients.grpc_server_stream)),
    "grpc-client-stream": ("a gRPC stream to the server", Call(sample.LEDGER, 50051, clients.grpc_client_stream)),
    "grpc-bidi": ("gRPC streams both ways", Call(sample.LEDGER, 50051, clients.grpc_bidi)),
    "tcp": ("TCP", Call(sample.LEDGER, 9000, clients.tcp_echo)),
    "tcp-permissive": ("TCP to a PERMISSIVE service", Call(sample.RATINGS, 9000, clients.tcp_echo)),
    "tcp-server-first": ("TCP where the server speaks first", Call(sample.LEDGER, 2525, clients.tcp_greeting)),
    "websocket": ("a WebSocket", Call(sample.REVIEWS, 9080, clients.websocket)),
}
SCENARIOS: Final = (
    *(Scenario(name, Verdict.ALLOW, title, partial(allowed, call)) for name, (title, call) in CALLS.items()),
    Scenario("several-services", Verdict.ALLOW, "several services at once", several_services),
)
EGRESS: Final = tuple((call.service, call.port) for _, call in CALLS.values())

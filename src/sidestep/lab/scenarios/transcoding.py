"""REST calls that become gRPC on the machine, beside native gRPC on the same address."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Final

from sidestep.descriptors import reflection, sets
from sidestep.errors import Unfulfilled
from sidestep.lab import clients, ledger, ledger_client, sample
from sidestep.lab.scenarios.scenario import Call, Outcome, Scenario, Verdict, not_refused, without_failure

if TYPE_CHECKING:
    from sidestep.lab.clients import Answer
    from sidestep.lab.session import Lab

_PORT: Final = 50052
_ENTRY: Final = {"cents": "1250", "kind": "DEBIT", "memo": "paper"}
_get = partial(clients.http1, path="/v1/accounts/a/entries/1")
_post = partial(
    clients.http1,
    path="/v1/accounts/a/entries",
    body=json.dumps(_ENTRY).encode(),
    headers={"content-type": "application/json"},
)
_balance = partial(
    clients.http1,
    path="/pay.v1.Ledger/Balance",
    body=b'{"account": "a"}',
    headers={"content-type": "application/json"},
)
_watch = partial(clients.http1, path="/v1/accounts/a:watch?count=3")


async def answered(client: Callable[[int], Awaitable[Answer]], wanted: Mapping[str, object], lab: Lab) -> Outcome:
    """REST is answered with what the gRPC service said, which knows the machine by its certificate."""
    call = Call(sample.LEDGER, _PORT, client)
    marks = lab.marks(call.service)
    answer = await call.by(lab.machine)
    seen = await marks.sidecar(lambda entry: entry.principal == str(lab.machine.spiffe_id) and not entry.refusal)
    said = _lines(answer.text)
    fine = answer.ok and seen is not None and bool(said) and all(each.items() >= wanted.items() for each in said)
    return without_failure(fine, f"{answer.status} {answer.text.strip() or answer.error}")


def _lines(text: str) -> list[dict[str, object]]:
    """The JSON objects of an answer, one a line; nothing where it is no JSON."""
    try:
        return [json.loads(line) for line in text.splitlines() if line]
    except ValueError:
        return []


async def native(lab: Lab) -> Outcome:
    """A gRPC client on the same address is not touched, and neither is its stream."""
    answer = await Call(sample.LEDGER, _PORT, ledger_client.watch).by(lab.machine)
    broken = await Call(sample.LEDGER, _PORT, partial(ledger_client.watch, fail_after=1)).by(lab.machine)
    fine = answer.ok and broken.status == "UNAVAILABLE"
    return without_failure(fine, f"{answer.status}: {answer.text}; a stream that fails midway: {broken.status}")


async def refused(path: str, status: str, said: str, client: Callable[..., Awaitable[Answer]], lab: Lab) -> Outcome:
    """REST is refused with a status and words that a REST client understands."""
    answer = await Call(sample.LEDGER, _PORT, partial(client, path=path)).by(lab.machine)
    if answer.ok or answer.status != status or said not in answer.text:
        return not_refused(answer, f"not {status} with {said!r}")
    return Outcome(Verdict.DENY, ok=True, detail=f"{answer.status} {answer.text.strip()}")


async def denied_by_policy(lab: Lab) -> Outcome:
    """The sidecar's denial reaches a REST client as 403 with a JSON body."""
    call = Call(sample.PAYROLL, _PORT, _get)
    marks = lab.marks(call.service)
    answer = await call.by(lab.machine)
    seen = await marks.sidecar(lambda entry: entry.refusal.startswith("rbac_access_denied"))
    if answer.ok or seen is None or answer.status != "403" or "RBAC" not in answer.text:
        return not_refused(answer, "no sidecar denied it by policy")
    return Outcome(Verdict.DENY, ok=True, detail=f"{answer.status} {answer.text.strip()}")


async def reflected(lab: Lab) -> Outcome:
    """The server tells its descriptors through the tunnel, and they are those that the spec names."""
    port = lab.machine.listen(sample.LEDGER, _PORT)
    told = sets.read(await asyncio.to_thread(reflection.ask, f"127.0.0.1:{port}"))
    fine = told.services.keys() == ledger.descriptors().services.keys() and told.files == ledger.descriptors().files
    return without_failure(fine, f"{len(told.files)} files, with {', '.join(told.services)}")


async def reflection_denied(lab: Lab) -> Outcome:
    """A service that admits others does not tell the machine what it offers."""
    port = lab.machine.listen(sample.PAYROLL, _PORT)
    marks = lab.marks(sample.PAYROLL)
    try:
        await asyncio.to_thread(reflection.ask, f"127.0.0.1:{port}")
    except Unfulfilled as error:
        seen = await marks.sidecar(lambda entry: entry.refusal.startswith("rbac_access_denied"))
        return Outcome(Verdict.DENY, ok=seen is not None, detail=str(error))
    return Outcome(Verdict.ALLOW, ok=False, detail="the service told its descriptors")


async def broken_stream(lab: Lab) -> Outcome:
    """A stream that fails midway ends in an error at the client, over HTTP/1.1 and HTTP/2; never like a whole one."""
    path = "/v1/accounts/a:watch?fail_after=2"
    seen = []
    for client in (clients.http1, clients.http2):
        answer = await Call(sample.LEDGER, _PORT, partial(client, path=path)).by(lab.machine)
        if answer.ok or answer.status:
            return not_refused(answer, "the stream was not cut")
        seen.append(answer.error)
    return Outcome(Verdict.DENY, ok=True, detail=f"HTTP/1.1: {seen[0]}; HTTP/2: {seen[1]}")


ANSWERED: Final[Mapping[str, tuple[str, Callable[[int], Awaitable[Answer]], Mapping[str, object]]]] = {
    "rest-get": ("REST GET to a gRPC service", _get, {"id": "1", "account": "a", "cents": "1099511627776"}),
    "rest-post": ("REST POST to a gRPC service", _post, {**_ENTRY, "account": "a"}),
    "rest-auto-mapped": ("REST to a gRPC method without annotation", _balance, {"account": "a"}),
    "rest-stream": ("a gRPC stream as REST, one object a line", _watch, {"account": "a", "kind": "CREDIT"}),
}
REFUSED: Final[Mapping[str, tuple[str, str, str, str]]] = {
    "rest-not-found": ("NOT_FOUND as REST", "/v1/accounts/a/entries/7", "404", "no such entry: 7"),
    "rest-unknown-method": ("REST to a path of no method", "/v2/nothing", "404", "Could not resolve /v2/nothing"),
    "rest-unknown-parameter": ("a query parameter of no field", "/v1/entries/1?zzz=1", "400", "zzz"),
}
SCENARIOS: Final = (
    *(
        Scenario(name, Verdict.ALLOW, title, partial(answered, client, wanted))
        for name, (title, client, wanted) in ANSWERED.items()
    ),
    Scenario("grpc-reflection", Verdict.ALLOW, "descriptors by server reflection", reflected),
    Scenario("rest-beside-grpc", Verdict.ALLOW, "native gRPC on the same address as REST", native),
    *(
        Scenario(name, Verdict.DENY, title, partial(refused, path, status, said, clients.http1))
        for name, (title, path, status, said) in REFUSED.items()
    ),
    Scenario("grpc-reflection-denied", Verdict.DENY, "reflection of a service that admits others", reflection_denied),
    Scenario("rest-no-policy", Verdict.DENY, "REST to a gRPC service that admits others", denied_by_policy),
    Scenario("rest-stream-fails", Verdict.DENY, "a gRPC stream as REST that fails midway", broken_stream),
)
EGRESS: Final = ((sample.LEDGER, _PORT), (sample.PAYROLL, _PORT))

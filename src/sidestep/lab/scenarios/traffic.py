"""What a spec says of traffic: subsets, time limits, retries, HTTP/2 for HTTP/1.1 callers; and how pods share calls."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final
from uuid import uuid4

from sidestep.lab import clients, repeated, sample
from sidestep.lab.scenarios.calls import allowed
from sidestep.lab.scenarios.scenario import Call, Client, Outcome, Scenario, Verdict, not_refused, without_failure

if TYPE_CHECKING:
    from sidestep.lab.clients import Answer
    from sidestep.lab.machine import Machine
    from sidestep.lab.session import Lab

_CALLS: Final = 320
_CALLERS: Final = 64
"""Enough for eight connections, each of which the gateway gives to the less busy of two pods that it picks."""
_LEAST_SHARE: Final = 0.1
"""Of the calls, for each of two pods. That is one connection of the eight; mostly it is a half."""


@dataclass(frozen=True)
class Tuned(Call):
    """A call whose egress says something of its traffic."""

    traffic: str = ""

    async def by(self, machine: Machine) -> Answer:
        """Makes the call on a machine."""
        return await self.client(machine.listen(self.service, self.port, self.traffic))


async def in_subset(lab: Lab) -> Outcome:
    """Only the subset's pod answers."""
    answers = [await SUBSET.by(lab.machine) for _ in range(10)]
    pods = Counter(_pod(answer) for answer in answers)
    return without_failure(pods == {"reviews-1": 10}, f"10 calls to subset v2 of reviews: {_shares(pods)}")


async def no_such_subset(lab: Lab) -> Outcome:
    """A subset that no DestinationRule defines has no chain at the gateway."""
    marks = lab.marks(NO_SUBSET.service)
    answer = await NO_SUBSET.by(lab.machine)
    refusal = await marks.of("gateway", lambda entry: ".v9_." in entry.sni and "no filter chain" in entry.refusal)
    if answer.ok or refusal is None:
        return not_refused(answer, "no gateway said that no filter chain matches")
    return Outcome(Verdict.DENY, ok=True, detail=f"{answer.status}; the gateway says {refusal.refusal}")


async def spread(call: Tuned, lab: Lab) -> Outcome:
    """Calls at the same time are shared by the pods, although each connection stays on one."""
    return await shared_by_pods(call.client, lab.machine.listen(call.service, call.port, call.traffic))


async def shared_by_pods(client: Client, port: int) -> Outcome:
    """Many calls at the same time."""
    answers = await repeated.many(client, port, _CALLS, _CALLERS)
    failed = [answer for answer in answers if not answer.ok]
    pods = Counter(_pod(answer) for answer in answers if answer.ok)
    even = len(pods) == 2 and min(pods.values()) >= _LEAST_SHARE * _CALLS
    detail = f"{_CALLS} calls by {_CALLERS} callers: {_shares(pods)}; {len(failed)} failed"
    return without_failure(even and not failed, detail)


async def carried(lab: Lab) -> Outcome:
    """HTTP/1.1 callers share few HTTP/2 connections; the application hears HTTP/1.1."""
    outcome = await spread(CARRIED, lab)
    answer = await CARRIED.by(lab.machine)
    heard = json.loads(answer.text).get("httpVersion", "") if answer.ok else ""
    connections = await lab.connections(CARRIED)
    few = 0 < connections <= _CALLERS // 2
    detail = f"{outcome.detail}; {connections} connections open; the application heard HTTP/{heard}"
    return without_failure(outcome.ok and few and heard == "1.1", detail)


async def slow(lab: Lab) -> Outcome:
    """A slow GET is not cut: it is asked once more, in case its gateway hangs, and the first answer counts."""
    path = f"/slow/{uuid4()}"
    answer = await clients.http1(lab.machine.listen(SLOW.service, SLOW.port), f"{path}?ms=3000")
    again = await clients.http1(lab.machine.listen(SLOW.service, SLOW.port), path)
    heard = _heard(again) - 1
    detail = f"{answer.status} after {answer.milliseconds:.0f} ms, although the service heard it {heard} times"
    return without_failure(answer.ok and heard == 2, detail)


async def slow_post(lab: Lab) -> Outcome:
    """A slow POST is neither cut nor asked again."""
    path = f"/slow/{uuid4()}"
    answer = await clients.http1(lab.machine.listen(SLOW.service, SLOW.port), f"{path}?ms=3000", body=b"pay")
    heard = _heard(await clients.http1(lab.machine.listen(SLOW.service, SLOW.port), path)) - 1
    detail = f"{answer.status} after {answer.milliseconds:.0f} ms; the service heard it {heard} times"
    return without_failure(answer.ok and heard == 1, detail)


async def out_of_time(lab: Lab) -> Outcome:
    """A call that outlasts the time limit is cut."""
    answer = await TIMED.by(lab.machine)
    if answer.ok or answer.status != "504" or answer.milliseconds > 1400:
        return not_refused(answer, f"not within its time ({answer.milliseconds:.0f} ms)")
    return Outcome(Verdict.DENY, ok=True, detail=f"504 {answer.error} after {answer.milliseconds:.0f} ms")


async def asked_again(lab: Lab) -> Outcome:
    """A GET that met a 503 is asked again."""
    answer = await _at_second_time(lab, None)
    heard = _heard(answer)
    return without_failure(answer.ok and heard == 2, f"{answer.status}: the service heard the GET {heard} times")


async def not_repeated(lab: Lab) -> Outcome:
    """A POST that met a 503 is not, although retryOn says 503: it may have taken effect."""
    answer = await _at_second_time(lab, b"pay")
    heard = _heard(answer)
    if answer.ok or heard != 1:
        return not_refused(answer, f"the service heard the POST {heard} times")
    return Outcome(Verdict.DENY, ok=True, detail=f"{answer.status}: the service heard the POST once")


async def _at_second_time(lab: Lab, body: bytes | None) -> Answer:
    port = lab.machine.listen(RETRIED.service, RETRIED.port, RETRIED.traffic)
    return await clients.http1(port, f"/second-time/{uuid4()}", body=body)


def _pod(answer: Answer) -> str:
    return str(json.loads(answer.text.partition("\n")[0])["pod"]) if answer.ok else f"none ({answer.error[:80]})"


def _heard(answer: Answer) -> int:
    """How often the service says that it has heard a request: it says so in its refusal, too."""
    return int(json.loads(answer.text).get("heard", 0)) if answer.text.startswith("{") else 0


def _shares(pods: Counter[str]) -> str:
    return ", ".join(f"{pod} {count}" for pod, count in sorted(pods.items()))


SUBSET: Final = Tuned(sample.REVIEWS, 9080, clients.http1, "subset: v2")
NO_SUBSET: Final = Tuned(sample.REVIEWS, 9080, clients.http1, "subset: v9")
_UPGRADE: Final = "trafficPolicy: {connectionPool: {http: {h2UpgradePolicy: UPGRADE}}}"
_A_WHILE: Final = "/slow?ms=100"
"""Else the first connection that is ready would have answered everybody before the others are, on a busy machine."""
CARRIED: Final = Tuned(sample.REVIEWS, 9083, partial(clients.http1, path=_A_WHILE), _UPGRADE)
CARRIED_WEBSOCKET: Final = Tuned(sample.REVIEWS, 9083, clients.websocket, _UPGRADE)
SLOW: Final = Call(sample.RATINGS, 9080, clients.http1)
TIMED: Final = Tuned(sample.RATINGS, 9080, partial(clients.http1, path="/slow?ms=1500"), "timeout: 500ms")
RETRIED: Final = Tuned(sample.RATINGS, 9080, clients.http1, 'retries: {attempts: 2, retryOn: "503"}')
GRPC: Final = Tuned(sample.REVIEWS, 50051, clients.grpc_unary)
HTTP2: Final = Tuned(sample.REVIEWS, 9090, partial(clients.http2, path=_A_WHILE))

SCENARIOS: Final = (
    Scenario("subset", Verdict.ALLOW, "a subset of the pods", in_subset),
    Scenario("no-such-subset", Verdict.DENY, "a subset that is not defined", no_such_subset),
    Scenario("http2-spread", Verdict.ALLOW, "HTTP/2 calls shared by two pods", partial(spread, HTTP2)),
    Scenario("grpc-spread", Verdict.ALLOW, "gRPC calls shared by two pods", partial(spread, GRPC)),
    Scenario("h2-upgrade", Verdict.ALLOW, "HTTP/1.1 callers carried over HTTP/2, shared by two pods", carried),
    Scenario(
        "h2-upgrade-websocket",
        Verdict.ALLOW,
        "a WebSocket beside HTTP/1.1 carried over HTTP/2",
        partial(allowed, CARRIED_WEBSOCKET),
    ),
    Scenario("slow", Verdict.ALLOW, "a slow answer without a time limit", slow),
    Scenario("slow-post", Verdict.ALLOW, "a slow answer to a POST", slow_post),
    Scenario("timeout", Verdict.DENY, "a slow answer with a time limit", out_of_time),
    Scenario("retry", Verdict.ALLOW, "a GET is sent again after a 503", asked_again),
    Scenario("retry-post", Verdict.DENY, "a POST is not sent again after a 503", not_repeated),
)
EGRESS: Final = ((GRPC.service, GRPC.port),)
TUNED: Final = tuple(
    dict.fromkeys((call.service, call.port, call.traffic) for call in (SUBSET, NO_SUBSET, CARRIED, TIMED, RETRIED))
)

"""Machines that stay untouched call through a forwarder: those that its spec names, and those that it does not.

All is on loopback, so what differs is which addresses the forwarder is told to let in.
"""

from __future__ import annotations

import json
from base64 import b64encode
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Final

from sidestep.lab import clients, sample
from sidestep.lab.scenarios.scenario import Call, Outcome, Scenario, Verdict, not_refused

if TYPE_CHECKING:
    from sidestep.lab.clients import Answer
    from sidestep.lab.session import Lab

_HERE: Final = "{cidrs: [127.0.0.1/32]}"
_ELSEWHERE: Final = "{cidrs: [127.0.0.2/32]}"
_ASKING: Final = "{cidrs: [127.0.0.1/32], credentials: clients.htpasswd}"
_BALANCED: Final = "{cidrs: [192.0.2.0/24], proxyProtocol: {from: [127.0.0.1/32]}}"
_BALANCED_ELSEWHERE: Final = "{cidrs: [192.0.2.0/24], proxyProtocol: {from: [127.0.0.2/32]}}"
_CLIENT: Final = "192.0.2.7"
_HEADER: Final = f"PROXY TCP4 {_CLIENT} 127.0.0.1 1234 80\r\n"
_HTTP: Final = Call(sample.REVIEWS, 9080, clients.http1)
_GREETING: Final = Call(sample.LEDGER, 2525, clients.tcp_greeting)
_BY_NAME: Final = f"{sample.REVIEWS.host}:9080"
_USERS: Final = "ada:{SHA}CNuFNtqnUctq2NEQEiz9eAdUNS4=\n"
"""What ``htpasswd -nbs ada countess`` prints."""


async def admitted(lab: Lab) -> Outcome:
    """The service answers; it knows the forwarder by its certificate, and hears nothing else of who calls."""
    forged = {"x-forwarded-client-cert": "By=forged"}
    async with lab.forwarder(_HTTP, _HERE, "") as forwarder:
        answer = await clients.http1(forwarder.machine.listen(_HTTP.service, _HTTP.port), headers=forged)
    if not answer.ok:
        return Outcome(Verdict.DENY, ok=False, detail=f"{answer.status} {answer.error}".strip())
    told = "forged" not in answer.text and answer.principal == _PRINCIPAL
    return Outcome(Verdict.ALLOW, ok=told, detail=f"{answer.status}, the service saw {sample.BILLING}")


async def another_network(call: Call, lab: Lab) -> Outcome:
    """The connection is closed before a byte: not even a server that speaks first is heard."""
    async with lab.forwarder(call, _ELSEWHERE, "") as forwarder:
        log = forwarder.machine.log
        mark = log.mark()
        answer = await call.by(forwarder.machine)
        refusal = await log.wait(mark, lambda entry: entry.fields.get("response_flags") == "NR")
    if answer.ok or answer.text or refusal is None:
        return not_refused(answer, "the forwarder did not close the connection at once")
    return Outcome(Verdict.DENY, ok=True, detail="closed before a byte; the forwarder logs NR for 127.0.0.1")


async def _by_password(credentials: str, lab: Lab) -> Answer:
    header = {"proxy-authorization": f"Basic {b64encode(credentials.encode()).decode()}"} if credentials else {}
    async with lab.forwarder(_HTTP, _ASKING, _USERS) as forwarder:
        log = forwarder.machine.log
        mark = log.mark()
        answer = await clients.http1(forwarder.machine.proxy, by_name=_BY_NAME, headers=header)
        entry = await log.wait(mark, lambda entry: entry.kind == "http")
    return replace(answer, text=f"{entry.fields.get('user') if entry else ''} {answer.text}")


async def right_password(lab: Lab) -> Outcome:
    """The proxy lets the user in, knows the name, and keeps the password to itself."""
    answer = await _by_password("ada:countess", lab)
    if not answer.ok:
        return Outcome(Verdict.DENY, ok=False, detail=f"{answer.status} {answer.error}".strip())
    name, _, seen = answer.text.partition(" ")
    kept = name == "ada" and "proxy-authorization" not in seen
    return Outcome(Verdict.ALLOW, ok=kept, detail=f"{answer.status}, the forwarder logs user {name}")


async def wrong_password(credentials: str, lab: Lab) -> Outcome:
    """The proxy says that it wants others."""
    answer = await _by_password(credentials, lab)
    if answer.ok or answer.status != "407":
        return not_refused(answer, "it is not 407")
    return Outcome(Verdict.DENY, ok=True, detail=f"{answer.status} {answer.error}")


async def through_balancer(lab: Lab) -> Outcome:
    """The balancer says who its client is; the service hears of that address."""
    async with lab.forwarder(_HTTP, _BALANCED, "") as forwarder:
        answer = await clients.balanced(forwarder.machine.listen(_HTTP.service, _HTTP.port), _HEADER)
    if not answer.ok:
        return Outcome(Verdict.DENY, ok=False, detail=f"{answer.status} {answer.error}".strip())
    seen = json.loads(answer.text)["headers"].get("x-forwarded-for")
    return Outcome(Verdict.ALLOW, ok=seen == _CLIENT, detail=f"{answer.status}, the service was told of {seen}")


async def forged_address(lab: Lab) -> Outcome:
    """Somebody who is no balancer says to be a client: the connection is closed, and the log has both addresses."""
    async with lab.forwarder(_HTTP, _BALANCED_ELSEWHERE, "") as forwarder:
        log = forwarder.machine.log
        mark = log.mark()
        answer = await clients.balanced(forwarder.machine.listen(_HTTP.service, _HTTP.port), _HEADER)
        refusal = await log.wait(mark, lambda entry: entry.fields.get("response_flags") == "NR")
    real = str(refusal.fields["downstream_direct_remote_address"]) if refusal else ""
    if answer.ok or answer.text or not real.startswith("127.0.0.1:"):
        return not_refused(answer, "the forwarder did not close the connection at once")
    return Outcome(Verdict.DENY, ok=True, detail=f"closed before a byte; the forwarder logs NR for {real}")


async def silent_balancer(lab: Lab) -> Outcome:
    """A balancer that does not say who its client is."""
    async with lab.forwarder(_HTTP, _BALANCED, "") as forwarder:
        port = forwarder.machine.listen(_HTTP.service, _HTTP.port)
        answer = await clients.balanced(port, "")
        named = await clients.balanced(port, _HEADER)
    if answer.ok or answer.text or not named.ok:
        return not_refused(answer, "it is not for want of the header")
    return Outcome(Verdict.DENY, ok=True, detail="closed before a byte; with the header it is answered")


async def draining(lab: Lab) -> Outcome:
    """Load balancers are told to go elsewhere, while whoever is there is still served."""
    async with lab.forwarder(_HTTP, _HERE, "") as forwarder:
        before = await clients.http1(forwarder.health, "/healthz/ready")
        await forwarder.machine.process.admin("/healthcheck/fail", "POST")
        after = await clients.http1(forwarder.health, "/healthz/ready")
        served = await _HTTP.by(forwarder.machine)
    ok = (before.status, after.status, served.status) == ("200", "503", "200")
    verdict = Verdict.ALLOW if ok else Verdict.DENY
    detail = f"health {before.status}, then {after.status} while calls are answered {served.status}"
    return Outcome(verdict, ok, detail)


_PRINCIPAL: Final = f"spiffe://{sample.BILLING}"
SCENARIOS: Final = (
    Scenario("forwarder", Verdict.ALLOW, "through a forwarder, from a network that it serves", admitted),
    Scenario("forwarder-password", Verdict.ALLOW, "through a forwarder's proxy, with a password", right_password),
    Scenario("forwarder-balancer", Verdict.ALLOW, "through a balancer that says who its client is", through_balancer),
    Scenario("forwarder-health", Verdict.ALLOW, "a forwarder that drains", draining),
    Scenario(
        "forwarder-other-network",
        Verdict.DENY,
        "HTTP to a forwarder for another network",
        partial(another_network, _HTTP),
    ),
    Scenario(
        "forwarder-server-first",
        Verdict.DENY,
        "TCP to a forwarder for another network, where the server speaks first",
        partial(another_network, _GREETING),
    ),
    Scenario("forwarder-forged-address", Verdict.DENY, "in a balancer's words, and is none", forged_address),
    Scenario("forwarder-balancer-silent", Verdict.DENY, "a balancer that names no client", silent_balancer),
    Scenario(
        "forwarder-wrong-password",
        Verdict.DENY,
        "to a forwarder's proxy, with a wrong password",
        partial(wrong_password, "ada:count"),
    ),
    Scenario(
        "forwarder-no-password",
        Verdict.DENY,
        "to a forwarder's proxy, without a password",
        partial(wrong_password, ""),
    ),
)

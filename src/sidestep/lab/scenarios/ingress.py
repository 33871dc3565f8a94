"""Calls from pods of the mesh to the machine's own applications: those that it admits, and those that it must not."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Final

from sidestep.lab import clients, sample
from sidestep.lab.scenarios.scenario import Outcome, Scenario, Verdict, not_refused
from sidestep.lab.services import serve_http
from sidestep.pki.spiffe import SpiffeId

if TYPE_CHECKING:
    from sidestep.lab.access_log import Entry
    from sidestep.lab.clients import Answer
    from sidestep.lab.identities import Authorities
    from sidestep.lab.pod import Outbound
    from sidestep.lab.session import Lab
    from sidestep.pki.identity import Identity

_PRODUCTPAGE: Final = SpiffeId.parse(f"spiffe://{sample.PRODUCTPAGE}")
_FORGED: Final = "spiffe://cluster.local/ns/hr/sa/director"
_PATIENCE: Final = 10.0
"""Seconds that a health check may take to notice."""


@dataclass(frozen=True)
class FromMesh:
    """A call of a pod's application to a port of the machine."""

    port: int
    client: Callable[[int], Awaitable[Answer]]

    def __str__(self) -> str:
        return f"billing.vms:{self.port}"


async def admitted(call: FromMesh, lab: Lab) -> Outcome:
    """The machine answers, knows the pod by its certificate, and tells the application."""
    mark = lab.machine.log.mark()
    async with lab.pod(_productpage) as pod:
        answer = await call.client(pod.listen(call.port))
    seen = await lab.machine.log.wait(mark, lambda entry: entry.principal == str(_PRODUCTPAGE) and not entry.refusal)
    if not answer.ok:
        return Outcome(Verdict.DENY, ok=False, detail=f"{answer.status} {answer.error}".strip())
    if seen is None:
        return Outcome(Verdict.ALLOW, ok=False, detail="answered, but the machine did not see the pod's principal")
    if answer.principal not in {"", str(_PRODUCTPAGE)}:
        return Outcome(Verdict.ALLOW, ok=False, detail=f"the application was told of {answer.principal!r}")
    status = f"{answer.status}, " if answer.status else ""
    return Outcome(Verdict.ALLOW, ok=True, detail=f"{status}the machine's Envoy saw {sample.PRODUCTPAGE}")


async def told_to_the_application(lab: Lab) -> Outcome:
    """The application hears who calls, in XFCC, and nothing that the caller says of itself or of others."""
    forged = {"x-forwarded-client-cert": f"URI={_FORGED}", "x-envoy-peer-metadata-id": "forged"}
    async with lab.pod(_productpage) as pod:
        answer = await clients.http1(pod.listen(sample.INVOICES.number), headers=forged)
    if not answer.ok:
        return Outcome(Verdict.DENY, ok=False, detail=f"{answer.status} {answer.error}".strip())
    heard = json.loads(answer.text)
    xfcc = heard["headers"]["x-forwarded-client-cert"]
    fine = heard["principal"] == str(_PRODUCTPAGE) and _FORGED not in xfcc and not heard["peerMetadata"]
    return Outcome(Verdict.ALLOW, ok=fine, detail=f"forged headers were sent; the application heard {xfcc}")


@dataclass(frozen=True)
class Caller:
    """A pod like the one that is admitted, but for one thing."""

    identity: Callable[[Authorities], Identity]
    reason: str
    """What stands in the log of whoever refuses; empty where it depends on Envoy's version."""
    change: Callable[[Outbound], Outbound] | None = None
    refused_by: str = "machine"
    """``machine`` or ``pod``: whose log tells."""


async def refused(caller: Caller, call: FromMesh, lab: Lab) -> Outcome:
    """The same call as one that passes, from a pod that must not be let in. Nothing of the application is seen."""
    mark = lab.machine.log.mark()
    async with lab.pod(caller.identity, caller.change) as pod:
        log = lab.machine.log if caller.refused_by == "machine" else pod.envoy.log
        mark = mark if caller.refused_by == "machine" else log.mark()
        answer = await call.client(pod.listen(call.port))
        reason = caller.reason if lab.runtime.envoy.version >= (1, 37, 0) else _older(caller.reason)
        refusal = await log.wait(mark, lambda entry: reason in entry.refusal)
    if answer.ok or refusal is None:
        return not_refused(answer, f"no {caller.refused_by} said {reason!r}")
    if "220 " in answer.text or "billing" in answer.text:
        return Outcome(Verdict.DENY, ok=False, detail=f"refused, but it saw {answer.text!r}")
    said = " ".join(part for part in (answer.status, answer.error.split(". ")[0][:100]) if part)
    return Outcome(Verdict.DENY, ok=True, detail=f"{said}; the {caller.refused_by} says {_said(refusal, reason)}")


def _older(reason: str) -> str:
    """Before 1.37 Envoy only said that it could not verify a certificate."""
    return "CERTIFICATE_VERIFY_FAILED" if reason in {"SAN_matcher", "unable_to_get_local_issuer"} else reason


def _said(entry: Entry, reason: str) -> str:
    return reason if len(entry.refusal) > 120 else entry.refusal


async def path_denied(lab: Lab) -> Outcome:
    """The machine admits the pod, and not this path."""
    mark = lab.machine.log.mark()
    async with lab.pod(_productpage) as pod:
        port = pod.listen(sample.INVOICES.number)
        allowed = await clients.http1(port, "/public/terms")
        answers = [await clients.http1(port, path) for path in ("/admin", "/public/../admin", "/public/..%2fadmin")]
    seen = await lab.machine.log.wait(mark, lambda entry: entry.refusal.startswith("rbac_access_denied"))
    statuses = [answer.status for answer in answers]
    if any(answer.ok for answer in answers) or seen is None:
        return not_refused(answers[0], f"statuses were {statuses}")
    detail = f"/public/terms {allowed.status}; /admin {statuses[0]}, and by way of /public/.. {statuses[1]} and "
    return Outcome(
        Verdict.DENY, ok=allowed.ok and statuses == ["403", "403", "400"], detail=f"{detail}%2f {statuses[2]}"
    )


async def unwell(lab: Lab) -> Outcome:
    """Calls fail at once while the application is down, and pass when it is up."""
    [served] = [each for each in lab.machine.ingress if each.port == sample.UNSTEADY]
    async with lab.pod(_productpage) as pod:
        port = pod.listen(sample.UNSTEADY.number)
        down = await clients.http1(port)
        async with serve_http("billing", port=served.application):
            up = await _eventually(port, ok=True)
        again = await _eventually(port, ok=False)
    fine = down.status == "503" and "no healthy upstream" in down.error and up.ok and again.status == "503"
    detail = f"down: {down.status} {down.error} in {down.milliseconds:.0f} ms; up: {up.status}; down: {again.status}"
    return Outcome(Verdict.DENY if fine else Verdict.ALLOW, fine, detail)


async def _eventually(port: int, *, ok: bool) -> Answer:
    async with asyncio.timeout(_PATIENCE):
        while (answer := await clients.http1(port)).ok != ok:
            await asyncio.sleep(0.05)
    return answer


def _productpage(authorities: Authorities) -> Identity:
    return authorities.workload(_PRODUCTPAGE)


def _intruder(authorities: Authorities) -> Identity:
    return authorities.workload(replace(_PRODUCTPAGE, service_account="intruder"))


def _other_root(authorities: Authorities) -> Identity:
    return authorities.of_another_root(_PRODUCTPAGE)


def _plaintext(outbound: Outbound) -> Outbound:
    return replace(outbound, mtls=False)


def _without_certificate(outbound: Outbound) -> Outbound:
    return replace(outbound, certificate=False)


def _other_server(outbound: Outbound) -> Outbound:
    return replace(outbound, server=outbound.server + "-2")


HTTP1: Final = FromMesh(sample.INVOICES.number, clients.http1)
GREETING: Final = FromMesh(2525, clients.tcp_greeting)
ADMITTED: Final[Mapping[str, tuple[str, FromMesh]]] = {
    "machine-http": ("HTTP/1.1 from a pod to the machine", HTTP1),
    "machine-websocket": (
        "a WebSocket from a pod to the machine",
        FromMesh(sample.INVOICES.number, clients.websocket),
    ),
    "machine-grpc": ("gRPC from a pod to the machine", FromMesh(50051, clients.grpc_unary)),
    "machine-grpc-bidi": ("gRPC streams between a pod and the machine", FromMesh(50051, clients.grpc_bidi)),
    "machine-tcp": ("TCP from a pod to the machine", FromMesh(9000, clients.tcp_echo)),
    "machine-server-first": ("TCP where the machine speaks first", GREETING),
}
REFUSED: Final[Mapping[str, tuple[str, Caller, FromMesh]]] = {
    "machine-other-principal": (
        "a pod that the machine does not admit",
        Caller(_intruder, "SAN_matcher"),
        HTTP1,
    ),
    "machine-no-greeting": (
        "a pod that it does not admit, where the machine speaks first",
        Caller(_intruder, "SAN_matcher"),
        GREETING,
    ),
    "machine-other-root": (
        "a pod with a certificate of another root",
        Caller(_other_root, "unable_to_get_local_issuer"),
        HTTP1,
    ),
    "machine-no-certificate": (
        "a pod without certificate",
        Caller(_productpage, "PEER_DID_NOT_RETURN_A_CERTIFICATE", _without_certificate),
        HTTP1,
    ),
    "machine-plaintext": (
        "a pod that speaks plain text",
        Caller(_productpage, "TLS_error", _plaintext),
        HTTP1,
    ),
    "machine-other-identity": (
        "a machine that is not the one that the mesh expects",
        Caller(_productpage, "SAN_matcher", _other_server, refused_by="pod"),
        HTTP1,
    ),
}
SCENARIOS: Final = (
    *(Scenario(name, Verdict.ALLOW, title, partial(admitted, call)) for name, (title, call) in ADMITTED.items()),
    Scenario("machine-caller-told", Verdict.ALLOW, "the application hears who calls", told_to_the_application),
    *(
        Scenario(name, Verdict.DENY, title, partial(refused, caller, call))
        for name, (title, caller, call) in REFUSED.items()
    ),
    Scenario("machine-path-denied", Verdict.DENY, "a path that the machine's rules do not name", path_denied),
    Scenario("machine-unwell", Verdict.DENY, "the machine's application is down", unwell),
)

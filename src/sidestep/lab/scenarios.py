"""What the lab shows: calls that pass, and calls that must not.

Every refusal names who must have refused and for which reason, so that it cannot pass for a wrong one; and every
refusal is the same call as one that passes, but for the one thing that is wrong.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import partial
from typing import TYPE_CHECKING, Final

from sidestep.lab import clients, sample
from sidestep.lab.clients import Answer
from sidestep.lab.topology import Service
from sidestep.pki.spiffe import SpiffeId

if TYPE_CHECKING:
    from sidestep.lab.access_log import Entry
    from sidestep.lab.identities import Authorities
    from sidestep.lab.machine import Edit, Machine
    from sidestep.lab.session import Lab
    from sidestep.pki.identity import Identity

Client = Callable[[int], Awaitable[Answer]]


class Verdict(StrEnum):
    """What came of a scenario."""

    ALLOW = "allow"
    DENY = "deny"
    ERROR = "error"
    """It could not be carried out."""


@dataclass(frozen=True)
class Outcome:
    """What came of one scenario, in a word and in a sentence."""

    result: Verdict
    ok: bool
    detail: str


@dataclass(frozen=True)
class Scenario:
    """One thing to see."""

    name: str
    expect: Verdict
    title: str
    """Who calls whom, in words."""
    run: Callable[[Lab], Awaitable[Outcome]]


@dataclass(frozen=True)
class Call:
    """A call of the machine's application to a local address that stands for a port of a service."""

    service: Service
    port: int
    client: Client

    def __str__(self) -> str:
        return f"{self.service.name}.{self.service.namespace}:{self.port}"

    async def by(self, machine: Machine) -> Answer:
        """Makes the call on a machine."""
        return await self.client(machine.listen(self.service, self.port))


HTTP1: Final = Call(sample.REVIEWS, 9080, clients.http1)
GREETING: Final = Call(sample.PAYROLL, 2525, clients.tcp_greeting)


# Calls that pass


async def allowed(call: Call, lab: Lab) -> Outcome:
    """The call is answered, and the destination's sidecar knows the machine by its certificate."""
    marks = lab.marks(call.service)
    answer = await call.by(lab.machine)
    seen = await marks.sidecar(lambda entry: entry.principal == str(lab.machine.spiffe_id) and not entry.refusal)
    if not answer.ok:
        return Outcome(Verdict.DENY, ok=False, detail=f"{answer.status} {answer.error}".strip())
    if seen is None:
        return Outcome(Verdict.ALLOW, ok=False, detail="answered, but no sidecar saw the machine's principal")
    status = f"{answer.status}, " if answer.status else ""
    way = f"by gateway {await marks.gateway(call)} and the sidecar of {call.service.name}"
    return Outcome(Verdict.ALLOW, ok=True, detail=f"{status}{way}, which saw {lab.machine.spiffe_id.principal}")


async def several_services(lab: Lab) -> Outcome:
    """Calls to four services at the same time."""
    calls = [HTTP1, Call(sample.LEDGER, 50051, clients.grpc_unary), Call(sample.LEDGER, 9000, clients.tcp_echo)]
    calls.append(Call(sample.RATINGS, 9080, clients.http1))
    answers = await asyncio.gather(*(call.by(lab.machine) for call in calls for _ in range(5)))
    failed = [answer for answer in answers if not answer.ok]
    detail = f"{len(answers)} calls at once to {', '.join(map(str, calls))}; {len(failed)} failed"
    return _without_failure(not failed, detail)


async def rotation(lab: Lab) -> Outcome:
    """The certificate is replaced again and again while requests flow."""
    rotations = 5
    async with clients.load(lab.machine.listen(sample.REVIEWS, 9080)) as load:
        await load.more(50)
        taken = 0
        for _ in range(rotations):
            taken += await lab.renew()
            await load.more(50)
    detail = f"{taken} of {rotations} new certificates in use at once, without a restart"
    detail += f"; {load.failed} of {load.total} requests failed"
    return _without_failure(taken == rotations and load.failed == 0, _with_errors(detail, load))


async def service_added_and_removed(lab: Lab) -> Outcome:
    """A service comes into the spec and goes again, without a restart, while requests to another flow."""
    machine, call = lab.machine, Call(sample.RATINGS, 50051, clients.grpc_unary)
    pid = machine.process.pid
    async with clients.load(machine.listen(sample.REVIEWS, 9080)) as load:
        await load.more(50)
        async with lab.added(call.service, call.port) as listen:
            answer = await call.client(listen)
            await load.more(50)
        gone = await lab.is_closed(listen)
        await load.more(50)
    fine = answer.ok and gone and load.failed == 0 and machine.process.pid == pid
    detail = f"{call} {'answered' if answer.ok else 'did not answer'} while it was there, "
    detail += "then its port was closed" if gone else "but its port stayed open"
    return _without_failure(fine, _with_errors(f"{detail}; {load.failed} of {load.total} other requests failed", load))


async def gateway_lost(lab: Lab) -> Outcome:
    """The gateway in use is killed while requests flow: the other one takes them."""
    machine, gateway = lab.machine, lab.mesh.gateways[0]
    async with clients.load(machine.listen(sample.REVIEWS, 9080)) as load:
        await load.more(100)
        await gateway.envoy.kill()
        try:
            await load.more(300)
        finally:
            await gateway.envoy.start()
    detail = f"killed {gateway.address}:{gateway.port}; {load.failed} of {load.total} GET requests failed"
    return _without_failure(load.failed == 0, _with_errors(detail, load))


def _without_failure(fine: bool, detail: str) -> Outcome:
    return Outcome(Verdict.ALLOW if fine else Verdict.DENY, fine, detail)


def _with_errors(detail: str, load: clients.Load) -> str:
    return f"{detail} ({'; '.join(load.errors)})" if load.errors else detail


# Calls that the destination's AuthorizationPolicy denies


async def denied_by_policy(call: Call, lab: Lab) -> Outcome:
    """The sidecar knows the machine, and its policy admits somebody else."""
    marks = lab.marks(call.service)
    answer = await call.by(lab.machine)
    seen = await marks.sidecar(lambda entry: entry.refusal.startswith("rbac_access_denied"))
    said = " ".join(part for part in (answer.status, answer.error) if part)
    if answer.ok or seen is None or seen.principal != str(lab.machine.spiffe_id):
        return _not_refused(answer, "no sidecar denied it by policy")
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


# Machines that are not what they should be

_NO_CERTIFICATE: Final = "PEER_DID_NOT_RETURN_A_CERTIFICATE"
_NO_CHAIN: Final = "no filter chain"


@dataclass(frozen=True)
class Impostor:
    """A machine like the lab's own, but for one thing."""

    identity: Callable[[Authorities], Identity]
    """The certificate that it holds."""
    refused_by: str
    """``gateway``, ``sidecar`` or ``machine``: whose log tells."""
    reason: str
    """What stands there."""
    edit: Edit | None = None

    def reason_in(self, version: tuple[int, int, int]) -> str:
        """What stands there in an Envoy's words: before 1.37 it only said that it could not verify a certificate."""
        verified = self.reason not in {_NO_CERTIFICATE, _NO_CHAIN}
        return "CERTIFICATE_VERIFY_FAILED" if verified and version < (1, 37, 0) else self.reason


async def impostor(kind: Impostor, call: Call, lab: Lab) -> Outcome:
    """The same call as one that passes, from a machine that must not be let in."""
    async with lab.other_machine(call, kind.identity, kind.edit) as machine:
        marks = lab.marks(call.service, machine)
        answer = await call.by(machine)
        reason = kind.reason_in(lab.runtime.envoy.version)
        refusal = await marks.of(kind.refused_by, lambda entry: reason in entry.refusal)
    if answer.ok or refusal is None:
        return _not_refused(answer, f"no {kind.refused_by} said {kind.reason!r}")
    said = " ".join(part for part in (answer.status, answer.error.split(". ")[0]) if part)
    return Outcome(Verdict.DENY, ok=True, detail=f"{_short(said)}; the {kind.refused_by} says {_reason(refusal, kind)}")


def _reason(entry: Entry, kind: Impostor) -> str:
    return kind.reason if len(entry.refusal) > 120 else entry.refusal


def _short(text: str) -> str:
    return text if len(text) <= 120 else text[:117] + "…"


def _not_refused(answer: Answer, missing: str) -> Outcome:
    if answer.ok:
        return Outcome(Verdict.ALLOW, ok=False, detail=f"{answer.status} answered, as it must not")
    return Outcome(Verdict.DENY, ok=False, detail=f"{answer.status} {answer.error}, but {missing}")


_BILLING: Final = SpiffeId.parse(f"spiffe://{sample.BILLING}")


def _own(authorities: Authorities) -> Identity:
    return authorities.machine(_BILLING)


def _other_root(authorities: Authorities) -> Identity:
    return authorities.of_another_root(_BILLING)


def _expired(authorities: Authorities) -> Identity:
    return authorities.expired(_BILLING)


def _other_trust_domain(authorities: Authorities) -> Identity:
    return authorities.machine(replace(_BILLING, trust_domain="elsewhere.example"))


def _outside_constraint(authorities: Authorities) -> Identity:
    return authorities.outside_its_constraint(_BILLING, permitted="vms.example")


def _without_alpn(cluster: dict[str, object]) -> None:
    _common_tls(cluster).pop("alpn_protocols")


def _without_certificate(cluster: dict[str, object]) -> None:
    _common_tls(cluster).pop("tls_certificate_sds_secret_configs")


def _common_tls(cluster: dict[str, object]) -> dict[str, object]:
    value: object = cluster
    for key in ("transport_socket", "typed_config", "common_tls_context"):
        assert isinstance(value, dict)
        value = value[key]
    assert isinstance(value, dict)
    return value


_ALLOWED: Final[Mapping[str, tuple[str, Call]]] = {
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
_DENIED: Final[Mapping[str, tuple[str, Call]]] = {
    "no-policy-http": ("HTTP to a service that admits others", Call(sample.PAYROLL, 9080, clients.http1)),
    "no-policy-grpc": ("gRPC to a service that admits others", Call(sample.PAYROLL, 50051, clients.grpc_unary)),
    "no-policy-tcp": ("TCP to a service that admits others", Call(sample.PAYROLL, 9000, clients.tcp_echo)),
}
_IMPOSTORS: Final[Mapping[str, tuple[str, Impostor, Call]]] = {
    "other-root": (
        "a certificate of another root",
        Impostor(_other_root, "sidecar", "unable_to_get_local_issuer_certificate"),
        HTTP1,
    ),
    "expired": ("an expired certificate", Impostor(_expired, "sidecar", "certificate_has_expired"), HTTP1),
    "wrong-trust-domain": (
        "a certificate of a trust domain that the mesh does not accept",
        Impostor(_other_trust_domain, "sidecar", "SAN_matcher"),
        HTTP1,
    ),
    "outside-name-constraint": (
        "a certificate from a CA that may not sign for this trust domain",
        Impostor(_outside_constraint, "sidecar", "permitted_subtree_violation"),
        HTTP1,
    ),
    "no-client-certificate": (
        "no certificate at all",
        Impostor(_own, "sidecar", _NO_CERTIFICATE, _without_certificate),
        HTTP1,
    ),
    "no-alpn": ("none of Istio's ALPN names", Impostor(_own, "gateway", _NO_CHAIN, _without_alpn), HTTP1),
    "not-exported": (
        "a service that the gateway does not export",
        Impostor(_own, "gateway", _NO_CHAIN),
        Call(sample.ADMIN, 9080, clients.http1),
    ),
    "wrong-server": (
        "a service in whose place another workload answers",
        Impostor(_own, "machine", "SAN_matcher"),
        Call(sample.DETAILS, 9080, clients.http1),
    ),
}

SCENARIOS: Final[tuple[Scenario, ...]] = (
    *(Scenario(name, Verdict.ALLOW, title, partial(allowed, call)) for name, (title, call) in _ALLOWED.items()),
    Scenario("several-services", Verdict.ALLOW, "several services at once", several_services),
    Scenario("certificate-rotation", Verdict.ALLOW, "new certificates under load", rotation),
    Scenario("service-added-and-removed", Verdict.ALLOW, "the spec changes under load", service_added_and_removed),
    Scenario("gateway-lost", Verdict.ALLOW, "a gateway dies under load", gateway_lost),
    *(Scenario(name, Verdict.DENY, title, partial(denied_by_policy, call)) for name, (title, call) in _DENIED.items()),
    Scenario("no-policy-server-first", Verdict.DENY, "a server that speaks first and admits others", greeting_denied),
    *(
        Scenario(name, Verdict.DENY, title, partial(impostor, kind, call))
        for name, (title, kind, call) in _IMPOSTORS.items()
    ),
)

EGRESS: Final = tuple(
    dict.fromkeys((call.service, call.port) for _, call in (*_ALLOWED.values(), *_DENIED.values(), ("", GREETING)))
)
"""What the lab's machine calls from the start; the port that `service_added_and_removed` adds is not among it."""

"""Machines that are not what they should be, and services that are not: refused in the handshake."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Final

from sidestep.lab import clients, sample
from sidestep.lab.scenarios.calls import HTTP1
from sidestep.lab.scenarios.scenario import Call, Outcome, Scenario, Verdict, not_refused
from sidestep.pki.spiffe import SpiffeId

if TYPE_CHECKING:
    from sidestep.lab.access_log import Entry
    from sidestep.lab.identities import Authorities
    from sidestep.lab.machine import Edit
    from sidestep.lab.session import Lab
    from sidestep.pki.identity import Identity

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
        return not_refused(answer, f"no {kind.refused_by} said {kind.reason!r}")
    said = " ".join(part for part in (answer.status, answer.error.split(". ")[0]) if part)
    return Outcome(Verdict.DENY, ok=True, detail=f"{_short(said)}; the {kind.refused_by} says {_reason(refusal, kind)}")


def _reason(entry: Entry, kind: Impostor) -> str:
    return kind.reason if len(entry.refusal) > 120 else entry.refusal


def _short(text: str) -> str:
    return text if len(text) <= 120 else text[:117] + "…"


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
SCENARIOS: Final = tuple(
    Scenario(name, Verdict.DENY, title, partial(impostor, kind, call))
    for name, (title, kind, call) in _IMPOSTORS.items()
)

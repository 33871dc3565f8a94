"""Applications that know a service by its name and its own port: names that stand for an address of each service.

The names come from the resolver of `sidestep dns`, which the machine itself is never told to use.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Final

import dns.asyncquery
import dns.message
import dns.rcode

from sidestep import onboard
from sidestep.lab import clients, sample
from sidestep.lab.scenarios.scenario import Call, Outcome, Scenario, Verdict, not_refused
from sidestep.resolver import Resolver, Zone

if TYPE_CHECKING:
    from sidestep.lab.machine import Machine
    from sidestep.lab.session import Lab

_REVIEWS: Final = Call(sample.REVIEWS, 9080, clients.http1)
_PAYROLL: Final = Call(sample.PAYROLL, 9080, clients.http1)
_SECONDS: Final = 5.0


async def _resolved(machine: Machine, name: str) -> str:
    """The address of a name, or what the resolver says instead."""
    zone = Zone(
        {each: address for address, names in onboard.manifest(machine.bundle)["names"].items() for each in names}
    )
    async with Resolver(zone, "127.0.0.1", 0) as resolver:
        query = dns.message.make_query(name, "A")
        response = await dns.asyncquery.udp(query, "127.0.0.1", _SECONDS, resolver.port)
    found = [str(record) for rrset in response.answer for record in rrset]
    return found[0] if found else dns.rcode.to_text(response.rcode())


async def by_own_port(lab: Lab) -> Outcome:
    """Two services on one port number, each at its own address; the sidecar knows the machine."""
    async with lab.addressed_machine((_REVIEWS, _PAYROLL)) as machine:
        marks = lab.marks(sample.REVIEWS, machine)
        address = await _resolved(machine, "reviews.bookinfo")
        answer = await clients.at(address, 9080, "reviews.bookinfo")
        seen = await marks.sidecar(lambda entry: entry.principal == str(machine.spiffe_id) and not entry.refusal)
    fine = answer.ok and seen is not None
    detail = f"reviews.bookinfo is {address}; {answer.status} from port 9080 {answer.error}".strip()
    return Outcome(Verdict.ALLOW if answer.ok else Verdict.DENY, fine, detail)


async def another_address(lab: Lab) -> Outcome:
    """The same port at another service's address, which admits others; and a name that is no egress."""
    async with lab.addressed_machine((_REVIEWS, _PAYROLL)) as machine:
        marks = lab.marks(sample.PAYROLL, machine)
        address, unknown = await _resolved(machine, "payroll.hr"), await _resolved(machine, "details.bookinfo")
        answer = await clients.at(address, 9080, "payroll.hr")
        seen = await marks.sidecar(lambda entry: entry.refusal.startswith("rbac_access_denied"))
    if answer.ok or seen is None or unknown != "REFUSED":
        return not_refused(answer, f"no sidecar denied it by policy, or details.bookinfo was {unknown}")
    detail = f"payroll.hr is {address}: {answer.status} {answer.error}; details.bookinfo, no egress, is {unknown}"
    return Outcome(Verdict.DENY, ok=True, detail=detail)


_ALL: Final = (
    Scenario(
        "own-address", Verdict.ALLOW, "HTTP to a name and port of the mesh, by an address of its own", by_own_port
    ),
    Scenario("own-address-no-policy", Verdict.DENY, "the same to a service that admits others", another_address),
)
SCENARIOS: Final = _ALL if sys.platform == "linux" else ()
"""Elsewhere each address would have to be added by root first."""

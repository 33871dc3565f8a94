"""Things that change under load: certificates, the spec."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sidestep.lab import clients, sample
from sidestep.lab.load import keep_calling
from sidestep.lab.scenarios.scenario import Call, Outcome, Scenario, Verdict, with_errors, without_failure

if TYPE_CHECKING:
    from sidestep.lab.session import Lab


async def rotation(lab: Lab) -> Outcome:
    """The certificate is replaced again and again while requests flow."""
    rotations = 5
    async with keep_calling(lab.machine.listen(sample.REVIEWS, 9080)) as load:
        await load.more(50)
        taken = 0
        for _ in range(rotations):
            taken += await lab.renew()
            await load.more(50)
    detail = f"{taken} of {rotations} new certificates in use at once, without a restart"
    detail += f"; {load.failed} of {load.total} requests failed"
    return without_failure(taken == rotations and load.failed == 0, with_errors(detail, load))


async def service_added_and_removed(lab: Lab) -> Outcome:
    """A service comes into the spec and goes again, without a restart, while requests to another flow."""
    machine, call = lab.machine, Call(sample.RATINGS, 50051, clients.grpc_unary)
    pid = machine.process.pid
    async with keep_calling(machine.listen(sample.REVIEWS, 9080)) as load:
        await load.more(50)
        async with lab.added(call.service, call.port) as listen:
            answer = await call.client(listen)
            await load.more(50)
        gone = await lab.is_closed(listen)
        await load.more(50)
    fine = answer.ok and gone and load.failed == 0 and machine.process.pid == pid
    detail = f"{call} {'answered' if answer.ok else 'did not answer'} while it was there, "
    detail += "then its port was closed" if gone else "but its port stayed open"
    return without_failure(fine, with_errors(f"{detail}; {load.failed} of {load.total} other requests failed", load))


SCENARIOS: Final = (
    Scenario("certificate-rotation", Verdict.ALLOW, "new certificates under load", rotation),
    Scenario("service-added-and-removed", Verdict.ALLOW, "the spec changes under load", service_added_and_removed),
)

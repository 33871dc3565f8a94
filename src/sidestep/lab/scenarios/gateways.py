"""Gateways that are lost under load, by a crash or because they hang; and the way back to them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Final, TypeAlias

from sidestep.lab import clients, repeated, sample
from sidestep.lab.load import keep_calling
from sidestep.lab.scenarios.calls import HTTP1
from sidestep.lab.scenarios.scenario import Call, Outcome, Scenario, Verdict, with_errors, without_failure

if TYPE_CHECKING:
    from sidestep.lab.mesh import Gateway
    from sidestep.lab.session import Lab

Away: TypeAlias = "Callable[[Gateway], AbstractAsyncContextManager[None]]"
_LONGEST_STALL: Final = 5.0
"""Seconds. bench/failover.py holds the stall to three; here a machine may be short of time."""
_ATTEMPTS: Final = 5
_TCP: Final = Call(sample.LEDGER, 9000, clients.tcp_echo)
_GRPC: Final = Call(sample.LEDGER, 50051, clients.grpc_unary)


async def lost(lab: Lab) -> Outcome:
    """The gateway in use is killed while requests flow: the other one takes them, until it is back."""
    return await _under_load(lab, "killed", killed)


async def hangs(lab: Lab) -> Outcome:
    """The gateway in use hangs while requests flow: its kernel goes on taking connections and bytes."""
    return await _under_load(lab, "hung", paused)


async def _under_load(lab: Lab, how: str, away: Away) -> Outcome:
    gateway = await in_use(lab, HTTP1)
    async with keep_calling(lab.machine.listen(HTTP1.service, HTTP1.port)) as load:
        await load.more(100)
        async with away(gateway):
            await load.more(300)
        back = await lab.uses(HTTP1, gateway)
    detail = f"{gateway.address}:{gateway.port} was {how}; {load.failed} of {load.total} GET requests failed"
    detail += f", {load.cut} answers were cut short" if load.cut else ""
    detail += f"; the longest took {load.longest:.1f} s; then the gateway was {'' if back else 'not '}used again"
    fine = load.failed == 0 and load.cut <= load.concurrency and load.longest < _LONGEST_STALL and back
    return without_failure(fine, with_errors(detail, load))


async def lost_to_grpc(lab: Lab) -> Outcome:
    """gRPC calls, one after the other, while the gateway in use is killed: those after it go through the other."""
    gateway = await in_use(lab, _GRPC)
    port = lab.machine.listen(_GRPC.service, _GRPC.port)
    before = await repeated.many(_GRPC.client, port, 20, 1)
    async with killed(gateway):
        after = await repeated.many(_GRPC.client, port, 20, 1)
    failed = [answer for answer in (*before, *after) if not answer.ok]
    errors = f" ({failed[0].status} {failed[0].error[:120]})" if failed else ""
    detail = f"{gateway.address}:{gateway.port} was killed; {len(failed)} of {len(before + after)} calls failed{errors}"
    return without_failure(not failed, detail)


async def lost_to_tcp(lab: Lab) -> Outcome:
    """A TCP connection ends with the gateway it went through; the next one goes through the other."""
    return await _under_a_connection(lab, "killed", killed)


async def hangs_for_tcp(lab: Lab) -> Outcome:
    """A TCP connection through a gateway that hangs is ended, once the gateway no longer says that it is ready."""
    return await _under_a_connection(lab, "hung", paused)


async def _under_a_connection(lab: Lab, how: str, away: Away) -> Outcome:
    gateway, port = lab.mesh.gateways[0], lab.machine.listen(_TCP.service, _TCP.port)
    async with _connection(lab, gateway, port) as line:
        before = await line("one")
        async with away(gateway):
            cut = await line("two") != "two"
            answers = await repeated.many(_TCP.client, port, 5, 1)
    back = await lab.uses(_TCP, gateway)
    failed = [answer.error for answer in answers if not answer.ok]
    detail = f"{gateway.address}:{gateway.port} was {how}; the connection that was open was {'cut' if cut else 'kept'}"
    detail += f"; {len(failed)} of {len(answers)} new ones failed {' '.join(failed[:1])}".rstrip()
    detail += f"; then the gateway was {'' if back else 'not '}used again"
    return without_failure(before == "one" and cut and not failed and back, detail)


@asynccontextmanager
async def _connection(lab: Lab, gateway: Gateway, port: int) -> AsyncIterator[Callable[[str], Awaitable[str]]]:
    """A connection that goes through a gateway. Where the machine is short of time, one may go through the other."""
    async with AsyncExitStack() as stack:
        for _ in range(_ATTEMPTS):
            await in_use(lab, _TCP)
            before = await lab.through(_TCP, gateway)
            line = await stack.enter_async_context(repeated.tcp_lines(port))
            await line("zero")
            if await lab.through(_TCP, gateway) > before:
                break
        yield line


async def in_use(lab: Lab, call: Call) -> Gateway:
    """The preferred gateway, once calls go through it: an earlier scenario may have taken it away."""
    await lab.uses(call, lab.mesh.gateways[0])
    return lab.mesh.gateways[0]


@asynccontextmanager
async def killed(gateway: Gateway) -> AsyncIterator[None]:
    """A gateway that is gone for the length of the block."""
    await gateway.envoy.kill()
    try:
        yield
    finally:
        await gateway.envoy.start()


@asynccontextmanager
async def paused(gateway: Gateway) -> AsyncIterator[None]:
    """A gateway that hangs for the length of the block."""
    gateway.envoy.pause()
    try:
        yield
    finally:
        gateway.envoy.resume()


SCENARIOS: Final = (
    Scenario("gateway-lost", Verdict.ALLOW, "a gateway dies under load", lost),
    Scenario("gateway-lost-grpc", Verdict.ALLOW, "a gateway dies between gRPC calls", lost_to_grpc),
    Scenario("gateway-lost-tcp", Verdict.ALLOW, "a gateway dies under a TCP connection", lost_to_tcp),
    Scenario("gateway-hangs", Verdict.ALLOW, "a gateway hangs under load", hangs),
    Scenario("gateway-hangs-tcp", Verdict.ALLOW, "a gateway hangs under a TCP connection", hangs_for_tcp),
)

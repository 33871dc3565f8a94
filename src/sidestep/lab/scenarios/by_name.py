"""Applications that know a service by its name in the mesh: through the machine's HTTP proxy, or a unix-domain socket.

The proxy is not an open one: what is no egress of the workload it refuses, whoever asks and in whatever form.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final

from sidestep.lab import clients, repeated, sample
from sidestep.lab.scenarios.calls import allowed
from sidestep.lab.scenarios.gateways import in_use, killed
from sidestep.lab.scenarios.policy import denied_by_policy
from sidestep.lab.scenarios.scenario import Call, Client, Outcome, Scenario, Verdict, not_refused, without_failure
from sidestep.lab.scenarios.traffic import shared_by_pods

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sidestep.lab.clients import Answer
    from sidestep.lab.machine import Machine
    from sidestep.lab.session import Lab
    from sidestep.lab.topology import Service


@dataclass(frozen=True)
class ByProxy(Call):
    """A call through the machine's HTTP proxy."""

    async def by(self, machine: Machine) -> Answer:
        """Makes the call on a machine."""
        return await self.client(machine.proxy)


@dataclass(frozen=True)
class BySocket(Call):
    """A GET over the socket that stands for a service."""

    async def by(self, machine: Machine) -> Answer:
        """Makes the call on a machine."""
        return await clients.unix(machine.socket(self.service, self.port))


def _host(name: str) -> Client:
    return partial(clients.http1, headers={"host": name})


CALLS: Final[Mapping[str, tuple[str, Call]]] = {
    "by-host": ("HTTP by the Host header alone", ByProxy(sample.REVIEWS, 9080, _host("reviews.bookinfo:9080"))),
    "http-proxy": (
        "HTTP through http_proxy",
        ByProxy(sample.REVIEWS, 9080, partial(clients.http1, by_name=f"{sample.REVIEWS.host}:9080")),
    ),
    "http-proxy-grpc": (
        "gRPC through http_proxy",
        ByProxy(sample.LEDGER, 50051, partial(clients.grpc_unary, by_name="ledger.pay:50051")),
    ),
    "http-proxy-websocket": (
        "a WebSocket through http_proxy",
        ByProxy(sample.REVIEWS, 9080, partial(clients.websocket, by_name="reviews.bookinfo.svc:9080")),
    ),
    "connect-tcp": (
        "TCP through CONNECT",
        ByProxy(sample.LEDGER, 9000, partial(clients.tcp_echo, by_name="ledger.pay:9000")),
    ),
    "unix-socket": ("HTTP over a unix-domain socket", BySocket(sample.REVIEWS, 9080, clients.http1)),
}


async def through_one_tunnel(lab: Lab) -> Outcome:
    """Calls in one tunnel are shared by the pods, as those without a tunnel are."""
    before = await _tunnels(lab)
    async with repeated.grpc_tunnel(lab.machine.proxy, f"{sample.REVIEWS.host}:50051") as call:
        outcome = await shared_by_pods(call, lab.machine.proxy)
    opened = await _tunnels(lab) - before
    return without_failure(outcome.ok and opened == 1, f"{outcome.detail}; {opened} tunnel opened")


async def tunnel_outlives_gateway(lab: Lab) -> Outcome:
    """The gateway in use is killed while a tunnel is open: the calls after it in the same tunnel go by the other."""
    gateway, before = await in_use(lab, _LEDGER), await _tunnels(lab)
    async with repeated.grpc_tunnel(lab.machine.proxy, f"{sample.LEDGER.host}:50051") as call:
        answers = await repeated.many(call, lab.machine.proxy, 20, 1)
        async with killed(gateway):
            answers += await repeated.many(call, lab.machine.proxy, 20, 1)
    opened, failed = await _tunnels(lab) - before, [each for each in answers if not each.ok]
    errors = f" ({failed[0].status} {failed[0].error[:120]})" if failed else ""
    detail = f"{gateway.address}:{gateway.port} was killed; {len(failed)} of {len(answers)} calls failed{errors}"
    return without_failure(not failed and opened == 1, f"{detail}; {opened} tunnel opened")


async def _tunnels(lab: Lab) -> int:
    """How many tunnels that end in the machine's Envoy have been opened."""
    reply = await lab.machine.process.admin("/stats?filter=internal.tunnel.upstream_cx_total")
    return int(reply.body.decode().rpartition(": ")[2] or 0)


async def other_authority(lab: Lab) -> Outcome:
    """In a tunnel to a service that is one, a call to one that is no egress of the workload."""
    asked = f"{sample.DETAILS.host}:9080"
    log = lab.machine.log
    mark = log.mark()
    async with repeated.grpc_tunnel(lab.machine.proxy, f"{sample.LEDGER.host}:50051", asked) as call:
        answer = await call(lab.machine.proxy)
    entry = await log.wait(mark, lambda entry: entry.fields["authority"] == asked)
    said = f"no service {asked} here" in answer.error
    if answer.ok or not said or entry is None or entry.fields["upstream_host"]:
        return not_refused(answer, f"the proxy did not say that {asked} is none of its services")
    return Outcome(Verdict.DENY, ok=True, detail=f"{answer.status}, {answer.error[:100]}…")


async def not_served(client: Client, asked: str, lab: Lab) -> Outcome:
    """The machine's own Envoy says that this is none of the workload's services, and calls nobody."""
    mark = lab.machine.log.mark()
    answer = await client(lab.machine.proxy)
    entry = await lab.machine.log.wait(mark, lambda entry: entry.fields["authority"] == asked)
    said = f"no service {asked} here" in answer.text
    if answer.ok or answer.status != "404" or not said or entry is None or entry.fields["upstream_host"]:
        return not_refused(answer, f"the proxy did not say that {asked} is none of its services")
    return Outcome(Verdict.DENY, ok=True, detail=f"404, {answer.text.strip()[:100]}…")


async def another_service(lab: Lab) -> Outcome:
    """A service of the mesh that is no egress of the workload."""
    name = f"{sample.DETAILS.host}:9080"
    return await not_served(partial(clients.http1, headers={"host": name}), name, lab)


async def foreign_host(lab: Lab) -> Outcome:
    """In absolute form, an HTTP server that would answer."""
    address = _application(lab, sample.REVIEWS, 9080)
    return await not_served(partial(clients.http1, by_name=address), address, lab)


async def foreign_tunnel(lab: Lab) -> Outcome:
    """By CONNECT, a TCP server that would answer."""
    address = _application(lab, sample.LEDGER, 9000)
    return await not_served(partial(clients.tcp_echo, by_name=address), address, lab)


def _application(lab: Lab, service: Service, port: int) -> str:
    """Where a sample service really listens, behind its sidecar and without a certificate."""
    inbound = next(each for each in lab.mesh.pods[service.host].inbound if each.port.number == port)
    return f"127.0.0.1:{inbound.application}"


_LEDGER: Final = Call(sample.LEDGER, 50051, clients.grpc_unary)
NO_POLICY: Final = ByProxy(sample.PAYROLL, 9080, _host("payroll.hr:9080"))
SCENARIOS: Final = (
    *(Scenario(name, Verdict.ALLOW, title, partial(allowed, call)) for name, (title, call) in CALLS.items()),
    Scenario("tunnel-spread", Verdict.ALLOW, "gRPC calls in one tunnel, shared by two pods", through_one_tunnel),
    Scenario("tunnel-gateway-lost", Verdict.ALLOW, "a gateway dies under an open tunnel", tunnel_outlives_gateway),
    Scenario(
        "proxy-no-policy", Verdict.DENY, "by name, a service that admits others", partial(denied_by_policy, NO_POLICY)
    ),
    Scenario("proxy-another-service", Verdict.DENY, "by name, a service that is no egress", another_service),
    Scenario("proxy-foreign-host", Verdict.DENY, "http_proxy to a server outside the mesh", foreign_host),
    Scenario("proxy-foreign-tunnel", Verdict.DENY, "CONNECT to a server outside the mesh", foreign_tunnel),
    Scenario("tunnel-another-service", Verdict.DENY, "in a tunnel, a service that is no egress", other_authority),
)
SOCKETS: Final = tuple((call.service, call.port) for _, call in CALLS.values() if isinstance(call, BySocket))

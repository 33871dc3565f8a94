"""``spec.proxy`` of a Workload: every egress by name, through one local address."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from sidestep.spec.base import Finding, Model
from sidestep.spec.scalars import Listen
from sidestep.spec.sockets import NONE, OWNER_ONLY, ListenOn, LocalAddress, SocketMode, UnixSocket

if TYPE_CHECKING:
    from sidestep.spec.base import Check
    from sidestep.spec.documents import Path
    from sidestep.spec.model import Egress, WorkloadSpec

PATH: Final[Path] = ("spec", "proxy", "listen")
ADDRESS: Final = Listen("127.0.0.1", 3128)


def mode_is_of_a_socket(model: Egress | Proxy) -> Iterator[Finding]:
    """Whether there is a mode, and nothing to have it."""
    if model.says("socket_mode") and not isinstance(model.listen, UnixSocket):
        allowed = "socketMode beside `listen: unix:…`"
        yield Finding(("socketMode",), "only a unix-domain socket has a mode", allowed=allowed)


class Proxy(Model):
    """An HTTP proxy for the applications of the machine: they call every egress by its name in the mesh."""

    listen: ListenOn = ADDRESS
    """Local address of the proxy; 127.0.0.1:3128 unless said otherwise."""
    socket_mode: SocketMode | None = None
    """Mode of the file where `listen` is a unix-domain socket; "0600" unless said otherwise."""

    @property
    def address(self) -> LocalAddress:
        """Where it listens, whole."""
        return with_mode(self.listen, self.socket_mode)

    checks = (mode_is_of_a_socket,)


def with_mode(listen: LocalAddress, mode: int | None) -> LocalAddress:
    """An address with the mode that was said beside it."""
    return listen._replace(mode=mode or OWNER_ONLY) if isinstance(listen, UnixSocket) else listen


def _somebody_serves(workload: WorkloadSpec) -> Iterator[Finding]:
    """What is called by name only, where nothing knows names."""
    if workload.says("proxy"):
        return
    for index, egress in enumerate(workload.egress or ()):
        if egress.get("listen") == NONE:
            message = "nothing would serve this egress: the workload has no proxy"
            allowed = "a `listen` address, or `proxy: {}` in spec"
            yield Finding(("egress", index, "listen"), message, NONE, allowed)


def _is_for_this_machine(workload: WorkloadSpec) -> Iterator[Finding]:
    """Whether others than this machine can reach the proxy, and nothing says who of them may."""
    if workload.proxy and not workload.proxy.listen.is_loopback and not workload.may_have_clients:
        message = "whoever reaches the proxy calls the mesh as this workload"
        allowed = "an address of this machine only (127.0.0.0/8, ::1, unix:…), or profile: forwarder with clients"
        yield Finding(("proxy", "listen"), message, str(workload.proxy.listen), allowed)


PROXY_CHECKS: Final[tuple[Check, ...]] = (_somebody_serves, _is_for_this_machine)

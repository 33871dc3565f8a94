"""``spec.proxy`` of a Workload: every egress by name, through one local address."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Self

from pydantic import model_validator

from sidestep.spec.base import Model
from sidestep.spec.scalars import Listen, not_allowed
from sidestep.spec.sockets import NONE, OWNER_ONLY, ListenOn, LocalAddress, SocketMode, UnixSocket

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sidestep.errors import Problem
    from sidestep.spec.documents import Document, Path
    from sidestep.spec.model import WorkloadSpec

PATH: Final[Path] = ("spec", "proxy", "listen")
ADDRESS: Final = Listen("127.0.0.1", 3128)


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

    @model_validator(mode="after")
    def _mode_is_of_a_socket(self) -> Self:
        mode_is_of_a_socket(self.listen, self.socket_mode)
        return self


def with_mode(listen: LocalAddress, mode: int | None) -> LocalAddress:
    """An address with the mode that was said beside it."""
    return listen._replace(mode=mode or OWNER_ONLY) if isinstance(listen, UnixSocket) else listen


def mode_is_of_a_socket(listen: object, mode: int | None) -> None:
    """Raises where there is a mode and nothing to have it."""
    if mode is not None and not isinstance(listen, UnixSocket):
        raise not_allowed("only a unix-domain socket has a socketMode", "socketMode beside `listen: unix:…`")


def problems(document: Document, workload: WorkloadSpec) -> Iterator[Problem]:
    """What is wrong with the workload's proxy, or with having none."""
    if workload.proxy:
        yield from exposure(document, workload.proxy) if workload.clients is None else ()
        return
    for index, egress in enumerate(workload.egress or ()):
        if egress.listen == NONE:
            path: Path = ("spec", "egress", index, "listen")
            message = "nothing would serve this egress: the workload has no proxy"
            yield document.problem(path, message, found=NONE, allowed="a `listen` address, or `proxy: {}` in spec")


def exposure(document: Document, proxy: Proxy) -> Iterator[Problem]:
    """Whether others than this machine can reach the proxy: nothing says who of them may."""
    if not proxy.listen.is_loopback:
        message = "whoever reaches the proxy calls the mesh as this workload"
        allowed = "an address of this machine only (127.0.0.0/8, ::1, unix:…), or profile: forwarder with clients"
        yield document.problem(PATH, message, found=str(proxy.listen), allowed=allowed)

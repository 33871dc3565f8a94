"""The machine's own applications, which the mesh calls."""

from __future__ import annotations

from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING

from sidestep.lab import sample
from sidestep.lab.machine import Serves
from sidestep.lab.services import serve_application

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from sidestep.lab.envoys import Runtime


@asynccontextmanager
async def serve_applications(runtime: Runtime) -> AsyncIterator[tuple[Serves, ...]]:
    """Starts them, and gives the ingress that leads to them; the one to `sample.UNSTEADY` leads nowhere yet."""
    reserve = runtime.ports.reserve
    async with AsyncExitStack() as stack:
        served = []
        for port in sample.SERVED:
            application = await stack.enter_async_context(serve_application(port.application, "billing"))
            rules = sample.PATHS if port == sample.INVOICES else ""
            served.append(Serves(port, reserve(), application, sample.PRODUCTPAGE, rules))
        yield (*served, Serves(sample.UNSTEADY, reserve(), reserve(), sample.PRODUCTPAGE, sample.PROBE))

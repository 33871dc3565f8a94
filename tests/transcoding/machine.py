"""A bundle whose transcoded listener leads straight to a gRPC server: the mesh's part is left out."""

from __future__ import annotations

import asyncio
import json
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio

from sidestep import onboard
from tests import documents
from tests.certificates import issue_into
from tests.envoys import accepted, running
from tests.free_ports import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

    from tests.envoys import Running


@contextmanager
def served(server: AbstractAsyncContextManager[int]) -> Iterator[int]:
    """Runs a service of the lab's in a loop of its own; gives its port."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        port = asyncio.run_coroutine_threadsafe(server.__aenter__(), loop).result(20)
        try:
            yield port
        finally:
            asyncio.run_coroutine_threadsafe(server.__aexit__(None, None, None), loop).result(20)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def render(directory: Path, transcode: dict[str, Any], listen: int, server: int) -> None:
    """Renders the bundle into ``directory / "bundle"``, as it would be, but for its cluster."""
    service = documents.service(documents.LEDGER, (50051, "GRPC"))
    call = documents.egress("ledger.pay", listen=listen, transcode=transcode)
    spec = documents.write(directory / "spec.yaml", documents.mesh(service), documents.workload(call))
    [bundle] = onboard.bundles(onboard.load([spec]))
    bundle.install(directory / "bundle", validate=accepted(), force=True)
    clusters = directory / "bundle" / "cds.json"
    response = json.loads(clusters.read_bytes())
    for cluster in response["resources"]:
        del cluster["transport_socket"]
        for locality in cluster["load_assignment"]["endpoints"]:
            locality["lb_endpoints"][0]["endpoint"]["address"]["socket_address"]["port_value"] = server
    changed = clusters.with_name("changed.json")
    changed.write_text(json.dumps(response), encoding="utf-8")
    changed.replace(clusters)


@contextmanager
def machine(directory: Path, transcode: dict[str, Any], server: int) -> Iterator[tuple[Running, int]]:
    """An Envoy that transcodes for the gRPC server on ``server``; gives it and the port that it listens on."""
    listen = free_port()
    render(directory, transcode, listen, server)
    issue_into(directory / "bundle")
    with running(directory / "bundle") as envoy:
        yield envoy, listen


class Bytes:
    """A gRPC server that answers every method with the same messages, and then with a status."""

    def __init__(self, *messages: bytes, status: grpc.StatusCode = grpc.StatusCode.OK, headers: bool = False) -> None:
        self.messages, self.status, self.headers = messages, status, headers
        self.seen: dict[str, str] = {}

    async def __aenter__(self) -> int:
        self._server = grpc.aio.server()
        methods: dict[str, grpc.RpcMethodHandler[bytes, bytes]] = {
            name: grpc.unary_stream_rpc_method_handler(self._answer) for name in ("Watch", "GetEntry", "Balance")
        }
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("pay.v1.Ledger", methods),))
        port = self._server.add_insecure_port("127.0.0.1:0")
        await self._server.start()
        return int(port)

    async def __aexit__(self, *_: object) -> None:
        await self._server.stop(grace=1)

    async def _answer(self, _request: bytes, context: Any) -> Any:
        self.seen = {str(key): str(value) for key, value in context.invocation_metadata() or ()}
        if self.headers:
            await context.send_initial_metadata(())
        for message in self.messages:
            yield message
        if self.status is not grpc.StatusCode.OK:
            await context.abort(self.status, "as\r\nasked\u2026")

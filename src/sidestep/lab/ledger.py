"""The sample gRPC service with real messages: ``pay.v1.Ledger`` of ``protos/ledger.proto``, and server reflection.

Its messages are made from the descriptor set beside that file, which is also what the machine's spec names. A test
compiles the one and compares it with the other.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import grpc
import grpc.aio
from google.protobuf.message_factory import GetMessageClass
from grpc_reflection.v1alpha import reflection

from sidestep.descriptors import sets
from sidestep.lab.client_certificate import principal

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from google.protobuf.descriptor import MethodDescriptor
    from google.protobuf.message import Message

    Context = grpc.aio.ServicerContext[Message, Message]

LEDGER: Final = "pay.v1.Ledger"
DESCRIPTOR: Final = Path(__file__).parent / "protos" / "ledger.pb"
_STOP_SECONDS: Final = 1.0
_FIRST_CENTS: Final = 1 << 40
"""More than a JSON number holds safely in every client: it comes as a string."""


@cache
def descriptors() -> sets.DescriptorSet:
    """The descriptor set of the service."""
    return sets.read(DESCRIPTOR.read_bytes())


def method(name: str) -> MethodDescriptor:
    """One of the service's methods."""
    return descriptors().services[LEDGER].methods_by_name[name]


def message(name: str, **fields: object) -> Any:  # noqa: ANN401 (its class exists only at run time)
    """A message of the package ``pay.v1``."""
    return GetMessageClass(descriptors().pool.FindMessageTypeByName(f"pay.v1.{name}"))(**fields)


@asynccontextmanager
async def serve_ledger(_name: str, _pod: int = 0) -> AsyncIterator[int]:
    """Starts the service and gives its port."""
    server = new_server()
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield int(port)
    finally:
        await server.stop(grace=_STOP_SECONDS)


def new_server() -> grpc.aio.Server:
    """The service, without a port yet."""
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(LEDGER, _handlers()),))
    reflection.enable_server_reflection([LEDGER, reflection.SERVICE_NAME], server, pool=descriptors().pool)
    return server


def _handlers() -> dict[str, grpc.RpcMethodHandler[Any, Any]]:
    ledger = Ledger()
    unary = {"Post": ledger.post, "GetEntry": ledger.get_entry, "Balance": ledger.balance}
    handlers = {name: _handler(name, answer, grpc.unary_unary_rpc_method_handler) for name, answer in unary.items()}
    return {**handlers, "Watch": _handler("Watch", ledger.watch, grpc.unary_stream_rpc_method_handler)}


def _handler(name: str, answer: Callable[..., Any], kind: Callable[..., Any]) -> grpc.RpcMethodHandler[Any, Any]:
    request = GetMessageClass(method(name).input_type)
    handler: grpc.RpcMethodHandler[Any, Any] = kind(
        answer, request_deserializer=request.FromString, response_serializer=_serialized
    )
    return handler


def _serialized(reply: Message) -> bytes:
    return reply.SerializeToString()


class Ledger:
    """The service. It holds one entry, ``1``, in every account."""

    async def post(self, request: Any, context: Context) -> Any:  # noqa: ANN401
        """Gives the entry back as it would be booked."""
        entry = message("Entry", seen_by=_caller(context))
        entry.MergeFrom(request.entry)
        entry.id, entry.account = "2", request.account
        return entry

    async def get_entry(self, request: Any, context: Context) -> Any:  # noqa: ANN401
        """Entry ``1``; NOT_FOUND for any other."""
        if request.id != "1":
            await context.abort(grpc.StatusCode.NOT_FOUND, f"no such entry: {request.id}")
        return _entry("1", request.account, context)

    async def watch(self, request: Any, context: Context) -> AsyncIterator[Any]:  # noqa: ANN401
        """As many entries as were asked for, or fewer and then UNAVAILABLE."""
        for number in range(1, (request.count or 3) + 1):
            if request.fail_after and number > request.fail_after:
                await context.abort(grpc.StatusCode.UNAVAILABLE, "the ledger is closing")
            yield _entry(str(number), request.account, context)

    async def balance(self, request: Any, _context: Context) -> Any:  # noqa: ANN401
        """What the one entry comes to."""
        return message("BalanceReply", account=request.account, cents=_FIRST_CENTS)


def _entry(number: str, account: str, context: Context) -> Any:  # noqa: ANN401
    return message("Entry", id=number, account=account, cents=_FIRST_CENTS, kind=1, seen_by=_caller(context))


def _caller(context: Context) -> str:
    metadata = {str(key): str(value) for key, value in context.invocation_metadata() or ()}
    return principal(metadata.get("x-forwarded-client-cert", ""))

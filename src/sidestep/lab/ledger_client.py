"""A native gRPC client of the sample ledger."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio
from google.protobuf.message_factory import GetMessageClass

from sidestep.lab import ledger
from sidestep.lab.clients import CHANNEL_OPTIONS, DEADLINE, NO_PROXY, Answer

if TYPE_CHECKING:
    from google.protobuf.message import Message


async def watch(port: int, *, fail_after: int = 0) -> Answer:
    """Three entries of an account, or as many as come before the failure that was asked for."""
    watched = ledger.method("Watch")
    request = ledger.message("WatchRequest", account="a", count=3, fail_after=fail_after)
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=[*CHANNEL_OPTIONS, *NO_PROXY]) as channel:
            call: grpc.aio.UnaryStreamMultiCallable[Message, Any] = channel.unary_stream(
                f"/{ledger.LEDGER}/Watch", _serialized, GetMessageClass(watched.output_type).FromString
            )
            entries = [entry async for entry in call(request, timeout=DEADLINE)]
    except grpc.aio.AioRpcError as error:
        return Answer(ok=False, status=error.code().name, error=error.details() or "")
    text = f"entries {', '.join(entry.id for entry in entries)}"
    return Answer(ok=True, status="OK", text=text, principal=entries[0].seen_by)


def _serialized(request: Message) -> bytes:
    return request.SerializeToString()

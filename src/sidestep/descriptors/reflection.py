"""A descriptor set from a running server, by gRPC server reflection (grpc/reflection/v1/reflection.proto)."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final

from sidestep.descriptors import sets
from sidestep.errors import Unfulfilled

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import grpc
    from google.protobuf.descriptor_pb2 import FileDescriptorProto
    from grpc_reflection.v1alpha.reflection_pb2 import ServerReflectionRequest, ServerReflectionResponse

    Ask = Callable[[ServerReflectionRequest], ServerReflectionResponse]

# The two versions differ in their name alone; older servers know only the second.
_METHODS: Final = tuple(f"/grpc.reflection.{each}.ServerReflection/ServerReflectionInfo" for each in ("v1", "v1alpha"))
_SECONDS: Final = 15.0
_MOST_FILES: Final = 20_000
"""Several times as many as all of Google's published APIs have."""


def ask(address: str, services: Sequence[str] = ()) -> bytes:
    """The descriptor set of a server's services, or of all of them, and of everything they import.

    ``address`` is host:port, spoken to in plain text: a listener of a machine's Envoy. Raises `Unfulfilled` where the
    server cannot be reached or does not tell, and `sets.Unusable` where what it tells is not whole.
    """
    try:
        import grpc

        options = [("grpc.enable_http_proxy", 0), ("grpc.max_receive_message_length", sets.MAX_BYTES)]
        try:
            with grpc.insecure_channel(address, options=options) as channel:
                ask_server = _version(channel, address)
                files = _collect(ask_server, services or _own(ask_server))
        except grpc.RpcError as error:
            raise _failed(address, error) from None
    except ModuleNotFoundError as error:
        raise sets.missing(error) from None
    found = sets.read(sets.encode(files[name] for name in sorted(files)))
    found.chosen(services)
    return found.content


def _version(channel: grpc.Channel, address: str) -> Ask:
    """How to ask: by the newest version of the protocol that the server knows."""
    import grpc
    from grpc_reflection.v1alpha.reflection_pb2 import ServerReflectionRequest

    for path in _METHODS:
        ask_server = _asker(channel, path)
        try:
            ask_server(ServerReflectionRequest(list_services=""))
        except grpc.RpcError as error:
            if error.code() is not grpc.StatusCode.UNIMPLEMENTED:
                raise
        else:
            return ask_server
    raise Unfulfilled(
        f"the server behind {address} offers no reflection",
        hint="Have it enabled, or compile a descriptor set from its .proto files.",
    )


def _asker(channel: grpc.Channel, path: str) -> Ask:
    from grpc_reflection.v1alpha.reflection_pb2 import ServerReflectionRequest, ServerReflectionResponse

    call = channel.stream_stream(path, ServerReflectionRequest.SerializeToString, ServerReflectionResponse.FromString)
    nothing = ServerReflectionResponse()
    return lambda request: next(iter(call(iter([request]), timeout=_SECONDS)), nothing)


def _failed(address: str, error: grpc.RpcError) -> Unfulfilled:
    said = f"{error.code().name}: {error.details()}"
    return Unfulfilled(
        f"reflection through {address} failed: {said}",
        hint="The machine's Envoy must run, with a certificate, and the service's policy must admit "
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo.",
    )


def _own(ask_server: Ask) -> list[str]:
    from grpc_reflection.v1alpha.reflection_pb2 import ServerReflectionRequest

    listed = ask_server(ServerReflectionRequest(list_services="")).list_services_response.service
    return [each.name for each in listed if not each.name.startswith(("google.", "grpc."))]


def _collect(ask_server: Ask, services: Sequence[str]) -> dict[str, FileDescriptorProto]:
    """The files of services, and all that they import, by name."""
    from grpc_reflection.v1alpha.reflection_pb2 import ServerReflectionRequest

    files: dict[str, FileDescriptorProto] = {}
    size = 0
    wanted = deque(ServerReflectionRequest(file_containing_symbol=name) for name in services)
    while wanted:
        request = wanted.popleft()
        if request.file_by_filename in files:
            continue
        for file in _files(ask_server, request):
            if file.name not in files:
                files[file.name] = file
                size += file.ByteSize()
                if len(files) > _MOST_FILES or size > sets.MAX_BYTES:
                    raise sets.Unusable("the server tells without end", allowed=f"at most {sets.MAX_BYTES:,} bytes")
                wanted += [ServerReflectionRequest(file_by_filename=name) for name in file.dependency]
    return files


def _files(ask_server: Ask, request: ServerReflectionRequest) -> Iterator[FileDescriptorProto]:
    from google.protobuf.descriptor_pb2 import FileDescriptorProto
    from google.protobuf.message import DecodeError

    reply = ask_server(request)
    if reply.WhichOneof("message_response") == "file_descriptor_response":
        for content in reply.file_descriptor_response.file_descriptor_proto:
            try:
                yield FileDescriptorProto.FromString(content)
            except DecodeError:
                raise sets.Unusable("the server tells what is no descriptor", allowed="a FileDescriptorProto") from None
    elif not request.file_by_filename:
        name = request.file_containing_symbol
        said = reply.error_response.error_message
        raise sets.Unusable(f"the server does not know the service: {said}", found=name, allowed="a service it lists")
    elif known := _well_known(request.file_by_filename):
        yield known


def _well_known(name: str) -> FileDescriptorProto | None:
    """Google's own files, which some servers do not tell; None for any other, which is then reported as missing."""
    import google.api.annotations_pb2  # noqa: F401 (registers it)
    from google.protobuf import descriptor_pool
    from google.protobuf.descriptor_pb2 import FileDescriptorProto

    if not name.startswith("google/"):
        return None
    try:
        found = descriptor_pool.Default().FindFileByName(name)
    except KeyError:
        return None
    file = FileDescriptorProto()
    found.CopyToProto(file)
    return file

"""REST beside native gRPC on one listener: Envoy's transcoder, and what keeps a broken stream from looking whole.

The transcoder ends a stream that failed midway as it ends one that succeeded: over HTTP/1.1 the status is lost. So the
status is made to travel as data where it can still do something. For streaming methods that were called as REST, a
script has the call go on as gRPC-Web, in which Envoy's own filter puts the trailers into a last frame of the body. On
the way back the script takes that frame out where it says OK. Where it does not, the frame stays: the transcoder cannot
read it, and resets the stream, which every client notices.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sidestep.compile.envoy.resources import extension

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sidestep.compile.envoy.resources import Json, Resource
    from sidestep.spec import Transcoding

DIRECTORY: Final = "descriptors"
ORIGINAL_PATH: Final = "x-envoy-original-path"
"""What the transcoder puts the REST path into; native gRPC calls do not have it."""
_LARGEST: Final = 4 * 1024 * 1024
"""Bytes; what gRPC itself takes for a message unless told otherwise. Envoy would stop at 1 MiB."""


def descriptor_file(transcoding: Transcoding) -> str:
    """The path of its descriptor set in the bundle. It changes with the content, or Envoy would not read it again."""
    return f"{DIRECTORY}/{transcoding.digest[:16]}.pb"


def filters(transcoding: Transcoding | None) -> list[Json]:
    """The HTTP filters before the router."""
    if transcoding is None:
        return []
    guard = [_guard(transcoding.streams), _GRPC_WEB] if transcoding.streams else []
    return [_transcoder(transcoding), *guard]


def settings(transcoding: Transcoding | None) -> Resource:
    """What the connection manager does otherwise than for a service that is not transcoded."""
    return _SETTINGS if transcoding else {}


def routes(transcoding: Transcoding | None, to_service: Sequence[Mapping[str, Json]]) -> list[Json]:
    """The routes of a service, with one more before them for REST calls.

    All are POST by now. The transcoder cannot read compressed messages, and the gRPC-Web filter asks for them.
    """
    if transcoding is None:
        return [*to_service]
    rest: Resource = {
        **to_service[-1],
        "match": {"prefix": "/", "headers": [{"name": ORIGINAL_PATH, "present_match": True}]},
        "request_headers_to_add": [_UNCOMPRESSED],
    }
    return [rest, *to_service]


def _transcoder(transcoding: Transcoding) -> Resource:
    settings = transcoding.settings
    ignore = settings.ignore_unknown_query_parameters
    return extension(
        "envoy.filters.http.grpc_json_transcoder",
        "filters.http.grpc_json_transcoder.v3.GrpcJsonTranscoder",
        proto_descriptor=f"./{descriptor_file(transcoding)}",
        services=transcoding.services,
        auto_mapping=True,
        convert_grpc_status=True,
        ignore_unknown_query_parameters=ignore,
        # Without these Envoy sends JSON to the service as if it were gRPC (facts d).
        request_validation_options={"reject_unknown_method": True, "reject_unknown_query_parameters": not ignore},
        print_options={
            "always_print_primitive_fields": settings.always_print_primitive_fields,
            "always_print_enums_as_ints": settings.always_print_enums_as_ints,
            "preserve_proto_field_names": settings.preserve_proto_field_names,
            "stream_newline_delimited": settings.stream_newline_delimited,
        },
        max_request_body_size=_LARGEST,
        max_response_body_size=_LARGEST,
    )


def _guard(streams: Sequence[str]) -> Resource:
    names = ", ".join(f'["{path}"] = true' for path in streams)
    script = f"local STREAMS = {{{names}}}\n{_GUARD}"
    return extension("envoy.filters.http.lua", "filters.http.lua.v3.Lua", default_source_code={"inline_string": script})


_SETTINGS: Final[Resource] = {
    # The transcoder's own mark of a REST call; a native one that had it would be answered as if it were one.
    "early_header_mutation_extensions": [
        extension(
            "envoy.http.early_header_mutation.header_mutation",
            "http.early_header_mutation.header_mutation.v3.HeaderMutation",
            mutations=[{"remove": ORIGINAL_PATH}],
        )
    ],
}
_GRPC_WEB: Final = extension("envoy.filters.http.grpc_web", "filters.http.grpc_web.v3.GrpcWeb")
_UNCOMPRESSED: Final[Resource] = {
    "header": {"key": "grpc-accept-encoding", "value": "identity"},
    "append_action": "OVERWRITE_IF_EXISTS_OR_ADD",
}
# A frame is five bytes (flags, length) and its content; the flag 0x80 marks the trailers (gRPC-Web protocol). Only the
# five bytes of each are looked at, and may come in pieces.
_GUARD: Final = """
local function trailers_of(state, chunk)
  local at, size = 0, chunk:length()
  while at < size do
    if state.left > 0 then
      local step = math.min(state.left, size - at)
      state.left, at = state.left - step, at + step
    else
      local part = chunk:getBytes(at, math.min(5 - #state.head, size - at))
      state.head, at = state.head .. part, at + #part
      if #state.head == 5 then
        local flags, a, b, c, d = string.byte(state.head, 1, 5)
        if flags >= 128 then return at - 5, chunk:getBytes(at, size - at) end
        state.head, state.left = "", ((a * 256 + b) * 256 + c) * 256 + d
      end
    end
  end
end

function envoy_on_request(handle)
  local headers = handle:headers()
  local path = headers:get(":path")
  if STREAMS[path] and headers:get("x-envoy-original-path") then
    headers:replace("content-type", "application/grpc-web+proto")
    handle:streamInfo():dynamicMetadata():set("sidestep.transcoding", "stream", path)
  end
end

function envoy_on_response(handle)
  local marked = handle:streamInfo():dynamicMetadata():get("sidestep.transcoding")
  local kind = handle:headers():get("content-type")
  if marked == nil or kind == nil or string.sub(kind, 1, 20) ~= "application/grpc-web" then return end
  handle:headers():replace("content-type", "application/grpc")
  local state = {head = "", left = 0}
  for chunk in handle:bodyChunks() do
    local start, trailers = trailers_of(state, chunk)
    if start and string.find("\\r\\n" .. trailers, "\\r\\ngrpc-status:0\\r\\n", 1, true) then
      chunk:setBytes(start > 0 and chunk:getBytes(0, start) or "")
    elseif start then
      handle:logWarn(marked["stream"] .. " failed midway, the stream is reset: " .. string.gsub(trailers, "%c+", " "))
    end
  end
end
"""

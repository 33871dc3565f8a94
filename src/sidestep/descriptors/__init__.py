"""Protobuf descriptor sets: read, compiled from ``.proto`` files, asked of a server; and the REST routes they give.

::

    sets        bytes → a checked set: every import in it, every service with its methods
    routes      a set → REST routes, as google.api.http annotations say, and Envoy for methods without one
    openapi     routes → an OpenAPI document
    protoc      .proto files → bytes, by protoc or grpcio-tools
    reflection  a running server → bytes, by gRPC server reflection

Everything but ``protoc`` and ``reflection`` is pure. The packages needed belong to the extra ``transcode``.
"""

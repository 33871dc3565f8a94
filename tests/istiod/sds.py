"""The secret discovery service that Istio's agent offers to its Envoy, here one for all Envoys of the mesh."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import grpc
from envoy.extensions.transport_sockets.tls.v3 import secret_pb2  # type: ignore[import-untyped]
from envoy.service.discovery.v3 import discovery_pb2  # type: ignore[import-untyped]
from envoy.service.secret.v3 import sds_pb2_grpc  # type: ignore[import-untyped]

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sidestep.pki.identity import Identity

FILE_ROOT = "file-root:"
TYPE_URL = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"


class SecretServer(sds_pb2_grpc.SecretDiscoveryServiceServicer):  # type: ignore[misc]
    """Answers ``default`` and ``ROOTCA`` on a unix socket, to each node its own. ``identities`` may grow.

    ``file-root:PATH`` is what a DestinationRule's ``caCertificates`` becomes: the agent reads the file.
    """

    def __init__(self, socket: Path) -> None:
        self.socket = socket
        self.identities: dict[str, Identity] = {}
        self._server = grpc.server(ThreadPoolExecutor(64))
        self._server.add_insecure_port(f"unix:{socket}")
        sds_pb2_grpc.add_SecretDiscoveryServiceServicer_to_server(self, self._server)

    def __enter__(self) -> Self:
        self._server.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.stop(0).wait()

    def StreamSecrets(self, requests: Iterator[Any], _: object) -> Iterator[Any]:  # noqa: N802 - the service's name
        """Answer the first request of a stream; those that follow acknowledge."""
        node = ""
        for request in requests:
            node = request.node.id or node
            if not request.response_nonce:
                yield _response(self.identities[node], request.resource_names)


def _response(identity: Identity, names: list[str]) -> discovery_pb2.DiscoveryResponse:
    response = discovery_pb2.DiscoveryResponse(version_info="1", nonce="1", type_url=TYPE_URL)
    for name in names:
        response.resources.add().Pack(_secret(identity, name))
    return response


def _secret(identity: Identity, name: str) -> secret_pb2.Secret:
    secret = secret_pb2.Secret(name=name)
    if name.startswith(FILE_ROOT):
        secret.validation_context.trusted_ca.inline_bytes = Path(name.removeprefix(FILE_ROOT)).read_bytes()
    elif name == "ROOTCA":
        secret.validation_context.trusted_ca.inline_bytes = identity.roots
    else:
        secret.tls_certificate.certificate_chain.inline_bytes = identity.chain
        secret.tls_certificate.private_key.inline_bytes = identity.key
    return secret

"""What Envoy's resources are made of here: plain JSON values, typed extensions, files to watch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeAlias

if TYPE_CHECKING:
    from sidestep.spec import EgressPort

Json: TypeAlias = "Mapping[str, Json] | Sequence[Json] | str | int | float | bool | None"
Resource: TypeAlias = dict[str, Json]


@dataclass(frozen=True)
class Resources:
    """Resources that are made anew whenever somebody goes through them: thousands are never all there at once."""

    make: Callable[[], Iterable[Resource]]

    def __iter__(self) -> Iterator[Resource]:
        return iter(self.make())


TYPE: Final = "@type"
LISTENER: Final = "type.googleapis.com/envoy.config.listener.v3.Listener"
CLUSTER: Final = "type.googleapis.com/envoy.config.cluster.v3.Cluster"
ROUTES: Final = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration"
SECRET: Final = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"  # noqa: S105 (a type)


def extension(name: str, message: str, **config: Json) -> Resource:
    """An extension by its name, configured by ``message`` (without the ``envoy.extensions.`` that all begin with)."""
    return {"name": name, "typed_config": {TYPE: f"type.googleapis.com/envoy.extensions.{message}", **config}}


def typed(message: str, **config: Json) -> Resource:
    """A typed configuration: Envoy goes by the type alone."""
    return {TYPE: f"type.googleapis.com/envoy.extensions.{message}", **config}


def from_file(path: str, watched_directory: str) -> Resource:
    """A source that is read again when something is renamed into the directory, and only then (facts c)."""
    source: Resource = {"path": path, "watched_directory": {"path": watched_directory}}
    return {"resource_api_version": "V3", "path_config_source": source}


def cidr_range(network: str) -> Resource:
    """A network as Envoy writes it: ``10.0.0.0/8``."""
    address, _, length = network.partition("/")
    return {"address_prefix": address, "prefix_len": int(length)}


def cluster_name(port: EgressPort) -> str:
    """Istio's name for it. No DNS name: Envoy's DNS filter would answer those with the gateway's address (facts b)."""
    return f"outbound|{port.number}|{port.traffic.subset}|{port.service.host}"


def upgrade_cluster_name(port: EgressPort) -> str | None:
    """The cluster for what needs the protocol of the application itself: upgrades such as WebSocket's.

    One of its own only where HTTP/1.1 callers are carried over HTTP/2.
    """
    if port.is_http2_upstream == port.protocol.is_http2:
        return None
    return f"outbound-upgrade|{port.number}|{port.traffic.subset}|{port.service.host}"

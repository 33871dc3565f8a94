"""The workload's HTTP proxy: one listener that knows every egress by name, and nothing else.

It takes a request whose ``Host`` names a service, one in absolute form (``http_proxy``), and CONNECT, which becomes a
tunnel: of bytes to a service, or of requests, which it takes as if they had come without. Its routes are a file of
their own: were they part of the listener, every new service would end the tunnels and WebSockets of all others.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Final

from sidestep.compile.envoy import http, tunnel
from sidestep.compile.envoy import routes as to
from sidestep.compile.envoy.gateways import Others
from sidestep.compile.envoy.listeners import listener
from sidestep.compile.envoy.resources import ROUTES, TYPE, cluster_name, from_file
from sidestep.compile.names import names

if TYPE_CHECKING:
    from sidestep.compile.envoy.downstream import Downstream, FilterChains
    from sidestep.compile.envoy.peer_metadata import PeerMetadata
    from sidestep.compile.envoy.resources import Json, Resource
    from sidestep.spec import EgressPort, Machine

NAME: Final = "proxy"
_FILE: Final = "./rds.json"
_HTTP_PORT: Final = 80
_LONGEST_LISTING: Final = 3000
"""Bytes; Envoy's limit for the body of a response of its own is 4096."""
_TUNNELS: Final[Resource] = {"connect_matcher": {}}
_REQUESTS: Final[Resource] = {"prefix": "/"}


def listeners(machine: Machine, chains: FilterChains) -> list[Resource]:
    """The proxy's listener and the one for what comes through its tunnels, where the workload has a proxy."""
    proxy = machine.workload.spec.proxy
    if proxy is None:
        return []
    chained = chains.around(proxy.address, _asked, http=True, is_proxy=True)
    within = _routing(chains.within_tunnels, upgrades=http.WEBSOCKET, filters=[tunnel.NO_TUNNEL_WITHIN])
    return [listener(f"{NAME}|{proxy.listen}", proxy.address, chained), tunnel.listener(within)]


def _asked(downstream: Downstream) -> Resource:
    return _routing(downstream, upgrades=[tunnel.connect(downstream), *http.WEBSOCKET])


def _routing(downstream: Downstream, *, upgrades: Sequence[Json], filters: Sequence[Json] = ()) -> Resource:
    source: Resource = {"route_config_name": NAME, "config_source": from_file(_FILE, ".")}
    return http.connection_manager(
        routes={"rds": source},
        default_host=None,
        upgrades=upgrades,
        downstream=downstream,
        filters=filters,
        more={
            "strip_trailing_host_dot": True,
            "local_reply_config": {"mappers": [*downstream.replies, *_NOT_FOUND]},
        },
    )


def routes(machine: Machine, metadata: PeerMetadata) -> list[Resource]:
    """What the proxy's listener routes by, where the workload has one."""
    if machine.workload.spec.proxy is None:
        return []
    ports = sorted(_first(machine.egress), key=_by_host)
    others = Others.of(machine)
    known = names({port.service.host: port.service for port in ports}.values(), machine.workload.metadata.namespace)
    hosts: list[Json] = []
    for host, of_host in groupby(ports, key=lambda port: port.service.host):
        hosts += _service([*of_host], known[host], others)
    hosts.append(_virtual_host(NAME, ["*"], _not_found(_nobody(machine, ports))))
    # What is meant for the proxy ends at the proxy.
    removed: Resource = {"request_headers_to_remove": ["proxy-authorization"]}
    return [{TYPE: ROUTES, **http.route_config(NAME, hosts, metadata), **removed}]


def _first(ports: Iterable[EgressPort]) -> Iterable[EgressPort]:
    """One egress for each port of a service, the first: a name says nothing of subsets."""
    first: dict[tuple[str, int], EgressPort] = {}
    for port in ports:
        first.setdefault((port.service.host, port.number), port)
    return first.values()


def _by_host(port: EgressPort) -> tuple[str, int]:
    return port.service.host, port.number


def inline(resources: Iterable[Resource], route_configs: Sequence[Resource]) -> Iterator[Resource]:
    """The same listeners with the routes in place that the proxy's would read from a file: once is enough."""
    in_place: Resource = {key: value for each in route_configs for key, value in each.items() if key != TYPE}
    for each in resources:
        yield {key: _inlined(value, in_place) for key, value in each.items()} if _is_proxy(each) else each


def _is_proxy(resource: Resource) -> bool:
    return str(resource["name"]).startswith(f"{NAME}|")


def _inlined(value: Json, in_place: Resource) -> Json:
    if isinstance(value, Mapping):
        inner = {key: _inlined(each, in_place) for key, each in value.items() if key != "rds"}
        return {**inner, "route_config": in_place} if "rds" in value else inner
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_inlined(each, in_place) for each in value]
    return value


def _service(ports: Sequence[EgressPort], known: Sequence[str], others: Others) -> Iterator[Resource]:
    """A virtual host for each port of a service, and one for whoever asks for another port of it."""
    host = ports[0].service.host
    for port in ports:
        domains = [f"{name}:{port.number}" for name in known]
        # As in Istio, and in HTTP: no port means 80.
        domains += known if port.number == _HTTP_PORT else ()
        yield _virtual_host(f"{host}:{port.number}", domains, _port(port, others))
    domains = [f"{name}:*" for name in known]
    domains += known if all(port.number != _HTTP_PORT for port in ports) else ()
    offered = _listing(f"{host}:{port.number} ({port.protocol})" for port in ports)
    yield _virtual_host(host, domains, _not_found(f"this machine calls {offered}; no port means 80"))


def _virtual_host(name: str, domains: Sequence[str], to_where: Sequence[Json]) -> Resource:
    return {"name": name, "domains": domains, "routes": to_where}


def _port(port: EgressPort, others: Others) -> list[Json]:
    if not port.protocol.is_http:
        return [_tunnel_to(cluster_name(port)), _only_connect(port)]
    requests = to.to_service(port, others)
    return [_READ_HERE, *(_without_websocket(each) if port.protocol.is_http2 else each for each in requests)]


def _tunnel_to(cluster: str) -> Resource:
    connect: Resource = {"upgrade_type": "CONNECT", "connect_config": {}}
    return {"match": _TUNNELS, "route": {"cluster": cluster, "timeout": "0s", "upgrade_configs": [connect]}}


def _without_websocket(route: Resource) -> Resource:
    """A WebSocket needs HTTP/1.1 up to the application (facts/istio.md §13.8)."""
    action = route["route"]
    assert isinstance(action, Mapping)
    return {**route, "route": {**action, "upgrade_configs": [{**each, "enabled": False} for each in http.WEBSOCKET]}}


def _only_connect(port: EgressPort) -> Resource:
    """The answer to a request for a service that does not speak HTTP, as far as Envoy was told."""
    answer = _answer(405, f"{port.service.host}:{port.number} carries {port.protocol}: use CONNECT")
    allow: Resource = {"header": {"key": "allow", "value": "CONNECT"}}
    return {"match": _REQUESTS, "direct_response": answer, "response_headers_to_add": [allow]}


def _nobody(machine: Machine, ports: Sequence[EgressPort]) -> str:
    workload = machine.workload.metadata.name
    listing = _listing(f"{port.service.host}:{port.number}" for port in ports)
    return f"this is the proxy of workload {workload}, for {listing}"


def _listing(entries: Iterable[str]) -> str:
    """As many as fit into a response."""
    shown, left, length = [], 0, 0
    for entry in entries:
        length += len(entry) + 2
        shown += [entry] if length < _LONGEST_LISTING else []
        left += length >= _LONGEST_LISTING
    return ", ".join(shown) + (f" and {left:,} more" if left else "")


def _not_found(reason: str) -> list[Json]:
    return [{"match": match, "direct_response": _answer(404, reason)} for match in (_TUNNELS, _REQUESTS)]


def _text(inline: str) -> Resource:
    return {"text_format_source": {"inline_string": inline}}


def _answer(status: int, reason: str) -> Resource:
    return {"status": status, "body": {"inline_string": reason}}


_READ_HERE: Final = _tunnel_to(tunnel.NAME)
_WITHOUT_SLASH: Final[Resource] = {"safe_regex": {"regex": "[^/].*"}}
# A direct response cannot tell what was asked for; this puts it before the body, in every Envoy from 1.36 on. It leaves
# what comes from the mesh as it is: it sees no more than Envoy's own answers.
_NOT_FOUND: Final[list[Resource]] = [
    {
        # Envoy refuses those before it looks at the name.
        "filter": {"header_filter": {"header": {"name": ":path", "string_match": _WITHOUT_SLASH}}},
        "body_format_override": _text("sidestep: %REQ(:PATH)% is no path: one begins with a slash\n"),
    },
    {
        "filter": {
            "status_code_filter": {
                "comparison": {"op": "EQ", "value": {"default_value": 404, "runtime_key": "proxy.not_found"}}
            }
        },
        "body_format_override": _text("sidestep: no service %REQ(:AUTHORITY)% here: %LOCAL_REPLY_BODY%\n"),
    },
]

"""A forwarder's listeners: those of a sidecar, behind a door that opens for the clients of the spec alone.

Who may connect is settled by the match of the filter chain or in the handshake, before a byte of an answer: a network
RBAC filter would act at the client's first byte, when the greeting of a server that speaks first is out (facts h, f).

A listener for HTTP tells TLS from plain text by the client's first bytes. One for bytes cannot wait for those, and may
carry TLS of the application's own; so there the address decides: from the networks of the spec bytes pass as they are,
everybody else needs the certificate.
"""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING, Final

from sidestep.compile.envoy import secrets, tunnel
from sidestep.compile.envoy.access_log import REFUSED_LOG
from sidestep.compile.envoy.authorization import subject_alt_names
from sidestep.compile.envoy.resources import LISTENER, TYPE, extension, typed

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from sidestep.compile.envoy.resources import Json, Resource
    from sidestep.spec import Machine
    from sidestep.spec.clients import Clients, Limits

CREDENTIALS: Final = "clients.htpasswd"
HEALTH_PATH: Final = "/healthz/ready"
"""Istio's own, as the usual port of it is: 15021."""
_HTTP: Final = "envoy.filters.network.http_connection_manager"
_USER: Final = "x-sidestep-user"
_NAMESPACE: Final = "sidestep"


def listeners(made: Iterable[Resource], machine: Machine) -> Iterator[Resource]:
    """The listeners of a workload as they are where it is no forwarder, else guarded, and one for its health."""
    workload = machine.workload.spec
    if workload.clients is None:
        yield from made
        return
    for each in made:
        yield _guarded(each, machine, workload.clients)
    if workload.health:
        yield _health(machine)


def bootstrap(made: Resource, machine: Machine) -> Resource:
    """The bootstrap as it is, or with the limit of connections. It is the process's, so it bounds open files, too.

    The admin interface and the health endpoint do not count towards it.
    """
    if machine.workload.spec.clients is None:
        return made
    most = _limits(machine).connections
    monitor = extension(
        "envoy.resource_monitors.global_downstream_max_connections",
        "resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig",
        max_active_downstream_connections=most,
    )
    return {
        **made,
        "admin": {**_mapping(made["admin"]), "ignore_global_conn_limit": True},
        "overload_manager": {"resource_monitors": [monitor]},
    }


def _limits(machine: Machine) -> Limits:
    from sidestep.spec.clients import Limits

    return machine.workload.spec.limits or Limits()


def _guarded(listener: Resource, machine: Machine, clients: Clients) -> Resource:
    """A socket in the file system is left as it is: its mode says who may connect. Nobody connects to tunnels' ends."""
    if listener["name"] == tunnel.NAME:
        return {**listener, "filter_chains": [_within_tunnels(listener, machine)]}
    if "pipe" in _mapping(listener["address"]):
        return listener
    http = _filters(listener)[-1]["name"] == _HTTP
    inspects = [
        *([_PROXY_PROTOCOL] if clients.proxy_protocol else []),
        *([_TLS_INSPECTOR] if http and clients.mutual_tls else []),
    ]
    plain = _in_plain_text(listener, machine, clients, http=http)
    by_tls = _by_tls(listener, machine, clients, http=http)
    return {
        **listener,
        # Until its first bytes are here, nothing tells whether a client may connect.
        **({"listener_filters": inspects, "listener_filters_timeout": "5s"} if inspects else {}),
        "access_log": [_naming(_balancer(clients), each) for each in REFUSED_LOG],
        "filter_chains": [*plain, *by_tls],
    }


def _filters(listener: Resource) -> list[Resource]:
    [chain] = _sequence(listener["filter_chains"])
    return [dict(_mapping(each)) for each in _sequence(_mapping(chain)["filters"])]


def _in_plain_text(listener: Resource, machine: Machine, clients: Clients, *, http: bool) -> list[Resource]:
    if not clients.in_plain_text:
        return []
    asked = http and machine.credentials and str(listener["name"]).startswith("proxy|")
    passwords = _basic_auth() if asked else []
    filters = [_for_clients(each, machine, _client(clients), passwords) for each in _filters(listener)]
    match = _from_balancers(clients)
    if http and clients.mutual_tls:
        match["transport_protocol"] = "raw_buffer"
    if clients.cidrs:
        match["source_prefix_ranges"] = [_range(network) for network in clients.cidrs]
    # Envoy reads the file of passwords when it makes the chain, and makes it anew when its name is another one.
    name = f"plain|{sha256(machine.credentials).hexdigest()[:16]}" if asked else "plain"
    return [{"name": name, **({"filter_chain_match": match} if match else {}), "filters": filters}]


def _by_tls(listener: Resource, machine: Machine, clients: Clients, *, http: bool) -> list[Resource]:
    if clients.mutual_tls is None or (clients.unsafe_any_address and not http):
        return []
    match = _from_balancers(clients)
    if http:
        match["transport_protocol"] = "tls"
    return [
        {
            "name": "mutual-tls",
            **({"filter_chain_match": match} if match else {}),
            "filters": [_for_clients(each, machine, _client(clients)) for each in _filters(listener)],
            "transport_socket": _mutual_tls(machine, clients.mutual_tls.principals, http=http),
            "transport_socket_connect_timeout": "5s",
        }
    ]


def _from_balancers(clients: Clients) -> Resource:
    """By the address that the connection really comes from, whatever has been said of the client's."""
    if clients.proxy_protocol is None:
        return {}
    return {"direct_source_prefix_ranges": [_range(network) for network in clients.proxy_protocol.from_]}


def _range(network: str) -> Resource:
    address, _, length = network.partition("/")
    return {"address_prefix": address, "prefix_len": int(length)}


def _mutual_tls(machine: Machine, principals: Sequence[str], *, http: bool) -> Resource:
    names: Json = subject_alt_names(principals, machine.mesh.spec.trust_domain)
    common: Resource = {
        "tls_params": {"tls_minimum_protocol_version": "TLSv1_2", "tls_maximum_protocol_version": "TLSv1_3"},
        **({"alpn_protocols": ["h2", "http/1.1"]} if http else {}),
        "tls_certificate_sds_secret_configs": [secrets.IDENTITY_SOURCE],
        "combined_validation_context": {
            "default_validation_context": {"match_typed_subject_alt_names": names},
            "validation_context_sds_secret_config": secrets.ROOTS_SOURCE,
        },
    }
    context = typed(
        "transport_sockets.tls.v3.DownstreamTlsContext",
        require_client_certificate=True,
        # A resumed session would show no certificate: one that has expired since would go on working.
        disable_stateless_session_resumption=True,
        disable_stateful_session_resumption=True,
        common_tls_context=common,
    )
    return {"name": "envoy.transport_sockets.tls", "typed_config": context}


def _within_tunnels(listener: Resource, machine: Machine) -> Resource:
    """Who may open a tunnel was settled before; who has opened it is known here, too."""
    assert machine.workload.spec.clients
    client = {name: f"%FILTER_STATE({_NAMESPACE}.{name}:PLAIN)%" for name in _client(machine.workload.spec.clients)}
    return {"filters": [_for_clients(each, machine, client) for each in _filters(listener)]}


def _for_clients(
    network_filter: Resource, machine: Machine, client: Mapping[str, str], passwords: Sequence[Json] = ()
) -> Resource:
    config = dict(_mapping(network_filter["typed_config"]))
    if "access_log" in config:
        config["access_log"] = [_naming(client, _mapping(each)) for each in _sequence(config["access_log"])]
    if network_filter["name"] == _HTTP:
        before = [*_rate(_limits(machine)), *passwords, _WITHOUT_LOOKALIKES]
        config |= {
            **_FROM_OTHER_MACHINES,
            "http_filters": [*before, *_sequence(config["http_filters"])],
            "upgrade_configs": [
                _upgrade(_mapping(each), before, client) for each in _sequence(config["upgrade_configs"])
            ],
        }
    if passwords:
        config["local_reply_config"] = _asking_for_passwords(config.get("local_reply_config"))
    return {**network_filter, "typed_config": config}


def _upgrade(upgrade: Mapping[str, Json], before: Sequence[Json], client: Mapping[str, str]) -> Resource:
    """A tunnel has filters of its own; other upgrades go through those of all requests."""
    if "filters" not in upgrade:
        return {**upgrade}
    known = [tunnel.remember(f"{_NAMESPACE}.{name}", value) for name, value in client.items()]
    known.append(tunnel.apart(client["user"]))
    return {**upgrade, "filters": [*before, tunnel.remembered(*known), *_sequence(upgrade["filters"])]}


def _client(clients: Clients) -> Mapping[str, str]:
    """What the access log says of a client, beside its address."""
    return {**_CLIENT, **_balancer(clients)}


def _balancer(clients: Clients) -> Mapping[str, str]:
    """What the access log says where the client's address is a balancer's word."""
    return _BALANCER if clients.proxy_protocol else {}


def _naming(client: Mapping[str, str], log: Mapping[str, Json]) -> Resource:
    """The same log, saying which client: its address is there already."""
    config = _mapping(log["typed_config"])
    fields = {**_mapping(_mapping(config["log_format"])["json_format"]), **client}
    return {**log, "typed_config": {**config, "log_format": {"json_format": fields}}}


def _rate(limits: Limits) -> list[Resource]:
    """A bucket of requests for each client address; the least recent go where there are too many."""
    if limits.requests_per_second is None:
        return []
    bucket: Resource = {
        "max_tokens": limits.requests_per_second,
        "tokens_per_fill": limits.requests_per_second,
        "fill_interval": "1s",
    }
    always: Resource = {"default_value": {"numerator": 100}}
    return [
        extension(
            "envoy.filters.http.local_ratelimit",
            "filters.http.local_ratelimit.v3.LocalRateLimit",
            stat_prefix="clients",
            filter_enabled=always,
            filter_enforced=always,
            rate_limits=[{"actions": [{"masked_remote_address": _ONE_CLIENT}]}],
            descriptors=[{"entries": [{"key": "masked_remote_address"}], "token_bucket": bucket}],
            max_dynamic_descriptors=_CLIENTS_COUNTED,
        )
    ]


def _basic_auth() -> list[Resource]:
    remember: Resource = {"metadata_namespace": _NAMESPACE, "key": "user", "type": "STRING"}
    return [
        extension(
            "envoy.filters.http.basic_auth",
            "filters.http.basic_auth.v3.BasicAuth",
            users={"filename": f"./{CREDENTIALS}"},
            authentication_header="proxy-authorization",
            forward_username_header=_USER,
        ),
        # For the access log, and for nobody else.
        extension(
            "envoy.filters.http.header_to_metadata",
            "filters.http.header_to_metadata.v3.Config",
            request_rules=[{"header": _USER, "on_header_present": remember, "remove": True}],
        ),
    ]


def _asking_for_passwords(present: Json) -> Resource:
    """``basic_auth`` answers as a server does; clients send what they have to a proxy when it answers as one."""
    status: Resource = {"default_value": 401, "runtime_key": "clients.unauthorized"}
    mapper: Resource = {
        "filter": {"status_code_filter": {"comparison": {"op": "EQ", "value": status}}},
        "status_code": 407,
        "headers_to_add": [{"header": {"key": "proxy-authenticate", "value": 'Basic realm="sidestep"'}}],
    }
    return {"mappers": [mapper, *(_sequence(_mapping(present)["mappers"]) if present else [])]}


def _health(machine: Machine) -> Resource:
    health = machine.workload.spec.health
    assert health
    address, port = health.listen
    check = extension(
        "envoy.filters.http.health_check",
        "filters.http.health_check.v3.HealthCheck",
        pass_through_mode=False,
        headers=[{"name": ":path", "string_match": {"exact": HEALTH_PATH}}],
    )
    manager = extension(
        _HTTP,
        "filters.network.http_connection_manager.v3.HttpConnectionManager",
        stat_prefix="health",
        route_config={"name": "health", "virtual_hosts": [_NOTHING_ELSE]},
        http_filters=[check, extension("envoy.filters.http.router", "filters.http.router.v3.Router")],
        request_headers_timeout="10s",
        common_http_protocol_options={"idle_timeout": "60s"},
        # As HAProxy asks, unless it is told otherwise.
        http_protocol_options={"accept_http_10": True, "default_host_for_http_10": "health"},
    )
    return {
        TYPE: LISTENER,
        "name": f"health|{health.listen}",
        "stat_prefix": "health",
        "traffic_direction": "INBOUND",
        "address": {"socket_address": {"address": address, "port_value": port}},
        "enable_reuse_port": False,
        "ignore_global_conn_limit": True,
        "filter_chains": [{"filters": [manager]}],
    }


def _mapping(value: Json) -> Mapping[str, Json]:
    assert isinstance(value, dict)
    return value


def _sequence(value: Json) -> Sequence[Json]:
    assert isinstance(value, list | tuple)
    return value


_CLIENTS_COUNTED: Final = 10_000
_ONE_CLIENT: Final[Resource] = {"v4_prefix_mask_len": 32, "v6_prefix_mask_len": 64}
_CLIENT: Final = {
    "downstream_peer_uri_san": "%DOWNSTREAM_PEER_URI_SAN%",
    "user": f"%DYNAMIC_METADATA({_NAMESPACE}:user)%",
}
_BALANCER: Final = {"downstream_direct_remote_address": "%DOWNSTREAM_DIRECT_REMOTE_ADDRESS%"}
_PROXY_PROTOCOL: Final = extension(
    "envoy.filters.listener.proxy_protocol", "filters.listener.proxy_protocol.v3.ProxyProtocol"
)
_TLS_INSPECTOR: Final = extension(
    "envoy.filters.listener.tls_inspector", "filters.listener.tls_inspector.v3.TlsInspector"
)
# As at an edge: what a client says of where a request comes from is added to, and its x-envoy-… headers do not count.
# An `internal_address_config` without ranges would make them count for clients with private addresses (run, 1.40).
_FROM_OTHER_MACHINES: Final[Resource] = {
    "use_remote_address": True,
    "preserve_external_request_id": True,
    "request_headers_timeout": "10s",
}
# Under CGI, WSGI and the like these are the same variables as x-forwarded-for and its kind, where Envoy puts the truth.
_LIKE_FORWARDED: Final[Resource] = {"safe_regex": {"regex": "x_forwarded.*|x-forwarded_.*|x-forwarded-client_cert"}}
_WITHOUT_LOOKALIKES: Final = extension(
    "envoy.filters.http.header_mutation",
    "filters.http.header_mutation.v3.HeaderMutation",
    mutations={"request_mutations": [{"remove_on_match": {"key_matcher": _LIKE_FORWARDED}}]},
)
_NOTHING_ELSE: Final[Resource] = {
    "name": "health",
    "domains": ["*"],
    "routes": [{"match": {"prefix": "/"}, "direct_response": {"status": 404}}],
}

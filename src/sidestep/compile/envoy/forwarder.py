"""A forwarder's listeners: those of a sidecar, with filter chains for the clients of the spec alone.

Who may connect is settled by the match of the filter chain or in the handshake, before a byte of an answer: a network
RBAC filter would act at the client's first byte, when the greeting of a server that speaks first is out (facts h, f).

A listener for HTTP tells TLS from plain text by the client's first bytes. One for bytes cannot wait for those, and may
carry TLS of the application's own; so there the address decides: from the networks of the spec bytes pass as they are,
everybody else needs the certificate.
"""

from __future__ import annotations

from dataclasses import replace
from hashlib import sha256
from typing import TYPE_CHECKING, Final

from sidestep.compile.envoy import tls, tunnel
from sidestep.compile.envoy.access_log import REFUSED_LOG
from sidestep.compile.envoy.authorization import subject_alt_names
from sidestep.compile.envoy.downstream import Downstream, FilterChains
from sidestep.compile.envoy.resources import LISTENER, TYPE, cidr_range, extension
from sidestep.spec.clients import Limits
from sidestep.spec.requests import HEALTH_PATH
from sidestep.spec.sockets import UnixSocket

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sidestep.compile.envoy.downstream import Filter
    from sidestep.compile.envoy.resources import Resource
    from sidestep.spec import LocalAddress, Machine
    from sidestep.spec.clients import Clients, MutualTLS

CREDENTIALS: Final = "clients.htpasswd"
_HTTP: Final = "envoy.filters.network.http_connection_manager"
_USER: Final = "x-sidestep-user"
_NAMESPACE: Final = "sidestep"


def filter_chains(machine: Machine) -> FilterChains:
    """Who may use a workload's listeners: whoever can reach them, or a forwarder's clients."""
    clients = machine.workload.spec.clients
    return FilterChains() if clients is None else _ForClients(machine, clients)


def most_connections(machine: Machine) -> int | None:
    """How many connections clients may have together, where the workload is a forwarder."""
    return None if machine.workload.spec.clients is None else _limits(machine).connections


def _limits(machine: Machine) -> Limits:
    return machine.workload.spec.limits or Limits()


class _ForClients(FilterChains):
    """For the clients of the spec alone."""

    def __init__(self, machine: Machine, clients: Clients) -> None:
        self._machine, self._clients = machine, clients
        balancer = _BALANCER if clients.proxy_protocol else {}
        self._refused = REFUSED_LOG.to_stdout(balancer)
        self._client = _downstream({**_CLIENT, **balancer}, machine)
        # Who may open a tunnel was settled before; who has opened it is known here, too.
        known = {name: f"%FILTER_STATE({_NAMESPACE}.{name}:PLAIN)%" for name in self._client.logged}
        self.within_tunnels = _downstream(known, machine)

    def around(self, listen: LocalAddress, make: Filter, *, http: bool, is_proxy: bool = False) -> Resource:
        """A socket in the file system is left as it is: its mode says who may connect."""
        if isinstance(listen, UnixSocket):
            return super().around(listen, make, http=http, is_proxy=is_proxy)
        clients = self._clients
        inspects = [
            *([_PROXY_PROTOCOL] if clients.proxy_protocol else []),
            *([_TLS_INSPECTOR] if http and clients.mutual_tls else []),
        ]
        return {
            # Until its first bytes are here, nothing tells whether a client may connect.
            **({"listener_filters": inspects, "listener_filters_timeout": "5s"} if inspects else {}),
            "access_log": self._refused,
            "filter_chains": [*self._in_plain_text(make, http=http, is_proxy=is_proxy), *self._by_tls(make, http=http)],
        }

    def _in_plain_text(self, make: Filter, *, http: bool, is_proxy: bool) -> list[Resource]:
        clients, credentials = self._clients, self._machine.credentials
        if not clients.in_plain_text:
            return []
        match = _from_balancers(clients)
        if http and clients.mutual_tls:
            match["transport_protocol"] = "raw_buffer"
        if clients.cidrs:
            match["source_prefix_ranges"] = [cidr_range(network) for network in clients.cidrs]
        name, downstream = "plain", self._client
        if is_proxy and credentials:
            # Envoy reads the file of passwords when it makes the chain, and makes it anew when its name is another one.
            name, downstream = f"plain|{sha256(credentials).hexdigest()[:16]}", _asked_for_passwords(self._client)
        return [{"name": name, **({"filter_chain_match": match} if match else {}), "filters": [make(downstream)]}]

    def _by_tls(self, make: Filter, *, http: bool) -> list[Resource]:
        clients = self._clients
        if clients.mutual_tls is None or (clients.unsafe_any_address and not http):
            return []
        match = _from_balancers(clients)
        if http:
            match["transport_protocol"] = "tls"
        return [
            {
                "name": "mutual-tls",
                **({"filter_chain_match": match} if match else {}),
                "filters": [make(self._client)],
                "transport_socket": tls.from_callers(self._names(clients.mutual_tls), http=http),
                "transport_socket_connect_timeout": "5s",
            }
        ]

    def _names(self, clients: MutualTLS) -> list[Resource]:
        return subject_alt_names(clients.principals, self._machine.mesh.spec.trust_domain)


def _downstream(logged: Mapping[str, str], machine: Machine) -> Downstream:
    """Clients on other machines, of whom the access log says so much."""
    known = [tunnel.remember(f"{_NAMESPACE}.{name}", value) for name, value in logged.items()]
    return Downstream(
        logged=logged,
        filters=[*_rate(_limits(machine)), _WITHOUT_LOOKALIKES],
        tunnelled=[tunnel.remembered(*known, tunnel.apart(logged["user"]))],
        settings=_FROM_OTHER_MACHINES,
    )


def _asked_for_passwords(clients: Downstream) -> Downstream:
    *rate, lookalikes = clients.filters
    return replace(clients, filters=[*rate, *_basic_auth(), lookalikes], replies=[_AS_A_PROXY])


def _from_balancers(clients: Clients) -> Resource:
    """By the address that the connection really comes from, whatever has been said of the client's."""
    if clients.proxy_protocol is None:
        return {}
    return {"direct_source_prefix_ranges": [cidr_range(network) for network in clients.proxy_protocol.from_]}


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


def health(machine: Machine) -> list[Resource]:
    """The listener for load balancers, where the workload has one."""
    wanted = machine.workload.spec.health
    if wanted is None:
        return []
    address, port = wanted.listen
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
    return [
        {
            TYPE: LISTENER,
            "name": f"health|{wanted.listen}",
            "stat_prefix": "health",
            "traffic_direction": "INBOUND",
            "address": {"socket_address": {"address": address, "port_value": port}},
            "enable_reuse_port": False,
            "ignore_global_conn_limit": True,
            "filter_chains": [{"filters": [manager]}],
        }
    ]


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
_LIKE_FORWARDED: Final[Resource] = {
    "safe_regex": {"regex": "x[^-a-z0-9]forwarded.*|x-forwarded[^-a-z0-9].*|x-forwarded-client[^-a-z0-9]cert"}
}
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
# ``basic_auth`` answers as a server does; clients send what they have to a proxy when it answers as one.
_AS_A_PROXY: Final[Resource] = {
    "filter": {
        "status_code_filter": {
            "comparison": {"op": "EQ", "value": {"default_value": 401, "runtime_key": "clients.unauthorized"}}
        }
    },
    "status_code": 407,
    "headers_to_add": [{"header": {"key": "proxy-authenticate", "value": 'Basic realm="sidestep"'}}],
}

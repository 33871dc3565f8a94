"""What must hold in every bundle, whatever the documents say: a function a rule, which fails where it does not hold.

A rule looks at the files alone, as Envoy does, and takes from the machine only what the user asked for.
"""

from __future__ import annotations

import json
import re
from base64 import b64decode
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.json_format import MessageToDict
from google.protobuf.struct_pb2 import Struct

from sidestep.spec import UnixSocket

if TYPE_CHECKING:
    from sidestep.files import FileTree
    from sidestep.spec import EgressPort, Machine
    from sidestep.spec.clients import Clients

HOST_NAME = re.compile(r"[A-Za-z0-9_]([-A-Za-z0-9_]*[A-Za-z0-9_])?(\.[A-Za-z0-9_]([-A-Za-z0-9_]*[A-Za-z0-9_])?)*\.?")
HTTP = "envoy.filters.network.http_connection_manager"
TCP = "envoy.filters.network.tcp_proxy"
TUNNEL = "internal|tunnel"
"""The listener where tunnels of requests end, and the cluster that leads there."""
_UPGRADE = {"name": "upgrade", "present_match": True}
SAFE_FOR_ANY_METHOD = {"connect-failure", "refused-stream", "reset-before-request"}
IDEMPOTENT = {"GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"}
ALPN = {
    "HTTP": ["istio-http/1.1", "istio", "http/1.1"],
    "HTTP2": ["istio-h2", "istio", "h2"],
    "GRPC": ["istio-h2", "istio", "h2"],
    "TCP": ["istio"],
    "TLS": ["istio"],
    "HTTPS": ["istio"],
}


@dataclass(frozen=True)
class Made:
    """A bundle as its reader finds it, and the machine that it is for."""

    machine: Machine
    tree: FileTree

    @cached_property
    def files(self) -> dict[str, Any]:
        """The JSON files, read."""
        return {name: json.loads(file.content) for name, file in self.tree.files.items() if name.endswith(".json")}

    @property
    def bootstrap(self) -> Any:
        return self.files["envoy.json"]

    @property
    def all_clusters(self) -> list[Any]:
        """All that lead out of this Envoy."""
        return [each for each in self.files["cds.json"]["resources"] if each["name"] != TUNNEL]

    @property
    def all_listeners(self) -> list[Any]:
        """All that somebody can connect to."""
        return [each for each in self.files["lds.json"]["resources"] if each["name"] != TUNNEL]

    @property
    def clusters(self) -> list[Any]:
        """Those that lead to the mesh: all but the machine's own applications."""
        return [cluster for cluster in self.all_clusters if not cluster["name"].startswith("inbound|")]

    @property
    def listeners(self) -> list[Any]:
        """Those for local applications: all but those that the mesh calls."""
        return [listener for listener in self.all_listeners if not listener["name"].startswith(("ingress|", "health|"))]

    def calls(self) -> Iterator[tuple[EgressPort, Any]]:
        """Every port that the machine calls, with each cluster that stands for it."""
        clusters = {cluster["name"]: cluster for cluster in self.clusters}
        for port in self.machine.egress:
            rest = f"{port.number}|{port.traffic.subset}|{port.service.host}"
            yield port, clusters[f"outbound|{rest}"]
            if is_upgraded(port):
                yield port, clusters[f"outbound-upgrade|{rest}"]

    def managers(self) -> list[Any]:
        """The configuration of every HTTP connection manager."""
        return [filter_["typed_config"] for filter_ in self._filters() if filter_["name"] == HTTP]

    def _filters(self) -> list[Any]:
        ends = [each for each in self.files["lds.json"]["resources"] if each["name"] == TUNNEL]
        chains = [chain for listener in [*self.listeners, *ends] for chain in listener["filter_chains"]]
        return [filter_ for chain in chains for filter_ in chain["filters"]]

    def route_configs(self) -> list[Any]:
        """What every HTTP connection manager routes by: its own, or one of those in a file."""
        by_name = {each["name"]: each for each in self.files.get("rds.json", {"resources": []})["resources"]}
        managers = self.managers()
        assert {each["rds"]["route_config_name"] for each in managers if "rds" in each} == set(by_name)
        return [each.get("route_config") or by_name[each["rds"]["route_config_name"]] for each in managers]

    def routes(self) -> list[Any]:
        """Every HTTP route to a service."""
        hosts = [host for config in self.route_configs() for host in config["virtual_hosts"]]
        routes = [route for host in hosts for route in host["routes"] if "route" in route]
        return [route for route in routes if route["route"]["cluster"] != TUNNEL]

    def listens(self) -> list[str]:
        """Every address that the spec says, as it is written."""
        proxy = self.machine.workload.spec.proxy
        own = [port.address for port in self.machine.egress if port.address] + ([str(proxy.listen)] if proxy else [])
        health = self.machine.workload.spec.health
        own += [str(health.listen)] if health else []
        return own + [str(port.listen) for port in self.machine.ingress]


def is_upgraded(port: EgressPort) -> bool:
    """Whether the user asked to carry HTTP/1.1 callers over HTTP/2."""
    return port.protocol == "HTTP" and port.traffic.policy.http.h2_upgrade_policy == "UPGRADE"


def spoken(port: EgressPort, cluster: Any) -> str:
    """The protocol of a cluster: that of its port, but for what is carried over HTTP/2."""
    return "HTTP2" if is_upgraded(port) and cluster["name"].startswith("outbound|") else port.protocol


def tunnels(route: Any) -> bool:
    """Whether a route is for CONNECT."""
    return bool(route["match"] == {"connect_matcher": {}})


def written(address: Any) -> str:
    """A listener's address as it stands in a spec."""
    if "pipe" in address:
        return f"unix:{address['pipe']['path']}"
    host, port = address["socket_address"]["address"], address["socket_address"]["port_value"]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def tls(cluster: Any) -> Any:
    """A cluster's TLS settings."""
    assert cluster["transport_socket"]["name"] == "envoy.transport_sockets.tls"
    return cluster["transport_socket"]["typed_config"]


def every_server_is_pinned(made: Made) -> None:
    for port, cluster in made.calls():
        context = tls(cluster)["common_tls_context"]["combined_validation_context"]["default_validation_context"]
        matchers = context["match_typed_subject_alt_names"]
        assert matchers == _pins(port, made.machine.mesh.spec.trust_domain)
        assert matchers


def _pins(port: EgressPort, trust_domain: str) -> list[Any]:
    """What the user said of who may answer, written down a second time."""
    anyone, namespace = port.service.unsafe_any_workload_of, port.service.host.split(".")[1:2]
    if anyone:
        whom = (
            f"spiffe://{trust_domain}/ns/{anyone.namespace}/"
            if anyone.namespace
            else f"spiffe://{anyone.trust_domain}/"
        )
        return [{"san_type": "URI", "matcher": {"prefix": whom}}]
    identities = []
    for account in port.service.service_accounts:
        own = account if "/" in account else f"{namespace[0]}/{account}"
        whole = own if own.startswith("spiffe://") else f"spiffe://{trust_domain}/ns/{own.replace('/', '/sa/')}"
        identities.append({"san_type": "URI", "matcher": {"exact": whole}})
    return identities


def no_cluster_is_without_mutual_tls(made: Made) -> None:
    for cluster in made.clusters:
        context = tls(cluster)["common_tls_context"]
        assert [each["name"] for each in context["tls_certificate_sds_secret_configs"]] == ["default"]
        assert context["combined_validation_context"]["validation_context_sds_secret_config"]["name"] == "ROOTCA"
        assert "validation_context" not in context
        for match in cluster.get("transport_socket_matches", []):
            assert match["match"] == {"healthCheck": True}, "plain text only for what asks whether a gateway is there"
        for endpoint in endpoints(cluster):
            assert "metadata" not in endpoint, "metadata could select another transport socket"


def endpoints(cluster: Any) -> list[Any]:
    """A cluster's endpoints, in order of preference."""
    localities = cluster["load_assignment"]["endpoints"]
    ordered = sorted(localities, key=lambda locality: int(locality.get("priority", 0)))
    return [endpoint for locality in ordered for endpoint in locality["lb_endpoints"]]


def alpn_is_that_of_the_protocol(made: Made) -> None:
    for port, cluster in made.calls():
        assert tls(cluster)["common_tls_context"]["alpn_protocols"] == ALPN[spoken(port, cluster)]
    assert b"istio-peer-exchange" not in b"".join(file.content for file in made.tree.files.values())


def upstream_protocol_is_fixed_by_the_spec(made: Made) -> None:
    """Never negotiated: over ALPN that says one thing, Envoy must not speak the other."""
    for port, cluster in made.calls():
        options = cluster.get("typed_extension_protocol_options", {})
        explicit = [each["explicit_http_config"] for each in options.values()]
        wanted = {
            "HTTP": ["http_protocol_options"],
            "HTTP2": ["http2_protocol_options"],
            "GRPC": ["http2_protocol_options"],
        }
        assert [key for each in explicit for key in each] == wanted.get(spoken(port, cluster), [])


def sni_is_exact(made: Made) -> None:
    for port, cluster in made.calls():
        assert tls(cluster)["sni"] == f"outbound_.{port.number}_.{port.traffic.subset}_.{port.service.host}"
        assert len(tls(cluster)["sni"].encode()) <= 255
        assert "auto_host_sni" not in tls(cluster)


def tls_is_1_2_to_1_3(made: Made) -> None:
    for cluster in made.clusters:
        assert tls(cluster)["common_tls_context"]["tls_params"] == {
            "tls_minimum_protocol_version": "TLSv1_2",
            "tls_maximum_protocol_version": "TLSv1_3",
        }


def cluster_names_are_no_host_names(made: Made) -> None:
    for cluster in made.all_clusters:
        assert not HOST_NAME.fullmatch(cluster["name"])


def every_name_is_there_once(made: Made) -> None:
    for resources in (made.all_clusters, made.all_listeners):
        names = [resource["name"] for resource in resources]
        assert sorted(set(names)) == sorted(names)
    assert sorted(name.partition("|")[2] for name in names) == sorted(made.listens())


def gateways_are_those_of_the_spec_in_order(made: Made) -> None:
    here = made.machine.workload.spec.locality
    for cluster in made.clusters:
        localities = cluster["load_assignment"]["endpoints"]
        assert [locality["priority"] for locality in localities] == [*range(len(localities))]
        order = [
            (-_shared(here, gateway.locality), index if gateway.priority is None else gateway.priority)
            for index, gateway in enumerate(made.machine.mesh.spec.gateways)
        ]
        by_preference: dict[tuple[int, int], list[tuple[str, int]]] = {}
        for preference, gateway in zip(order, made.machine.mesh.spec.gateways, strict=True):
            by_preference.setdefault(preference, []).append((gateway.address, gateway.port))
        wanted = [by_preference[preference] for preference in sorted(by_preference)]
        assert [[address_of(each) for each in locality["lb_endpoints"]] for locality in localities] == wanted


def _shared(here: str | None, there: str | None) -> int:
    """How much of region, zone and sub-zone two places have in common."""
    pairs = zip((here or "").split("/"), (there or "").split("/"), strict=False)
    same = [bool(own) and own == its for own, its in pairs]
    return same.index(False) if False in same else len(same)


def address_of(endpoint: Any) -> tuple[str, int]:
    """Where an endpoint is."""
    address = endpoint["endpoint"]["address"]["socket_address"]
    return address["address"], address["port_value"]


def a_lost_gateway_is_noticed(made: Made) -> None:
    several = len(made.machine.mesh.spec.gateways) > 1
    for port, cluster in made.calls():
        policy = port.traffic.policy
        assert ("outlier_detection" in cluster) == (several or policy.outlier_detection is not None)
        assert ("health_checks" in cluster) == (several or port.traffic.health_check is not None)
        retries = cluster["circuit_breakers"]["thresholds"][0]["max_retries"]
        assert retries == (policy.http.max_retries or 1024)
        for check in cluster.get("health_checks", []):
            assert check["no_traffic_interval"] == check["interval"], "a minute by default: far too late"
            in_plain = "transport_socket_match_criteria" in check
            assert in_plain == bool(cluster.get("transport_socket_matches")) == (port.traffic.health_check is None)
    for route in (route for route in made.routes() if several and not tunnels(route)):
        if retry_policy := route["route"].get("retry_policy"):
            assert retry_policy["retry_host_predicate"]
            assert retry_policy["retry_priority"]


def http2_connections_are_spread(made: Made) -> None:
    for port, cluster in made.calls():
        policy = port.traffic.policy
        age = policy.connection_pool.tcp.max_connection_duration
        for options in cluster.get("typed_extension_protocol_options", {}).values():
            assert options["common_http_protocol_options"]["max_connection_duration"] == str(age or "60s")
            if spoken(port, cluster) in {"HTTP2", "GRPC"}:
                http2 = options["explicit_http_config"]["http2_protocol_options"]
                assert http2["max_concurrent_streams"] == (policy.http.max_concurrent_streams or 4)
                assert http2["connection_keepalive"], "nothing else notices a gateway that hangs"


def what_needs_http1_has_it(made: Made) -> None:
    """A WebSocket cannot be carried over HTTP/2 to a sidecar."""
    names = {cluster["name"]: port for port, cluster in made.calls() if is_upgraded(port)}
    for host in (host for config in made.route_configs() for host in config["virtual_hosts"]):
        routes = [route for route in host["routes"] if route.get("route", {}).get("cluster") in names]
        for route in routes:
            upgrades = _UPGRADE in route["match"].get("headers", [])
            assert upgrades == route["route"]["cluster"].startswith("outbound-upgrade|")
        assert not routes or any(route["route"]["cluster"].startswith("outbound-upgrade|") for route in routes)


def the_mesh_sees_who_calls(made: Made) -> None:
    metadata, labels = made.machine.workload.metadata, made.machine.workload.metadata.labels
    for config in made.route_configs():
        added = {each["header"]["key"]: each for each in config["request_headers_to_add"]}
        assert {each["append_action"] for each in added.values()} == {"OVERWRITE_IF_EXISTS_OR_ADD"}
        said = peer_metadata(added["x-envoy-peer-metadata"]["header"]["value"])
        assert {said["NAME"], said["WORKLOAD_NAME"]} == {metadata.name}
        assert said["NAMESPACE"] == metadata.namespace
        app = labels.get("app.kubernetes.io/name") or labels.get("app") or metadata.name
        assert said["LABELS"]["app"] == app
        node = added["x-envoy-peer-metadata-id"]["header"]["value"]
        assert node == made.bootstrap["node"]["id"]
        assert re.fullmatch(r"sidecar~[0-9.]+~[^~]+~[^~]+", node)


def peer_metadata(header: str) -> Any:
    """What the header says, read by Google's own code."""
    struct = Struct()
    assert struct.ParseFromString(b64decode(header, validate=True)) == struct.ByteSize(), "something is there twice"
    return MessageToDict(struct)


def the_mesh_tells_nothing_of_itself(made: Made) -> None:
    for config in made.route_configs():
        removed = config["response_headers_to_remove"]
        assert {"x-envoy-peer-metadata", "x-envoy-peer-metadata-id"} <= set(removed)


def nothing_listens_where_the_spec_does_not_say(made: Made) -> None:
    addresses = [listener["address"] for listener in made.all_listeners]
    assert sorted(map(written, addresses)) == sorted(made.listens())
    proxy = made.machine.workload.spec.proxy
    modes: dict[str, int] = {}
    for listen in [*(port.listen for port in made.machine.egress), proxy and proxy.address]:
        modes |= {listen.path: listen.mode} if isinstance(listen, UnixSocket) else {}
    assert {each["pipe"]["path"]: each["pipe"]["mode"] for each in addresses if "pipe" in each} == modes
    assert not any("additional_addresses" in listener for listener in made.all_listeners)


def admin_is_a_socket_of_the_owner(made: Made) -> None:
    forwarder = {"ignore_global_conn_limit": True} if made.machine.workload.spec.clients else {}
    assert made.bootstrap["admin"] == {"address": {"pipe": {"path": "./admin.sock", "mode": 0o600}}, **forwarder}


def a_forwarder_serves_its_clients_alone(made: Made) -> None:
    """Each way in asks for an address or for a certificate, before anything is sent; only one that says so does not."""
    clients = made.machine.workload.spec.clients
    listeners = [listener for listener in made.listeners if "pipe" not in listener["address"]]
    if clients is None:
        for listener in listeners:
            assert not listener["name"].startswith("proxy|") or written(listener["address"]).startswith(LOOPBACK)
        return
    for listener in listeners:
        for chain in listener["filter_chains"]:
            by_tls = chain.get("transport_socket")
            assert _asks_for_a_certificate(by_tls) if by_tls else _asks_for_an_address(chain, clients)
        assert "continue_on_listener_filters_timeout" not in listener
    filters = [each for listener in listeners for chain in listener["filter_chains"] for each in chain["filters"]]
    for manager in (each["typed_config"] for each in filters if each["name"] == HTTP):
        assert manager["use_remote_address"] is True
        assert manager.get("xff_num_trusted_hops", 0) == 0
        assert manager.get("forward_client_cert_details", "SANITIZE") == "SANITIZE"
    _passwords_are_asked_for(made, clients)


PROXY_PROTOCOL = "envoy.filters.listener.proxy_protocol"
LOOPBACK = ("127.", "[::1]:")


def _asks_for_a_certificate(transport_socket: Any) -> bool:
    config = transport_socket["typed_config"]
    names = config["common_tls_context"]["combined_validation_context"]["default_validation_context"]
    resumes = not (config["disable_stateless_session_resumption"] and config["disable_stateful_session_resumption"])
    return config["require_client_certificate"] is True and names["match_typed_subject_alt_names"] and not resumes


def _asks_for_an_address(chain: Any, clients: Clients) -> bool:
    if clients.unsafe_any_address:
        return True
    return _networks(chain["filter_chain_match"]["source_prefix_ranges"]) == clients.cidrs


def _networks(ranges: Any) -> list[str]:
    return [f"{each['address_prefix']}/{each['prefix_len']}" for each in ranges]


def a_balancer_is_known_by_its_own_address(made: Made) -> None:
    """It says who its client is; whoever else says so, or a balancer that does not, is not let in."""
    clients = made.machine.workload.spec.clients
    wanted = clients.proxy_protocol.from_ if clients and clients.proxy_protocol else []
    for listener in (each for each in made.listeners if "pipe" not in each["address"]):
        for chain in listener["filter_chains"]:
            really_from = chain.get("filter_chain_match", {}).get("direct_source_prefix_ranges", [])
            assert _networks(really_from) == wanted
        filters = listener.get("listener_filters", [])
        headers = [index for index, each in enumerate(filters) if each["name"] == PROXY_PROTOCOL]
        assert headers == ([0] if wanted else []), "before anything else is read, and only where a balancer is known"
        for index in headers:
            assert set(filters[index]["typed_config"]) == {"@type"}, "nothing is allowed that Envoy refuses by default"


def _passwords_are_asked_for(made: Made, clients: Clients) -> None:
    for listener in (listener for listener in made.listeners if listener["name"].startswith("proxy|")):
        for chain in (chain for chain in listener["filter_chains"] if "transport_socket" not in chain):
            first = [each["name"] for each in chain["filters"][0]["typed_config"]["http_filters"]]
            assert ("envoy.filters.http.basic_auth" in first) == bool(clients.credentials)
    for config in (config for config in made.route_configs() if config["name"] == "proxy"):
        assert "proxy-authorization" in config["request_headers_to_remove"]


def no_port_is_shared(made: Made) -> None:
    assert {listener["enable_reuse_port"] for listener in made.all_listeners} == {False}


def secrets_are_shared(made: Made) -> None:
    sources = {
        json.dumps(tls(cluster)["common_tls_context"]["tls_certificate_sds_secret_configs"])
        for cluster in made.clusters
    }
    assert len(sources) <= 1
    names = {
        name: [each["name"] for each in made.files[f"sds/{name}.json"]["resources"]] for name in ("identity", "roots")
    }
    assert names == {"identity": ["default"], "roots": ["ROOTCA"]}


def statistics_are_limited(made: Made) -> None:
    patterns = made.bootstrap["stats_config"]["stats_matcher"]["inclusion_list"]["patterns"]
    for name, wanted in STATISTICS.items():
        assert is_included(name, patterns) == wanted, name


def is_included(name: str, patterns: list[Any]) -> bool:
    """Whether Envoy is to keep a statistic."""
    return any(re.fullmatch(pattern["safe_regex"]["regex"], name) for pattern in patterns)


STATISTICS = {
    "cluster.outbound|9080||a_b.upstream_rq_total": True,
    "cluster.outbound|9080||a_b.upstream_rq_5xx": True,
    "cluster.outbound|9080||a_b.ssl.fail_verify_san": True,
    "cluster.outbound|9080||a_b.upstream_cx_connect_fail": True,
    "listener_manager.lds.update_rejected": True,
    "cluster_manager.cds.update_success": True,
    "proxy_proto.not_found_disallowed": True,
    "cluster.outbound|9080||a_b.upstream_rq_503": False,
    "cluster.outbound|9080||a_b.assignment_stale": False,
    "cluster.outbound|9080||a_b.circuit_breakers.default.cx_open": False,
    "cluster.outbound|9080||a_b.http2.rx_reset": False,
    "cluster.outbound|9080||a_b.lb_healthy_panic": False,
}


def what_is_not_idempotent_is_sent_once(made: Made) -> None:
    for route in made.routes():
        if tunnels(route):
            assert "retry_policy" not in route["route"]
            continue
        action, unsafe = route["route"], _unsafe(made, route["route"]["cluster"])
        policy = action.get("retry_policy", {"retry_on": ""})
        retry_on = {word for word in policy["retry_on"].split(",") if word}
        assert retry_on <= SAFE_FOR_ANY_METHOD | {"reset"} | _asked_for(made), "nobody asked for more"
        if not retry_on <= SAFE_FOR_ANY_METHOD and not unsafe:
            assert _methods(route["match"]) <= IDEMPOTENT
        if "hedge_policy" in action:
            assert _methods(route["match"]) <= IDEMPOTENT - {"PUT", "DELETE"}, (
                "two writes at once may come in any order"
            )


def _asked_for(made: Made) -> set[str]:
    """Every condition that the user wrote."""
    retries = [port.traffic.retries for port in made.machine.egress]
    return {word for each in retries if each and each.retry_on for word in each.retry_on.conditions}


def _unsafe(made: Made, cluster: str) -> bool:
    """Whether the user said, by a name that begins with unsafe, that anything may be repeated."""
    ports = {each["name"]: port for port, each in made.calls()}
    same = [port for port in made.machine.egress if port.service == ports[cluster].service]
    return any(port.traffic.retries is not None and port.traffic.retries.unsafe_any_method for port in same)


def _methods(match: Any) -> set[str]:
    """The methods that a route is for; it must be for some only."""
    [header] = match["headers"]
    assert header["name"] == ":method"
    assert not header.get("invert_match")
    return set(header["string_match"]["safe_regex"]["regex"].split("|"))


def every_request_has_a_route(made: Made) -> None:
    for config in made.route_configs():
        *others, last = config["virtual_hosts"]
        assert last["domains"] == ["*"]
        assert not others or config["name"] == "proxy"
        for host in config["virtual_hosts"]:
            assert host["routes"][-1]["match"] == {"prefix": "/"}


def the_proxy_is_not_open(made: Made) -> None:
    """It goes to the egress of the workload by the names that these have in the mesh, and nowhere else."""
    reached = set()
    for config in (config for config in made.route_configs() if config["name"] == "proxy"):
        clusters = {cluster["name"]: cluster for cluster in made.clusters}
        for host in config["virtual_hosts"]:
            for route in (route for route in host["routes"] if "route" in route):
                if route["route"].get("cluster") == TUNNEL:
                    continue
                _, number, _, name = re.split(r"\|", route["route"]["cluster"])
                assert route["route"]["cluster"] in clusters
                assert host["domains"][0] == f"{name}:{number}"
                assert all(_means(domain, name, number) for domain in host["domains"])
                assert tunnels(route) == any(
                    "connect_config" in each for each in route["route"].get("upgrade_configs", [])
                )
                reached.add(route["route"]["cluster"])
        ports = {(name.split("|")[1], name.split("|")[3]) for name in clusters}
        assert {(name.split("|")[1], name.split("|")[3]) for name in reached} == ports, "it serves every egress"
        assert {"direct_response"} == {key for route in host["routes"] for key in route} - {"match"}


def _means(domain: str, host: str, port: str) -> bool:
    name, colon, number = domain.partition(":")
    labels = host.split(".")
    assert "*" not in domain
    short = [".".join(labels[:length]) for length in (1, 2, 3)] if labels[2:3] == ["svc"] else []
    return (number == port if colon else port == "80") and name in {host, *short}


def rest_is_as_strict_as_grpc(made: Made) -> None:
    """Nothing that is no method goes on, and no stream that fails midway looks whole."""
    for config in made.managers():
        filters = {each["name"].rpartition(".")[2]: each["typed_config"] for each in config["http_filters"]}
        if transcoder := filters.get("grpc_json_transcoder"):
            content = made.tree.files[transcoder["proto_descriptor"].removeprefix("./")].content
            assert sha256(content).hexdigest()[:16] in transcoder["proto_descriptor"]
            validation = transcoder["request_validation_options"]
            assert validation["reject_unknown_method"]
            assert validation["reject_unknown_query_parameters"] or transcoder["ignore_unknown_query_parameters"]
            assert transcoder["convert_grpc_status"]
            streams = FileDescriptorSet.FromString(content).file[-1].service[0].method
            guarded = [*filters][-4:] == ["grpc_json_transcoder", "lua", "grpc_web", "router"]
            assert guarded == any(method.server_streaming for method in streams)


def every_path_is_within_the_bundle(made: Made) -> None:
    paths = [path for name, value in made.files.items() if name != "manifest.json" for path in _paths(value)]
    paths = [path for path in paths if path not in _requested(made.machine)]
    assert "./certs/key.pem" in paths
    elsewhere = {listen.removeprefix("unix:") for listen in made.listens()}
    for path in paths:
        if path in elsewhere:
            continue
        assert path == "." or path.startswith("./"), path
        assert ".." not in path


def _requested(machine: Machine) -> set[str]:
    """Paths of requests: what a health check asks for."""
    checks = [port.spec.health_check for port in machine.ingress]
    return {check.http_get.path for check in checks if check and check.http_get}


def _paths(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for key, inner in value.items():
            if key in {"path", "filename"} and isinstance(inner, str) and not inner.startswith("%"):
                yield inner
            yield from _paths(inner) if key != "http_health_check" else ()
    elif isinstance(value, list):
        for inner in value:
            yield from _paths(inner)


def nothing_secret_can_be_read_by_others(made: Made) -> None:
    assert made.tree.directories["certs"] == 0o700
    for name, file in made.tree.files.items():
        assert b"PRIVATE KEY" not in file.content
        assert "key" not in name
        assert not file.mode & 0o133, f"{name} can be written or executed by others"


def the_manifest_tells_what_is_there(made: Made) -> None:
    manifest = made.files["manifest.json"]
    others = {name: file.content for name, file in made.tree.files.items() if name != "manifest.json"}
    assert manifest["sha256"] == {name: sha256(content).hexdigest() for name, content in others.items()}
    assert manifest["identity"] == made.machine.identity


RULES: list[Callable[[Made], None]] = [
    every_server_is_pinned,
    no_cluster_is_without_mutual_tls,
    alpn_is_that_of_the_protocol,
    upstream_protocol_is_fixed_by_the_spec,
    sni_is_exact,
    tls_is_1_2_to_1_3,
    cluster_names_are_no_host_names,
    every_name_is_there_once,
    gateways_are_those_of_the_spec_in_order,
    a_lost_gateway_is_noticed,
    http2_connections_are_spread,
    what_needs_http1_has_it,
    the_mesh_sees_who_calls,
    the_mesh_tells_nothing_of_itself,
    nothing_listens_where_the_spec_does_not_say,
    admin_is_a_socket_of_the_owner,
    a_forwarder_serves_its_clients_alone,
    a_balancer_is_known_by_its_own_address,
    no_port_is_shared,
    secrets_are_shared,
    statistics_are_limited,
    what_is_not_idempotent_is_sent_once,
    every_request_has_a_route,
    the_proxy_is_not_open,
    rest_is_as_strict_as_grpc,
    every_path_is_within_the_bundle,
    nothing_secret_can_be_read_by_others,
    the_manifest_tells_what_is_there,
]

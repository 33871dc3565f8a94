"""What must hold for every request: where it goes, how often it is sent, what is said of who calls."""

from __future__ import annotations

import re
from base64 import b64decode
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.json_format import MessageToDict
from google.protobuf.struct_pb2 import Struct

from tests.compile.made import TUNNEL, is_upgraded, tunnels

if TYPE_CHECKING:
    from tests.compile.made import Made

_UPGRADE = {"name": "upgrade", "present_match": True}
SAFE_FOR_ANY_METHOD = {"connect-failure", "refused-stream", "reset-before-request"}
IDEMPOTENT = {"GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"}


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
            content = made.contents[transcoder["proto_descriptor"].removeprefix("./")]
            assert sha256(content).hexdigest()[:16] in transcoder["proto_descriptor"]
            validation = transcoder["request_validation_options"]
            assert validation["reject_unknown_method"]
            assert validation["reject_unknown_query_parameters"] or transcoder["ignore_unknown_query_parameters"]
            assert transcoder["convert_grpc_status"]
            streams = FileDescriptorSet.FromString(content).file[-1].service[0].method
            guarded = [*filters][-4:] == ["grpc_json_transcoder", "lua", "grpc_web", "router"]
            assert guarded == any(method.server_streaming for method in streams)

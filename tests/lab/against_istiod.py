"""What istiod pushed, what the lab builds from the same input, and what differs between them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from sidestep.lab.gateway import Export, gateway_bootstrap
from sidestep.lab.sidecar import Inbound, Sidecar, sidecar_bootstrap
from sidestep.lab.topology import Application, AuthorizationPolicy, MTLSMode, Protocol, Service, ServicePort

ISTIOD = Path(__file__).parent / "istiod"
SIDECARS = {
    "open.strict": "sidecar-strict.json",
    "guarded.strict": "sidecar-strict-with-policy.json",
    "open.perm": "sidecar-permissive.json",
}
MISSING, ADDED, CHANGED = "only istiod has it", "only the lab has it", "another value"
Difference = tuple[str, str]


def differences(istiod: Any, lab: Any, path: str) -> dict[Difference, tuple[Any, Any]]:
    """Everything that differs, by where it is and how it differs."""
    if isinstance(istiod, dict) and isinstance(lab, dict):
        return _dict_differences(istiod, lab, path)
    if isinstance(istiod, list) and isinstance(lab, list) and _named(istiod) and _named(lab):
        return _list_differences(istiod, lab, path)
    return {} if istiod == lab else {(path, CHANGED): (istiod, lab)}


def _dict_differences(istiod: dict[str, Any], lab: dict[str, Any], path: str) -> dict[Difference, tuple[Any, Any]]:
    found: dict[Difference, tuple[Any, Any]] = {}
    for key in istiod.keys() | lab.keys():
        where = f"{path}.{key}"
        if key not in lab:
            found[where, MISSING] = (istiod[key], None)
        elif key not in istiod:
            found[where, ADDED] = (None, lab[key])
        else:
            found |= differences(istiod[key], lab[key], where)
    return found


def _list_differences(istiod: list[Any], lab: list[Any], path: str) -> dict[Difference, tuple[Any, Any]]:
    ours, theirs = {item["name"]: item for item in lab}, {item["name"]: item for item in istiod}
    found: dict[Difference, tuple[Any, Any]]
    found = {(f"{path}[{name}]", MISSING): (theirs[name], None) for name in theirs.keys() - ours.keys()}
    found |= {(f"{path}[{name}]", ADDED): (None, ours[name]) for name in ours.keys() - theirs.keys()}
    both = [name for name in theirs if name in ours]
    if len(ours) != len(lab) or both != [name for name in ours if name in theirs]:
        found[f"{path}(order)", CHANGED] = (list(theirs), list(ours))
    for name in both:
        found |= differences(theirs[name], ours[name], f"{path}[{name}]")
    return found


def _named(items: list[Any]) -> bool:
    return all(isinstance(item, dict) and "name" in item for item in items)


# istiod's side


def pushed(name: str) -> Any:
    return json.loads((ISTIOD / name).read_text())


def as_seen_by(port: int, listener: dict[str, Any]) -> dict[str, Any]:
    """``virtualInbound`` for a connection to one port: without the filters that are disabled for it."""
    filters = [item for item in listener["listener_filters"] if not _matches(item.get("filter_disabled"), port)]
    filters = [{key: value for key, value in item.items() if key != "filter_disabled"} for item in filters]
    rest = {key: value for key, value in listener.items() if key not in {"filter_chains", "@type"}}
    return {**rest, "listener_filters": filters}


def _matches(predicate: dict[str, Any] | None, port: int) -> bool:
    if predicate is None:
        return False
    if "or_match" in predicate:
        return any(_matches(rule, port) for rule in predicate["or_match"]["rules"])
    range_ = predicate["destination_port_range"]
    return bool(range_["start"] <= port < range_["end"])


# the lab's side, from the same input


def input_documents(name: str) -> list[dict[str, Any]]:
    return [doc for doc in yaml.safe_load_all((ISTIOD / "input" / name).read_text()) if doc]


def services() -> dict[str, Service]:
    entries = [doc for doc in input_documents("services.yaml") if doc["spec"]["location"] == "MESH_INTERNAL"]
    return {f"{entry['metadata']['name']}.{entry['metadata']['namespace']}": service(entry) for entry in entries}


def service(entry: dict[str, Any]) -> Service:
    name, namespace = entry["metadata"]["name"], entry["metadata"]["namespace"]
    ports = [
        ServicePort(port["number"], Protocol(port.get("protocol", "")), Application.HTTP)
        for port in entry["spec"]["ports"]
    ]
    return Service(name, namespace, tuple(ports), mtls=mode(namespace), policy=policy(name, namespace))


def mode(namespace: str) -> MTLSMode:
    modes = {
        doc["metadata"]["namespace"]: MTLSMode(doc["spec"]["mtls"]["mode"])
        for doc in input_documents("gateway.yaml")
        if doc["kind"] == "PeerAuthentication"
    }
    return modes.get(namespace, MTLSMode.PERMISSIVE)


def policy(app: str, namespace: str) -> AuthorizationPolicy | None:
    for doc in input_documents("gateway.yaml"):
        if doc["kind"] == "AuthorizationPolicy" and doc["metadata"]["namespace"] == namespace:
            selected = doc["spec"]["selector"]["matchLabels"]["app"]
            [rule] = doc["spec"]["rules"]
            principals = tuple(rule["from"][0]["source"]["principals"])
            return AuthorizationPolicy(doc["metadata"]["name"], namespace, principals) if selected == app else None
    return None


def lab_sidecar(name: str) -> Any:
    target = services()[name]
    inbound = tuple(Inbound(port, 20000 + index, 30000 + index) for index, port in enumerate(target.ports))
    built = sidecar_bootstrap(Sidecar(target, inbound, (input_documents("mesh.yaml")[0]["trustDomain"],)))
    return json.loads(json.dumps(built))["static_resources"]


def lab_gateway() -> Any:
    exports = [
        Export(service(entry).host, port, tuple(20000 + index for index, _ in enumerate(_mtls_endpoints(entry))))
        for entry in input_documents("services.yaml")
        if entry["spec"]["location"] == "MESH_INTERNAL"
        for port in service(entry).ports
    ]
    built = gateway_bootstrap("gateway", listen=15444, exports=exports)
    return json.loads(json.dumps(built))["static_resources"]


def _mtls_endpoints(entry: dict[str, Any]) -> list[Any]:
    """Those that speak Istio's mTLS: the rest never become endpoints of the gateway."""
    return [endpoint for endpoint in entry["spec"]["endpoints"] if endpoint.get("serviceAccount")]


# both


def sidecar_differences(name: str, lab: Any) -> dict[Difference, tuple[Any, Any]]:
    istiod = pushed(SIDECARS[name])
    [virtual_inbound] = istiod["listeners"]
    ports = [port.number for port in services()[name].ports]
    found = _other_chains(virtual_inbound, ports)
    assert len(lab["listeners"]) == len(ports)
    for port, listener in zip(ports, lab["listeners"], strict=True):
        theirs = [
            chain
            for chain in virtual_inbound["filter_chains"]
            if chain["filter_chain_match"].get("destination_port") == port
        ]
        found |= _chain_differences(theirs, listener["filter_chains"])
        ours = {key: value for key, value in listener.items() if key != "filter_chains"}
        found |= differences(as_seen_by(port, virtual_inbound), ours, "listener")
    return found | _cluster_differences(istiod["clusters"], lab["clusters"], "sidecar")


def _other_chains(listener: dict[str, Any], ports: list[int]) -> dict[Difference, tuple[Any, Any]]:
    rest = [
        chain for chain in listener["filter_chains"] if chain["filter_chain_match"].get("destination_port") not in ports
    ]
    return {(f"sidecar.chains[{chain['name']}]", MISSING): (chain, None) for chain in rest}


def _chain_differences(istiod: list[Any], lab: list[Any]) -> dict[Difference, tuple[Any, Any]]:
    if len(istiod) != len(lab):
        return {("listener.filter_chains", CHANGED): (istiod, lab)}
    found: dict[Difference, tuple[Any, Any]] = {}
    for theirs, ours in zip(istiod, lab, strict=True):
        found |= differences(theirs, ours, "chain")
    return found


def _cluster_differences(istiod: list[Any], lab: list[Any], owner: str) -> dict[Difference, tuple[Any, Any]]:
    theirs, ours = ({cluster["name"]: cluster for cluster in side} for side in (istiod, lab))
    found: dict[Difference, tuple[Any, Any]] = {
        (f"{owner}.clusters[{name}]", MISSING if name in theirs else ADDED): (theirs.get(name), ours.get(name))
        for name in theirs.keys() ^ ours.keys()
    }
    for name in theirs.keys() & ours.keys():
        cluster = {key: value for key, value in theirs[name].items() if key != "@type"}
        found |= differences(cluster, ours[name], "cluster")
    return found


def gateway_differences(lab: Any) -> dict[Difference, tuple[Any, Any]]:
    istiod = pushed("gateway.json")
    [theirs], [ours] = istiod["listeners"], lab["listeners"]
    found = differences(_head(theirs), _head(ours), "listener")
    chains = {sni(chain): chain for chain in theirs["filter_chains"]}
    for chain in ours["filter_chains"]:
        found |= differences(chains.pop(sni(chain), None), chain, "chain")
    found |= {(f"gateway.chains[{name}]", MISSING): (chain, None) for name, chain in chains.items()}
    kept = {cluster["name"] for cluster in istiod["clusters"]}  # the file holds the clusters of one namespace only
    return found | _cluster_differences(
        istiod["clusters"], [cluster for cluster in lab["clusters"] if cluster["name"] in kept], "gateway"
    )


def _head(listener: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in listener.items() if key not in {"filter_chains", "@type"}}


def sni(chain: dict[str, Any]) -> str:
    [name] = chain["filter_chain_match"]["server_names"]
    return str(name)

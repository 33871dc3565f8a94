"""What must hold for every listener for local applications and for a forwarder's clients: who gets in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sidestep.spec import UnixSocket
from tests.compile.made import HTTP, written

if TYPE_CHECKING:
    from sidestep.spec.clients import Clients
    from tests.compile.made import Made

PROXY_PROTOCOL = "envoy.filters.listener.proxy_protocol"
LOOPBACK = ("127.", "[::1]:")


def every_name_is_there_once(made: Made) -> None:
    for resources in (made.all_clusters, made.all_listeners):
        names = [resource["name"] for resource in resources]
        assert sorted(set(names)) == sorted(names)
    assert sorted(name.partition("|")[2] for name in names) == sorted(made.listens())


def nothing_listens_where_the_spec_does_not_say(made: Made) -> None:
    addresses = [listener["address"] for listener in made.all_listeners]
    assert sorted(map(written, addresses)) == sorted(made.listens())
    proxy = made.machine.workload.spec.proxy
    modes: dict[str, int] = {}
    for listen in [*(port.listen for port in made.machine.egress), proxy and proxy.address]:
        modes |= {listen.path: listen.mode} if isinstance(listen, UnixSocket) else {}
    assert {each["pipe"]["path"]: each["pipe"]["mode"] for each in addresses if "pipe" in each} == modes
    assert not any("additional_addresses" in listener for listener in made.all_listeners)


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

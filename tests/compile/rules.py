"""What must hold in every bundle, whatever the documents say: a function a rule, which fails where it does not hold.

A rule looks at the files alone, as Envoy does, and takes from the machine only what the user asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.compile.bundle_rules import (
    admin_is_a_socket_of_the_owner,
    every_path_is_within_the_bundle,
    nothing_secret_can_be_read_by_others,
    statistics_are_limited,
    the_manifest_tells_what_is_there,
)
from tests.compile.cluster_rules import (
    alpn_is_that_of_the_protocol,
    cluster_names_are_no_host_names,
    every_server_is_pinned,
    no_cluster_is_without_mutual_tls,
    secrets_are_shared,
    sni_is_exact,
    tls_is_1_2_to_1_3,
    upstream_protocol_is_fixed_by_the_spec,
)
from tests.compile.gateway_rules import (
    a_lost_gateway_is_noticed,
    a_second_try_goes_to_another_gateway,
    gateways_are_those_of_the_spec_in_order,
    http2_connections_are_spread,
)
from tests.compile.listener_rules import (
    a_balancer_is_known_by_its_own_address,
    a_forwarder_serves_its_clients_alone,
    every_name_is_there_once,
    no_port_is_shared,
    nothing_listens_where_the_spec_does_not_say,
)
from tests.compile.route_rules import (
    every_request_has_a_route,
    rest_is_as_strict_as_grpc,
    the_mesh_sees_who_calls,
    the_mesh_tells_nothing_of_itself,
    the_proxy_is_not_open,
    what_is_not_idempotent_is_sent_once,
    what_needs_http1_has_it,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.compile.made import Made

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
    a_second_try_goes_to_another_gateway,
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

__all__ = [
    "RULES",
    "a_balancer_is_known_by_its_own_address",
    "a_forwarder_serves_its_clients_alone",
    "a_lost_gateway_is_noticed",
    "a_second_try_goes_to_another_gateway",
    "admin_is_a_socket_of_the_owner",
    "alpn_is_that_of_the_protocol",
    "cluster_names_are_no_host_names",
    "every_name_is_there_once",
    "every_path_is_within_the_bundle",
    "every_request_has_a_route",
    "every_server_is_pinned",
    "gateways_are_those_of_the_spec_in_order",
    "http2_connections_are_spread",
    "no_cluster_is_without_mutual_tls",
    "no_port_is_shared",
    "nothing_listens_where_the_spec_does_not_say",
    "nothing_secret_can_be_read_by_others",
    "rest_is_as_strict_as_grpc",
    "secrets_are_shared",
    "sni_is_exact",
    "statistics_are_limited",
    "the_manifest_tells_what_is_there",
    "the_mesh_sees_who_calls",
    "the_mesh_tells_nothing_of_itself",
    "the_proxy_is_not_open",
    "tls_is_1_2_to_1_3",
    "upstream_protocol_is_fixed_by_the_spec",
    "what_is_not_idempotent_is_sent_once",
    "what_needs_http1_has_it",
]

"""The east-west gateways as endpoints: which is preferred, how a lost one is noticed."""

from __future__ import annotations

from collections import defaultdict
from enum import Flag, auto
from ipaddress import ip_address
from itertools import chain
from operator import itemgetter
from typing import TYPE_CHECKING, Final

from sidestep.compile.envoy.resources import extension
from sidestep.spec.requests import HEALTH_PATH
from sidestep.spec.traffic import Duration

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sidestep.compile.envoy.resources import Json, Resource
    from sidestep.spec import Gateway, Machine
    from sidestep.spec.traffic import HealthCheck

UNLIMITED: Final = 4294967295
_LAST_PRIORITY: Final = 128
_RETRIES_AT_ONCE: Final = 1024
"""Envoy's default of 3 makes most requests fail when a gateway dies (facts h)."""
_RAREST_PROBE: Final = Duration(30_000)
"""As long as outlier detection keeps a gateway out. Health checks that would have to be rarer are left out."""
# By default a change of health that follows another one is heeded a second later: so long, calls would still go to a
# gateway that is known to be gone.
AT_ONCE: Final[Resource] = {"update_merge_window": "0s"}
_LOST: Final[Resource] = {"ignore_health_on_host_removal": True, "close_connections_on_host_health_failure": True}
_READY: Final[Resource] = {"path": HEALTH_PATH, "host": "gateway"}


class Others(Flag):
    """The gateways that are left where a call through one of them has failed."""

    NONE = 0
    EQUAL = auto()
    """Of the same preference."""
    NEXT = auto()
    """Of a lower one."""

    @classmethod
    def of(cls, machine: Machine) -> Others:
        """Those that a machine has. A name may stand for several, if there are several at all."""
        ranks = _ranked(machine)
        if sum(map(len, ranks)) == 1:
            return cls.NONE
        equal = _is_named(machine) or any(len(each) > 1 for each in ranks)
        return (cls.EQUAL if equal else cls.NONE) | (cls.NEXT if len(ranks) > 1 else cls.NONE)


def reach(machine: Machine, clusters: int) -> Resource:
    """How to get to the gateways: what is the same in every cluster."""
    gateways = machine.mesh.spec.gateways
    several = len(gateways) > 1
    return {
        **({"cluster_type": _DNS} if _is_named(machine) else {"type": "STATIC"}),
        "connect_timeout": "1.500s" if several else "5s",
        "lb_policy": "LEAST_REQUEST",
        "circuit_breakers": {"thresholds": [THRESHOLDS]},
        "upstream_connection_options": {"tcp_keepalive": KEEPALIVE},
        "load_assignment": endpoints(machine, with_status_port=several),
        **(_asked(gateways, clusters) if several else {}),
        **({"outlier_detection": outliers(gateways), "common_lb_config": AT_ONCE} if several else {}),
    }


def reach_for_bytes(machine: Machine, clusters: int) -> Resource:
    """The same for connections whose bytes are passed on; ``clusters`` counts those alone.

    There is no retry to avoid the gateway that failed, so one failure leaves it out: the next attempt would wait at a
    gateway that hangs once more. And nothing but being asked tells of one that hangs under an open connection, so these
    clusters ask as often as their own number allows, however many others there are.
    """
    made = reach(machine, clusters)
    failures = made.get("outlier_detection")
    if not isinstance(failures, dict):
        return made
    return {**made, "outlier_detection": {**failures, "consecutive_local_origin_failure": 1}}


def outliers(gateways: Sequence[Gateway]) -> Resource:
    """When a gateway is left out for a while because connections to it fail.

    Taking connections is no proof that it works again, so where it is asked for no more than that, it has to wait.
    """
    ready = gateways[0].status_port is not None
    return {**_OUTLIERS, **({} if ready else {"successful_active_health_check_uneject_host": False})}


def asked_through(check: HealthCheck) -> Resource:
    """Asking the service itself: TLS through the gateway, to a pod and back."""
    return _asking({**_times(check.interval, check.timeout), "tcp_health_check": {}})


def _is_named(machine: Machine) -> bool:
    return not all(_is_ip(gateway.address) for gateway in machine.mesh.spec.gateways)


def _is_ip(address: str) -> bool:
    try:
        ip_address(address)
    except ValueError:
        return False
    return True


def endpoints(machine: Machine, *, with_status_port: bool) -> Resource:
    """The gateways by preference, as a load assignment. Envoy's priorities must begin at 0 and leave nothing out."""
    localities: list[Json] = [
        {"priority": priority, "lb_endpoints": [_endpoint(each, with_status_port=with_status_port) for each in equals]}
        for priority, equals in enumerate(_ranked(machine))
    ]
    # Required, and otherwise of no meaning where the endpoints stand in the cluster itself.
    return {"cluster_name": "gateways", "endpoints": localities}


def _ranked(machine: Machine) -> list[list[Gateway]]:
    """The gateways by distance and preference, equals together; all that come after Envoy's last priority share it."""
    ranks: dict[tuple[int, int], list[Gateway]] = defaultdict(list)
    for index, gateway in enumerate(machine.mesh.spec.gateways):
        preference = index if gateway.priority is None else gateway.priority
        ranks[_distance(machine.workload.spec.locality, gateway.locality), preference].append(gateway)
    ordered = [equals for _, equals in sorted(ranks.items(), key=itemgetter(0))]
    before, last = ordered[:_LAST_PRIORITY], ordered[_LAST_PRIORITY:]
    return [*before, [*chain.from_iterable(last)]] if last else before


def _distance(here: str | None, there: str | None) -> int:
    """How much of region, zone and sub-zone is not shared: nothing where a workload does not say where it is."""
    own, its = here.split("/") if here else [], there.split("/") if there else []
    shared = next((at for at, (a, b) in enumerate(zip(own, its, strict=False)) if a != b), min(len(own), len(its)))
    return len(own) - shared


def _endpoint(gateway: Gateway, *, with_status_port: bool) -> Resource:
    address: Resource = {"socket_address": {"address": gateway.address, "port_value": gateway.port}}
    if not with_status_port or gateway.status_port is None:
        return {"endpoint": {"address": address}}
    return {"endpoint": {"address": address, "health_check_config": {"port_value": gateway.status_port}}}


def _asked(gateways: Sequence[Gateway], clusters: int) -> Resource:
    """Asking the gateways alone, in plain text: TLS would go all the way to the destination's pods.

    Whether each is ready where that is known, else whether it takes connections. The interval grows with the number of
    clusters, because each of them asks every gateway: they open no more than 20 connections a second to ask, or ask no
    more than 100 times where the connections are kept. With thousands of clusters the answers come too late to be of
    use, while the first round, for which Envoy's start waits, opens thousands of connections at once and costs a
    seventh of the memory (bench/memory.py).
    """
    status = gateways[0].status_port is not None
    probes = len(gateways) * clusters
    interval = Duration(max(500, probes * 10)) if status else Duration(max(1000, probes * 50))
    if interval > _RAREST_PROBE:
        return _LOST
    how: Resource = {"http_health_check": _READY} if status else {"tcp_health_check": {}}
    plain = extension("envoy.transport_sockets.raw_buffer", "transport_sockets.raw_buffer.v3.RawBuffer")
    match: Resource = {"name": "health-check", "match": {"healthCheck": True}, "transport_socket": plain}
    criteria: Resource = {"transport_socket_match_criteria": {"healthCheck": True}}
    return {
        **_asking({**_times(interval, Duration(750 if status else 1000)), **how, **criteria}),
        "transport_socket_matches": [match],
    }


def _times(interval: Duration, timeout: Duration) -> Resource:
    return {
        "timeout": str(timeout),
        "interval": str(interval),
        "no_traffic_interval": str(interval),
        "no_traffic_healthy_interval": str(interval),
        "unhealthy_threshold": 2,
        "healthy_threshold": 1,
    }


def _asking(check: Resource) -> Resource:
    return {"health_checks": [check], **_LOST}


THRESHOLDS: Final[Resource] = {
    "max_connections": UNLIMITED,
    "max_pending_requests": UNLIMITED,
    "max_requests": UNLIMITED,
    "max_retries": _RETRIES_AT_ONCE,
}
# Load balancers in front of gateways forget idle connections without a word, the earliest after four minutes.
KEEPALIVE: Final[Resource] = {"keepalive_time": 60, "keepalive_interval": 10, "keepalive_probes": 3}
# The same as type STRICT_DNS, whose own fields for this are deprecated.
_DNS: Final = extension(
    "envoy.cluster.dns",
    "clusters.dns.v3.DnsCluster",
    dns_lookup_family="V4_PREFERRED",
    respect_dns_ttl=True,
    dns_refresh_rate="60s",
    dns_failure_refresh_rate={"base_interval": "2s", "max_interval": "10s"},
)
# Only what happens between here and the gateway counts: an application's own 5xx says nothing about the gateway.
_OUTLIERS: Final[Resource] = {
    "split_external_local_origin_errors": True,
    "consecutive_local_origin_failure": 2,
    "enforcing_consecutive_5xx": 0,
    "enforcing_success_rate": 0,
    "enforcing_local_origin_success_rate": 0,
    "interval": "1s",
    "base_ejection_time": "5s",
    "max_ejection_time": "30s",
    "max_ejection_percent": 50,
}

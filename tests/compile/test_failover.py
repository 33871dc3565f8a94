"""Health checks of gateways, and the number of services at which they stop being worth it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sidestep import onboard
from tests import documents

if TYPE_CHECKING:
    from pathlib import Path

GATEWAYS = [{"address": "192.0.2.1"}, {"address": "192.0.2.2"}]


def clusters(services: int, file: Path, *, tcp: int = 0, **more: Any) -> list[dict[str, Any]]:
    """The clusters of a machine that calls so many services through two gateways, the first few of them over TCP."""
    hosts = [f"s{index}.pay.svc.cluster.local" for index in range(services)]
    called = [documents.egress(host, f"127.0.0.1:{10_000 + index}", **more) for index, host in enumerate(hosts)]
    offered = [documents.service(host, (9080, "TCP" if index < tcp else "HTTP")) for index, host in enumerate(hosts)]
    mesh = documents.mesh(*offered, gateways=GATEWAYS)
    documents.write(file, mesh, documents.workload(*called))
    [bundle] = onboard.bundles(onboard.load([str(file)]))
    made: Any = bundle.plan.clusters
    return list(made)


def interval(cluster: dict[str, Any]) -> str:
    """How often it asks each gateway."""
    [check] = cluster["health_checks"]
    return str(check["interval"])


def test_health_checks_grow_rarer_with_the_number_of_services(tmp_path: Path) -> None:
    assert {interval(cluster) for cluster in clusters(10, tmp_path / "few.yaml")} == {"1s"}
    assert {interval(cluster) for cluster in clusters(300, tmp_path / "more.yaml")} == {"30s"}


def test_with_many_services_failed_connections_alone_tell_that_a_gateway_is_gone(tmp_path: Path) -> None:
    for cluster in clusters(310, tmp_path / "many.yaml"):
        assert "health_checks" not in cluster
        assert "outlier_detection" in cluster


def test_tcp_services_ask_as_often_as_their_own_number_allows(tmp_path: Path) -> None:
    made = clusters(310, tmp_path / "many.yaml", tcp=10)
    asking = [cluster for cluster in made if "health_checks" in cluster]
    assert len(asking) == 10
    assert {interval(cluster) for cluster in asking} == {"1s"}
    made = clusters(310, tmp_path / "all.yaml", tcp=310)
    assert not any("health_checks" in cluster for cluster in made)


def test_one_failed_connection_leaves_a_gateway_out_over_tcp_alone(tmp_path: Path) -> None:
    made = clusters(2, tmp_path / "both.yaml", tcp=1)
    assert sorted(cluster["outlier_detection"]["consecutive_local_origin_failure"] for cluster in made) == [1, 2]


def test_so_it_is_with_an_outlier_policy_that_says_nothing_of_it(tmp_path: Path) -> None:
    policy = {"outlierDetection": {"maxEjectionPercent": 60}}
    made = clusters(2, tmp_path / "both.yaml", tcp=1, trafficPolicy=policy)
    found = [cluster["outlier_detection"] for cluster in made]
    assert sorted(each["consecutive_local_origin_failure"] for each in found) == [1, 2]
    assert {each["max_ejection_percent"] for each in found} == {60}


def test_the_clusters_for_upgrades_ask_too_and_count(tmp_path: Path) -> None:
    policy = {"connectionPool": {"http": {"h2UpgradePolicy": "UPGRADE"}}}
    made = clusters(100, tmp_path / "upgraded.yaml", trafficPolicy=policy)
    assert len(made) == 200
    assert {interval(cluster) for cluster in made} == {"20s"}

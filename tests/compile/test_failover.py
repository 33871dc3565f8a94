"""Health checks of gateways, and the number of services at which they stop being worth it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sidestep import onboard
from tests import documents

if TYPE_CHECKING:
    from pathlib import Path

    from sidestep.compile.envoy.resources import Resource

GATEWAYS = [{"address": "192.0.2.1"}, {"address": "192.0.2.2"}]


def clusters(services: int, file: Path) -> list[Resource]:
    """The clusters of a machine that calls so many services through two gateways."""
    hosts = [f"s{index}.pay.svc.cluster.local" for index in range(services)]
    called = [documents.egress(host, f"127.0.0.1:{10_000 + index}") for index, host in enumerate(hosts)]
    mesh = documents.mesh(*map(documents.service, hosts), gateways=GATEWAYS)
    documents.write(file, mesh, documents.workload(*called))
    [bundle] = onboard.bundles(onboard.load([str(file)]))
    return bundle.plan.clusters


def interval(cluster: Resource) -> str:
    """How often it asks each gateway."""
    checks: Any = cluster["health_checks"]
    [check] = checks
    return str(check["interval"])


def test_health_checks_grow_rarer_with_the_number_of_services(tmp_path: Path) -> None:
    assert {interval(cluster) for cluster in clusters(10, tmp_path / "few.yaml")} == {"1s"}
    assert {interval(cluster) for cluster in clusters(300, tmp_path / "more.yaml")} == {"30s"}


def test_with_many_services_failed_connections_alone_tell_that_a_gateway_is_gone(tmp_path: Path) -> None:
    for cluster in clusters(310, tmp_path / "many.yaml"):
        assert "health_checks" not in cluster
        assert "outlier_detection" in cluster

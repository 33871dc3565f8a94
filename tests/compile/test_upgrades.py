"""WebSockets beside requests that are carried over HTTP/2: another cluster, and the same said of them in the spec."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from sidestep import onboard
from tests import documents

if TYPE_CHECKING:
    from pathlib import Path

UPGRADED = {"connectionPool": {"http": {"h2UpgradePolicy": "UPGRADE"}}}


def routes(file: Path, **said: Any) -> tuple[Any, Any]:
    """Where upgrades go, and where a POST goes."""
    calls = documents.egress("reviews", "127.0.0.1:9080", trafficPolicy=UPGRADED, **said)
    documents.write(file, documents.mesh(), documents.workload(calls))
    [bundle] = onboard.bundles(onboard.load([str(file)]))
    [listener] = bundle.plan.listeners
    made: Any = listener
    [host] = made["filter_chains"][0]["filters"][0]["typed_config"]["route_config"]["virtual_hosts"]
    return host["routes"][0]["route"], host["routes"][-1]["route"]


@pytest.mark.parametrize(
    "said",
    [
        {},
        {"retries": {"attempts": 0}},
        {"retries": {"attempts": 5, "backoff": "1s"}, "timeout": "3s"},
    ],
)
def test_upgrades_are_retried_and_limited_as_the_spec_says(tmp_path: Path, said: dict[str, Any]) -> None:
    upgrade, post = routes(tmp_path / "spec.yaml", **said)
    assert upgrade.pop("cluster").startswith("outbound-upgrade|")
    assert post.pop("cluster").startswith("outbound|")
    assert upgrade == post

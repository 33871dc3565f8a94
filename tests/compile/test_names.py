"""The names of services are those that Kubernetes and Istio know them by."""

from __future__ import annotations

import pytest

from sidestep.compile.names import names
from sidestep.spec import Service


def service(host: str) -> Service:
    return Service.model_validate({"host": host, "ports": [{"number": 80}], "serviceAccounts": ["a/b"]})


@pytest.mark.parametrize(
    ("host", "namespace", "short"),
    [
        ("reviews.bookinfo.svc.cluster.local", "vms", ["reviews.bookinfo.svc", "reviews.bookinfo"]),
        ("reviews.bookinfo.svc.cluster.local", "bookinfo", ["reviews.bookinfo.svc", "reviews.bookinfo", "reviews"]),
        ("reviews.bookinfo.svc.prod.example.com", "vms", ["reviews.bookinfo.svc", "reviews.bookinfo"]),
        ("reviews.bookinfo.svc", "bookinfo", []),
        ("api.example.com", "example", []),
        ("api", "vms", []),
    ],
)
def test_a_service_has_these_names(host: str, namespace: str, short: list[str]) -> None:
    assert names([service(host)], namespace) == {host: [host, *short]}


def test_what_two_could_mean_is_nobodys() -> None:
    one, two = "reviews.bookinfo.svc.one.example", "reviews.bookinfo.svc.two.example"
    assert names([service(one), service(two)], "bookinfo") == {one: [one], two: [two]}


def test_a_whole_name_is_never_anothers_short_one() -> None:
    inside, outside = "api.example.svc.cluster.local", "api.example"
    assert names([service(inside), service(outside)], "vms") == {
        inside: [inside, "api.example.svc"],
        outside: [outside],
    }

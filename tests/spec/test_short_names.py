"""What a short service name means: one service, or a problem that lists what it could mean."""

from __future__ import annotations

import pytest

from tests import documents
from tests.commands import run

SERVICES = [
    "reviews.bookinfo.svc.cluster.local",
    "reviews.staging.svc.cluster.local",
    "ratings.bookinfo.svc.cluster.local",
    "api.example.com",
    "api",
    # Those next to "ratings." in the order of characters.
    "ratings-v2.bookinfo.svc.cluster.local",
    "ratings0.bookinfo.svc.cluster.local",
]


def validate(name: str) -> bytes:
    services = [documents.service(host, serviceAccounts=["ns/sa"]) for host in SERVICES]
    return documents.text(documents.mesh(*services), documents.workload(documents.egress(name))).encode()


@pytest.mark.parametrize(
    ("name", "host"),
    [
        ("ratings", SERVICES[2]),
        ("ratings.bookinfo", SERVICES[2]),
        ("ratings.bookinfo.svc", SERVICES[2]),
        ("reviews.staging", SERVICES[1]),
        (SERVICES[0], SERVICES[0]),
        ("api.example", SERVICES[3]),
        ("api", "api"),
        ("ratings-v2", SERVICES[5]),
        ("ratings0", SERVICES[6]),
    ],
)
def test_means_one_service(name: str, host: str) -> None:
    answer = run("validate", "-o", "json", "-", stdin=validate(name))
    assert [each["host"] for each in answer.json["workloads"][0]["egress"]] == [host]


def problem(name: str) -> tuple[str, str, str]:
    [found] = run("validate", "-o", "json", "-", stdin=validate(name)).json["error"]["problems"]
    return found["field"], found["message"], found["allowed"]


def test_is_ambiguous() -> None:
    candidates = f"{SERVICES[0]}, {SERVICES[1]}"
    assert problem("reviews") == ("spec.egress[0].host", "the name is ambiguous", candidates)


@pytest.mark.parametrize(
    "name", ["review", "reviews.book", "svc", "bookinfo.reviews", "cluster.local", "reviews.bookinf"]
)
def test_means_nothing(name: str) -> None:
    field, message, allowed = problem(name)
    assert (field, message) == ("spec.egress[0].host", "the mesh has no such service")
    assert allowed.startswith("a service of the Mesh, such as ")


@pytest.mark.parametrize(
    ("name", "like"),
    [
        ("rattings.bookinfo", SERVICES[2]),
        ("rating", SERVICES[2]),
        ("apy", "api"),
        ("reviews.bookinfo.svc.cluster.locall", SERVICES[0]),
    ],
)
def test_suggests_what_is_like_it(name: str, like: str) -> None:
    suggested = problem(name)[2].partition("such as ")[2].split(", ")
    assert suggested[0] == like
    assert len({*suggested}) == len(suggested) <= 3


def test_a_thousand_names_that_mean_nothing_are_said_soon() -> None:
    """Comparing each with every service would take minutes."""
    services = [documents.service(f"svc-{n}.ns-{n % 50}.svc.cluster.local") for n in range(2_000)]
    calls = [documents.egress(f"svd-{n}.nt", 10_000 + n) for n in range(2_000)]
    both = documents.text(documents.mesh(*services), documents.workload(*calls)).encode()
    problems = run("validate", "-o", "json", "-", stdin=both).json["error"]["problems"]
    assert [each["message"] for each in problems] == ["the mesh has no such service"] * 2_000

"""The Istio objects by which a mesh knows machines: those of docs/ingress.md, with this mesh's addresses in them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

if TYPE_CHECKING:
    from collections.abc import Iterator

DOCUMENT = Path(__file__).parents[2] / "docs" / "ingress.md"
BILLING, ARCHIVE, UNNAMED, EXTERNAL = "10.98.0.50", "10.98.0.51", "10.98.0.52", "10.98.0.60"
"""Addresses of ServiceEntries: the machine of the mesh's own trust domain, that of another one, the same without a
DestinationRule, and the load balancer."""
BILLING_MACHINE, ARCHIVE_MACHINE, LOAD_BALANCER = "10.99.0.101", "10.99.0.102", "10.99.0.103"
HOSTS = [f"{name}.vms.svc.cluster.local" for name in ("billing", "archive", "unnamed")] + ["billing.example.com"]


def for_machines(ca: Path) -> list[dict[str, Any]]:
    """The objects; ``ca`` is where sidecars find the load balancer's private CA."""
    entry, external, trust_domain, tls = _documented()
    return [
        _replaced(entry, {"198.51.100.10": BILLING, "192.0.2.10": BILLING_MACHINE}),
        _replaced(entry, {"198.51.100.10": ARCHIVE, "192.0.2.10": ARCHIVE_MACHINE, "billing": "archive"}),
        _replaced(trust_domain, {"billing": "archive"}),
        _replaced(
            entry,
            {
                "198.51.100.10": UNNAMED,
                "192.0.2.10": ARCHIVE_MACHINE,
                "serviceAccount: billing": "serviceAccount: archive",
                "billing": "unnamed",
            },
        ),
        _replaced(external, {"198.51.100.20": EXTERNAL, "192.0.2.20": LOAD_BALANCER}),
        _replaced(tls, {"/etc/billing/ca.pem": str(ca)}),
    ]


def _documented() -> tuple[dict[str, Any], ...]:
    """The two ServiceEntries, and the DestinationRules for a trust domain and for the load balancer."""
    objects = list(_objects())
    entries = [each for each in objects if each["kind"] == "ServiceEntry"]
    modes = {
        each["spec"]["trafficPolicy"].get("tls", {}).get("mode", ""): each for each in objects if each not in entries
    }
    assert len(entries) == 2
    return (*entries, modes["ISTIO_MUTUAL"], modes["SIMPLE"])


def _objects() -> Iterator[dict[str, Any]]:
    for block in re.findall(r"```yaml\n(.*?)```", DOCUMENT.read_text(), re.DOTALL):
        if block.startswith("apiVersion: networking.istio.io/"):
            yield from yaml.safe_load_all(block)


def _replaced(value: dict[str, Any], replacements: dict[str, str]) -> dict[str, Any]:
    text = yaml.safe_dump(value)
    for old, new in replacements.items():
        assert old in text, old
        text = text.replace(old, new)
    replaced: dict[str, Any] = yaml.safe_load(text)
    return replaced

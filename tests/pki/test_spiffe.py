"""Names: what is a SPIFFE ID, and what is none."""

from __future__ import annotations

import pytest

from sidestep.errors import CertificateError
from sidestep.pki.spiffe import SpiffeId


@pytest.mark.parametrize(
    "text",
    [
        "spiffe://cluster.local/ns/vms/sa/billing",
        "spiffe://a_b-c.1/ns/0/sa/billing.v2",
        f"spiffe://{'t' * 255}/ns/{'n' * 63}/sa/{'s' * 63}.{'s' * 63}",
        f"spiffe://cluster.local/ns/vms/sa/{'s' * 253}",
    ],
)
def test_a_spiffe_id_survives_reading_and_writing(text: str) -> None:
    assert str(SpiffeId.parse(text)) == text
    assert SpiffeId.parse(text).principal == text.removeprefix("spiffe://")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "cluster.local/ns/vms/sa/billing",
        "SPIFFE://cluster.local/ns/vms/sa/billing",
        "spiffe://Cluster.local/ns/vms/sa/billing",
        "spiffe:///ns/vms/sa/billing",
        "spiffe://.example/ns/vms/sa/billing",
        "spiffe://a..b/ns/vms/sa/billing",
        "spiffe://cluster.local:80/ns/vms/sa/billing",
        "spiffe://user@cluster.local/ns/vms/sa/billing",
        "spiffe://cluster.local/ns/vms/sa/billing/",
        "spiffe://cluster.local/ns/vms/sa/billing?x=1",
        "spiffe://cluster.local/ns/vms/sa/billing#x",
        "spiffe://cluster.local/ns/vms/sa/bil%6cing",
        "spiffe://cluster.local/ns/../sa/billing",
        "spiffe://cluster.local/ns/vms/sa/",
        "spiffe://cluster.local/ns/vms/sa/-billing",
        "spiffe://cluster.local/ns/vms/sa/billing\n",
        "spiffe://cluster.local/ns/v.ms/sa/billing",
        "spiffe://cluster.local/sa/billing/ns/vms",
        "spiffe://clüster.local/ns/vms/sa/billing",
        f"spiffe://{'t' * 256}/ns/vms/sa/billing",
        f"spiffe://cluster.local/ns/{'n' * 64}/sa/billing",
        f"spiffe://cluster.local/ns/vms/sa/{'s' * 254}",
    ],
)
def test_what_is_no_spiffe_id_is_refused_with_what_is_allowed(text: str) -> None:
    with pytest.raises(CertificateError, match=r"found .*allowed"):
        SpiffeId.parse(text)

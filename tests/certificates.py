"""Certificates for tests, from a CA of their own."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import cache
from typing import TYPE_CHECKING

from sidestep.files import write_set
from sidestep.pki.authority import Authority
from sidestep.pki.identity import issue
from sidestep.pki.spiffe import SpiffeId

if TYPE_CHECKING:
    from pathlib import Path


@cache
def authority() -> Authority:
    """A root CA, one for the whole run."""
    return Authority.new_root(datetime.now(UTC))


def issue_into(bundle: Path, name: str = "spiffe://cluster.local/ns/vms/sa/billing") -> None:
    """A certificate, its key and the roots into the bundle's ``certs``, as an issuer puts them there."""
    identity = issue(authority(), SpiffeId.parse(name), datetime.now(UTC))
    write_set(bundle / "certs", identity.files())

"""What tests of bundles start from."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import documents
from tests.documents import LEDGER, mesh, service, workload
from tests.render.bundles import Snapshot, quickly, snapshot, spec


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current directory with ``spec.yaml``, ``more.yaml`` (one service more) and ``other.yaml`` in it."""
    monkeypatch.chdir(tmp_path)
    spec("spec.yaml")
    spec("more.yaml", service(), service(LEDGER, (50051, "GRPC")))
    documents.write(Path("other.yaml"), mesh(), workload(name="invoices"))
    return tmp_path


@pytest.fixture
def old(place: Path) -> Snapshot:
    """A bundle that is in place, as it is to stay."""
    quickly("spec.yaml")
    return snapshot("bundle")

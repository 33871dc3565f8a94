"""Documents for tests: what a user would write, with only what matters to the test said."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

Fields = dict[str, Any]

REVIEWS = "reviews.bookinfo.svc.cluster.local"
LEDGER = "ledger.pay.svc.cluster.local"


def service(host: str = REVIEWS, *ports: tuple[int, str | None], **more: Any) -> Fields:
    """A service with ``ports`` (HTTP on 9080 unless said otherwise), pinned unless ``more`` says how it is."""
    listed = [{"number": number} | ({"protocol": protocol} if protocol else {}) for number, protocol in ports]
    pinned = {} if "unsafeAnyWorkloadOf" in more else {"serviceAccounts": [host.partition(".")[0]]}
    return {"host": host, "ports": listed or [{"number": 9080, "protocol": "HTTP"}], **pinned, **more}


def mesh(*services: Fields, name: str = "prod", **spec: Any) -> Fields:
    """A mesh with one gateway."""
    offered = {"gateways": [{"address": "127.0.0.1"}], "services": list(services) or [service()]}
    return {
        "apiVersion": "sidestep/v1alpha1",
        "kind": "Mesh",
        "metadata": {"name": name},
        "spec": {**offered, **spec},
    }


def egress(host: str = "reviews", listen: str | int | None = None, **more: Any) -> Fields:
    """An egress; a number as ``listen`` is a port on 127.0.0.1."""
    address = f"127.0.0.1:{listen}" if isinstance(listen, int) else listen
    return {"host": host, **({"listen": address} if address else {}), **more}


def workload(*calls: Fields, name: str = "billing", namespace: str = "vms", **spec: Any) -> Fields:
    """A workload that calls ``calls``, or the service of `mesh`."""
    return {
        "apiVersion": "sidestep/v1alpha1",
        "kind": "Workload",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"egress": list(calls) or [egress()], **spec},
    }


def text(*documents: object) -> str:
    """The documents as YAML."""
    return "\n---\n".join(json.dumps(document, indent=1) for document in documents) + "\n"


def write(file: Path, *documents: object) -> str:
    """Writes the documents to a file and returns its name, as an argument."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text(*documents), encoding="utf-8")
    return str(file)

"""The documents that bad input is made from: change one thing, and everything else is as it should be."""

from __future__ import annotations

MESH = """\
apiVersion: sidestep/v1alpha1
kind: Mesh
metadata: {name: prod}
spec:
  gateways: [{address: 10.0.0.1}]
  services:
  - host: reviews.bookinfo.svc.cluster.local
    ports: [{number: 9080, protocol: HTTP}]
    serviceAccounts: [reviews]
"""
WORKLOAD = """\
apiVersion: sidestep/v1alpha1
kind: Workload
metadata: {name: billing, namespace: vms}
spec:
  egress:
  - {host: reviews}
"""
BOTH = f"{MESH}---\n{WORKLOAD}"


def mesh(old: str, new: str) -> str:
    """Both documents with a part of the mesh replaced."""
    return f"{replaced(MESH, old, new)}---\n{WORKLOAD}"


def workload(old: str, new: str) -> str:
    """Both documents with a part of the workload replaced."""
    return f"{MESH}---\n{replaced(WORKLOAD, old, new)}"


def replaced(text: str, old: str, new: str) -> str:
    """``text`` with one part of it replaced by another."""
    assert old in text, f"{old!r} is not in the document"
    return text.replace(old, new)

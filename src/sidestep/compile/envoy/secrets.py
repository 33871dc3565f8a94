"""The two secrets, shared by every cluster, read from files beside the bundle.

Names are those of Istio's agent, for the files (``cert-chain.pem``, ``key.pem``, ``root-cert.pem``) as for the secrets
(``default``, ``ROOTCA``: facts/istio.md §3.1).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sidestep.compile.envoy.resources import SECRET, TYPE, from_file

if TYPE_CHECKING:
    from sidestep.compile.envoy.resources import Resource

IDENTITY: Final = "default"
ROOTS: Final = "ROOTCA"
DIRECTORY: Final = "./certs"
_WATCHED: Final[Resource] = {"path": DIRECTORY}

# The directory of the certificates is watched for these too: what names a file that is not there yet is refused, and
# only reading it again makes Envoy take certificates that arrive after its start.
IDENTITY_SOURCE: Final[Resource] = {"name": IDENTITY, "sds_config": from_file("./sds/identity.json", DIRECTORY)}
ROOTS_SOURCE: Final[Resource] = {"name": ROOTS, "sds_config": from_file("./sds/roots.json", DIRECTORY)}


def identity() -> Resource:
    """The workload's certificate chain and key."""
    certificate: Resource = {
        "certificate_chain": {"filename": f"{DIRECTORY}/cert-chain.pem"},
        "private_key": {"filename": f"{DIRECTORY}/key.pem"},
        "watched_directory": _WATCHED,
    }
    return {TYPE: SECRET, "name": IDENTITY, "tls_certificate": certificate}


def roots() -> Resource:
    """The certificates that a server's chain must lead to."""
    context: Resource = {"trusted_ca": {"filename": f"{DIRECTORY}/root-cert.pem"}, "watched_directory": _WATCHED}
    return {TYPE: SECRET, "name": ROOTS, "validation_context": context}

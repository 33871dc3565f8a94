"""What may stand in a bundle's manifest: it is read again by root for a hosts file, and for variables of processes.

Only what is used is looked at: a manifest of another version may say more.
"""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import ip_address
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, ValidationError

from sidestep.spec.checked import checked
from sidestep.spec.scalars import DnsName, Name, PortNumber, PortProtocol
from sidestep.spec.sockets import ListenOn


def _loopback(value: object) -> str:
    if type(value) is not str or "%" in value:
        raise ValueError
    address = ip_address(value)
    if not address.is_loopback:
        raise ValueError
    return str(address)


_Loopback = Annotated[str, checked(_loopback, "a loopback address")]


class _Part(BaseModel):
    model_config = ConfigDict(extra="ignore")


class _Workload(_Part):
    name: Name
    namespace: Name


class _Egress(_Part):
    listen: ListenOn | None
    host: DnsName
    port: PortNumber
    subset: str = ""
    protocol: PortProtocol


class _Manifest(_Part):
    workload: _Workload
    egress: list[_Egress]
    proxy: ListenOn | None = None
    names: dict[_Loopback, list[DnsName]]


def wrong(manifest: Mapping[str, Any]) -> str | None:
    """The field that no manifest of ours could have; None where there is none."""
    try:
        _Manifest.model_validate(manifest)
    except ValidationError as error:
        # Positions and our own names only: keys are the manifest's.
        first = [part for part in error.errors()[0]["loc"] if part in _FIELDS or type(part) is int]
        return ".".join(str(part) for part in first) or "it"
    return None


_FIELDS = frozenset(name for model in (_Manifest, _Workload, _Egress) for name in model.model_fields)

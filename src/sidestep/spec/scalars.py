"""The scalar types of the documents: each says what it allows once, for error messages and for editors."""

from __future__ import annotations

import re
from enum import StrEnum
from functools import cached_property
from ipaddress import IPv6Address
from typing import Annotated, Final, NamedTuple

from sidestep.pki.spiffe import DNS_NAME, LABEL, SUBDOMAIN, TRUST_DOMAIN
from sidestep.spec.checked import checked, member_of, text, whole


class Protocol(StrEnum):
    """What a port carries, in Istio's words (``appProtocol``, ``ServiceEntry.ports[].protocol``)."""

    HTTP = "HTTP"
    HTTP2 = "HTTP2"
    GRPC = "GRPC"
    TCP = "TCP"
    TLS = "TLS"
    HTTPS = "HTTPS"

    @cached_property
    def is_http(self) -> bool:
        """Whether Envoy reads the requests; the others pass as bytes (``TLS``, ``HTTPS``: the application's own)."""
        return self in {Protocol.HTTP, Protocol.HTTP2, Protocol.GRPC}

    @cached_property
    def is_http2(self) -> bool:
        """Whether the service hears HTTP/2."""
        return self in {Protocol.HTTP2, Protocol.GRPC}


UNSPECIFIED: Final = ("0.0.0.0", "::")
MAX_PORT: Final = 65535
MAX_SNI: Final = 255
"""Bytes; Envoy refuses a longer server name (facts/envoy.md k)."""


class Listen(NamedTuple):
    """A local address to listen on."""

    address: str
    """An IP address in its canonical form."""
    port: int

    def __str__(self) -> str:
        return f"[{self.address}]:{self.port}" if ":" in self.address else f"{self.address}:{self.port}"

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach it."""
        return self.address.startswith("127.") or self.address == "::1"

    @property
    def is_unspecified(self) -> bool:
        """Whether it stands for every address of the machine."""
        return self.address in UNSPECIFIED


def parse_listen(value: object) -> Listen:
    """``ADDRESS:PORT``, an IPv6 address in brackets. Raises `ValueError`."""
    address, colon, port = value.rpartition(":") if type(value) is str else ("", "", "")
    if address[:1] + address[-1:] == "[]":
        address = address[1:-1]
    elif ":" in address:
        raise ValueError
    if not colon or not _NUMBER.fullmatch(port) or not 1 <= int(port) <= MAX_PORT or "%" in address:
        raise ValueError
    return Listen(_ip(address), int(port))


def _address(value: object) -> str:
    if type(value) is not str or "%" in value:
        raise ValueError
    if not _IP_LIKE.fullmatch(value):
        return _matching(_NAMES, value)
    address = _ip(value)
    if address in UNSPECIFIED:
        raise ValueError("it stands for every address of a machine, and leads to none")
    return address


def _ip(text: str) -> str:
    """An IP address in its canonical form: the IPv4 address where it stands for one (``::ffff:127.0.0.1``)."""
    if not _IPV4.fullmatch(text):
        try:
            address = IPv6Address(text)
        except ValueError:
            raise ValueError("not an IP address") from None
        if address.ipv4_mapped is None and (address.is_multicast or address.is_link_local):
            raise ValueError("no address that means one machine everywhere")
        text = str(address.ipv4_mapped or address)
    if _NOBODYS.match(text):
        raise ValueError("no address that a machine can have")
    return text


def _server(value: object) -> str:
    if type(value) is not str:
        raise ValueError
    if value.startswith("spiffe://"):
        return _matching(_SPIFFE_ID, value)
    namespace, slash, account = value.rpartition("/")
    if slash:
        _matching(_NAME, namespace)
    _matching(_SUBDOMAIN, account)
    return value


def _label_key(value: object) -> str:
    if type(value) is not str:
        raise ValueError
    prefix, slash, name = value.rpartition("/")
    if slash:
        _matching(_SUBDOMAIN, prefix)
    _matching(_QUALIFIED_NAME, name)
    return value


def _matching(pattern: re.Pattern[str], value: str) -> str:
    if pattern.fullmatch(value):
        return value
    raise ValueError


_NAME: Final = re.compile(LABEL)
_NAMES: Final = re.compile(rf"(?!.{{254}}){DNS_NAME}")
_SUBDOMAIN: Final = re.compile(rf"(?!.{{254}}){SUBDOMAIN}")
_SPIFFE_ID: Final = re.compile(rf"spiffe://(?![^/]{{256}}){TRUST_DOMAIN}/ns/{LABEL}/sa/(?!.{{254}}){SUBDOMAIN}")
_QUALIFIED: Final = r"[A-Za-z0-9](?:[-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?"
_QUALIFIED_NAME: Final = re.compile(_QUALIFIED)
_NUMBER: Final = re.compile(r"[0-9]{1,5}")
_OCTET: Final = r"(?:25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
_IPV4: Final = re.compile(rf"{_OCTET}(?:\.{_OCTET}){{3}}")
_NOBODYS: Final = re.compile(r"(?:22[4-9]|23[0-9]|24[0-9]|25[0-5]|0(?!\.0\.0\.0$))\.")
"""IPv4 for multicast, reserved, and of "this network" all but the one that stands for every address (RFC 6890)."""
_IP_LIKE: Final = re.compile(r"[0-9.]+|[0-9a-fA-F:.]*:[0-9a-fA-F:.]*")

DnsName = Annotated[
    str,
    text(
        DNS_NAME,
        "a DNS name: lower-case letters, digits, '-' and '.', labels of at most 63 characters, 253 in all",
        253,
    ),
]
Name = Annotated[str, text(LABEL, "a Kubernetes name: lower-case letters, digits and '-', at most 63 characters", 63)]
ServiceAccount = Annotated[
    str,
    text(SUBDOMAIN, "a Kubernetes name: lower-case letters, digits, '-' and '.', at most 253 characters", 253),
]
TrustDomain = Annotated[
    str,
    text(TRUST_DOMAIN, "a SPIFFE trust domain: lower-case letters, digits, '.', '-' and '_' (no spiffe://)", 255),
]
LabelKey = Annotated[
    str,
    checked(
        _label_key,
        "a Kubernetes label key: at most 63 letters, digits, '-', '_' and '.', after DNS-NAME/ where it has one",
        {"type": "string", "pattern": rf"^(?:(?![^/]{{254}}){SUBDOMAIN}/)?{_QUALIFIED}$"},
    ),
]
LabelValue = Annotated[
    str,
    text(
        r"|[A-Za-z0-9](?:[-A-Za-z0-9_.]*[A-Za-z0-9])?",
        "a Kubernetes label value: letters, digits, '-', '_' and '.', at most 63 characters",
        63,
    ),
]
FileName = Annotated[str, text(r"[^\x00-\x1f\x7f]+", "the path of a file, relative to this document", 4096)]
ProtobufName = Annotated[
    str,
    text(
        r"[A-Za-z_][A-Za-z0-9_]*(?:\.[A-Za-z_][A-Za-z0-9_]*)*",
        "the full name of a protobuf service, such as pay.v1.Ledger",
        512,
    ),
]
PortNumber = Annotated[int, whole(1, MAX_PORT, f"a whole number from 1 to {MAX_PORT}")]
PortProtocol = Annotated[Protocol, member_of(Protocol)]
ListenAddress = Annotated[
    Listen,
    checked(parse_listen, "an IP address and a port, such as 127.0.0.1:9080 or [::1]:9080"),
]
Address = Annotated[str, checked(_address, "an IP address or a DNS name (no port, no scheme)")]
Locality = Annotated[
    str,
    text(
        r"[A-Za-z0-9][-A-Za-z0-9_.]{0,62}(?:/[A-Za-z0-9][-A-Za-z0-9_.]{0,62}){0,2}",
        "REGION, REGION/ZONE or REGION/ZONE/SUB-ZONE, as the nodes of a cluster are labelled",
        190,
    ),
]
Priority = Annotated[int, whole(0, 127, "a whole number from 0 to 127")]
ServerIdentity = Annotated[
    str,
    checked(
        _server,
        "SERVICE-ACCOUNT (in the service's own namespace), NAMESPACE/SERVICE-ACCOUNT, or a whole SPIFFE ID",
    ),
]

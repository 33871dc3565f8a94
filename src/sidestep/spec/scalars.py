"""The scalar types of the documents: each says what it allows once, for error messages and for editors."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from ipaddress import IPv6Address, ip_address
from typing import Annotated, Final, NamedTuple

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError, core_schema


def not_allowed(message: str, allowed: str) -> PydanticCustomError:
    """The error of a value that cannot be taken, with what could be."""
    return PydanticCustomError("not_allowed", "{message}", {"message": message, "allowed": allowed})


@dataclass(frozen=True, eq=False)
class Checked:
    """An annotation: the value is what ``parse`` returns, and ``allowed`` is said where it raises `ValueError`."""

    parse: Callable[[object], object]
    allowed: str
    schema: Mapping[str, str | int | list[str]]

    def __get_pydantic_core_schema__(self, _source: object, _handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(self._validate)

    def __get_pydantic_json_schema__(self, _schema: CoreSchema, _handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {**self.schema, "description": self.allowed}

    def _validate(self, value: object) -> object:
        try:
            return self.parse(value)
        except ValueError as error:
            raise not_allowed(str(error) or "not an allowed value", self.allowed) from None


def _text(pattern: str, allowed: str, longest: int) -> Checked:
    matches = re.compile(pattern).fullmatch

    def parse(value: object) -> str:
        if type(value) is str and len(value) <= longest and matches(value):
            return value
        raise ValueError("no text, unless put in quotes" if isinstance(value, (bool, int, float)) else "")

    return Checked(parse, allowed, {"type": "string", "pattern": f"^(?:{pattern})$", "maxLength": longest})


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


_PROTOCOLS: Final = {each.value: each for each in Protocol}


def _protocol(value: object) -> Protocol:
    if type(value) is str and (protocol := _PROTOCOLS.get(value)):
        return protocol
    raise ValueError


def _port(value: object) -> int:
    if type(value) is int and 1 <= value <= 65535:
        return value
    raise ValueError


def _priority(value: object) -> int:
    if type(value) is int and 0 <= value <= 127:
        return value
    raise ValueError


def parse_listen(value: object) -> Listen:
    """``ADDRESS:PORT``, an IPv6 address in brackets. Raises `ValueError`."""
    address, colon, port = value.rpartition(":") if type(value) is str else ("", "", "")
    if address[:1] + address[-1:] == "[]":
        address = address[1:-1]
    elif ":" in address:
        raise ValueError
    if not colon or not port.isascii() or not port.isdigit() or len(port) > 5 or "%" in address:
        raise ValueError
    return Listen(_ip(address), _port(int(port)))


def _address(value: object) -> str:
    if type(value) is not str or "%" in value:
        raise ValueError
    if not _IP_LIKE.fullmatch(value):
        return str(_DNS.parse(value))
    address = _ip(value)
    if address in UNSPECIFIED:
        raise ValueError("it stands for every address of a machine, and leads to none")
    return address


def _ip(text: str) -> str:
    """An IP address in its canonical form: the IPv4 address where it stands for one (``::ffff:127.0.0.1``)."""
    if _IPV4.fullmatch(text):
        return text  # there may be thousands, and `ip_address` takes ten times as long
    try:
        address = ip_address(text)
    except ValueError:
        raise ValueError("not an IP address") from None
    return str(address.ipv4_mapped or address) if isinstance(address, IPv6Address) else str(address)


def _server(value: object) -> str:
    if type(value) is not str:
        raise ValueError
    if value.startswith("spiffe://"):
        return str(_SPIFFE_ID.parse(value))
    namespace, slash, account = value.rpartition("/")
    return f"{_NAMESPACE.parse(namespace)}/{_ACCOUNT.parse(account)}" if slash else str(_ACCOUNT.parse(account))


_LABEL = r"[a-z0-9](?:[-a-z0-9]{0,61}[a-z0-9])?"
_OCTET = r"(?:25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
_IPV4 = re.compile(rf"{_OCTET}(?:\.{_OCTET}){{3}}")
_IP_LIKE = re.compile(r"[0-9.]+|[0-9a-fA-F:.]*:[0-9a-fA-F:.]*")
_DNS = _text(
    rf"{_LABEL}(?:\.{_LABEL})*",
    "a DNS name: lower-case letters, digits, '-' and '.', labels of at most 63 characters, 253 in all",
    253,
)
_NAMESPACE = _text(_LABEL, "a Kubernetes name: lower-case letters, digits and '-', at most 63 characters", 63)
_ACCOUNT = _text(
    rf"{_LABEL}(?:\.{_LABEL})*",
    "a Kubernetes name: lower-case letters, digits, '-' and '.', at most 253 characters",
    253,
)
_TRUST_DOMAIN_PATTERN = r"(?![^/]{256})[a-z0-9_-]+(?:\.[a-z0-9_-]+)*"
_SPIFFE_ID = _text(
    rf"spiffe://{_TRUST_DOMAIN_PATTERN}/ns/{_LABEL}/sa/{_LABEL}(?:\.{_LABEL})*",
    "spiffe://TRUST-DOMAIN/ns/NAMESPACE/sa/SERVICE-ACCOUNT",
    700,
)

DnsName = Annotated[str, _DNS]
Name = Annotated[str, _NAMESPACE]
ServiceAccount = Annotated[str, _ACCOUNT]
TrustDomain = Annotated[
    str,
    _text(
        _TRUST_DOMAIN_PATTERN, "a SPIFFE trust domain: lower-case letters, digits, '.', '-' and '_' (no spiffe://)", 255
    ),
]
LabelKey = Annotated[str, _text(r"[A-Za-z0-9](?:[-A-Za-z0-9_./]*[A-Za-z0-9])?", "a Kubernetes label key", 317)]
LabelValue = Annotated[
    str,
    _text(
        r"|[A-Za-z0-9](?:[-A-Za-z0-9_.]*[A-Za-z0-9])?",
        "a Kubernetes label value: letters, digits, '-', '_' and '.', at most 63 characters",
        63,
    ),
]
FileName = Annotated[str, _text(r"[^\x00-\x1f\x7f]+", "the path of a file, relative to this document", 4096)]
ProtobufName = Annotated[
    str,
    _text(
        r"[A-Za-z_][A-Za-z0-9_]*(?:\.[A-Za-z_][A-Za-z0-9_]*)*",
        "the full name of a protobuf service, such as pay.v1.Ledger",
        512,
    ),
]
PortNumber = Annotated[
    int, Checked(_port, "a whole number from 1 to 65535", {"type": "integer", "minimum": 1, "maximum": 65535})
]
PortProtocol = Annotated[
    Protocol, Checked(_protocol, ", ".join(Protocol), {"type": "string", "enum": list(Protocol.__members__)})
]
ListenAddress = Annotated[
    Listen,
    Checked(parse_listen, "an IP address and a port, such as 127.0.0.1:9080 or [::1]:9080", {"type": "string"}),
]
Address = Annotated[str, Checked(_address, "an IP address or a DNS name (no port, no scheme)", {"type": "string"})]
Locality = Annotated[
    str,
    _text(
        r"[A-Za-z0-9][-A-Za-z0-9_.]{0,62}(?:/[A-Za-z0-9][-A-Za-z0-9_.]{0,62}){0,2}",
        "REGION, REGION/ZONE or REGION/ZONE/SUB-ZONE, as the nodes of a cluster are labelled",
        190,
    ),
]
Priority = Annotated[
    int, Checked(_priority, "a whole number from 0 to 127", {"type": "integer", "minimum": 0, "maximum": 127})
]
ServerIdentity = Annotated[
    str,
    Checked(
        _server,
        "SERVICE-ACCOUNT (in the service's own namespace), NAMESPACE/SERVICE-ACCOUNT, or a whole SPIFFE ID",
        {"type": "string"},
    ),
]

"""What an application's environment says, so that it finds the services of a bundle: from the bundle's manifest."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from posixpath import join, normpath
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

_LOCAL: Final = ("localhost", "127.0.0.1", "::1")
# curl hears only small letters, Go capitals first; gRPC hears this one before https_proxy, which may be set.
_PROXY_VARIABLES: Final = ("http_proxy", "HTTP_PROXY", "grpc_proxy")
_NO_PROXY_VARIABLES: Final = ("no_proxy", "NO_PROXY")
_HTTP: Final = frozenset({"HTTP", "HTTP2", "GRPC"})
_EVERYWHERE: Final = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}


@dataclass(frozen=True)
class Egress:
    """One port of a service, as an application reaches it."""

    host: str
    port: int
    protocol: str
    subset: str
    listen: str | None
    """``HOST:PORT`` or ``unix:PATH`` (gRPC takes both as a target); None where it is called by name, by the proxy."""

    @property
    def url(self) -> str | None:
        """Where HTTP is spoken, and a URL can name it."""
        if self.protocol not in _HTTP or (self.listen or "").startswith("unix:"):
            return None
        return f"http://{self.listen or f'{self.host}:{self.port}'}"


def egresses(manifest: Mapping[str, Any], directory: str) -> list[Egress]:
    """What a bundle in ``directory`` (absolute, with ``/``) serves, one entry a port of a service.

    Where there are several for a port, another subset than the first one's does not stand for it.
    """
    found: dict[tuple[str, int], Egress] = {}
    for each in manifest["egress"]:
        listen = each["listen"] and _reachable(each["listen"], directory)
        egress = Egress(each["host"], each["port"], each["protocol"], each.get("subset", ""), listen)
        first = found.setdefault((egress.host, egress.port), egress)
        if egress.subset == first.subset and _rank(egress) < _rank(first):
            found[egress.host, egress.port] = egress
    return [*found.values()]


def _rank(egress: Egress) -> int:
    """A port before a socket before the mere name: what more clients understand."""
    return 2 if egress.listen is None else int(egress.listen.startswith("unix:"))


def proxy(manifest: Mapping[str, Any], directory: str) -> str | None:
    """The address of the bundle's HTTP proxy."""
    listen = manifest.get("proxy")
    return _reachable(listen, directory) if listen else None


def _reachable(listen: str, directory: str) -> str:
    """A listen address as an application on the same machine calls it."""
    if listen.startswith("unix:"):
        return f"unix:{normpath(join(directory, listen.removeprefix('unix:')))}"
    host, _, port = listen.rpartition(":")
    return f"{_EVERYWHERE.get(host, host)}:{port}"


def variables(manifest: Mapping[str, Any], directory: str, present: Mapping[str, str]) -> dict[str, str]:
    """The variables to set, beside those that are ``present``."""
    services = egresses(manifest, directory)
    return {**_proxy_variables(proxy(manifest, directory), services, present), **_addresses(services)}


def _proxy_variables(address: str | None, services: Sequence[Egress], present: Mapping[str, str]) -> dict[str, str]:
    if address is None or address.startswith("unix:"):  # which no client takes in http_proxy
        return {}
    excepted = ",".join(dict.fromkeys([*_LOCAL, *_still_excepted(services, present)]))
    return {
        **dict.fromkeys(_PROXY_VARIABLES, f"http://{address}"),
        **dict.fromkeys(_NO_PROXY_VARIABLES, excepted),
    }


def _still_excepted(services: Sequence[Egress], present: Mapping[str, str]) -> Iterator[str]:
    """The present exceptions, but for those that would keep a service of the mesh from the proxy."""
    names = {name for service in services for name in _names(service.host)}
    for variable in _NO_PROXY_VARIABLES:
        for entry in (part.strip() for part in present.get(variable, "").split(",")):
            domain = entry.removeprefix("*").removeprefix(".").lower()
            if domain.count(":") == 1:  # with a port; more of them are an IPv6 address
                domain = domain.partition(":")[0]
            if domain and not any(name == domain or name.endswith(f".{domain}") for name in names):
                yield entry


def _names(host: str) -> list[str]:
    labels = host.split(".")
    return [host, *(".".join(labels[:length]) for length in (2, 3) if labels[2:3] == ["svc"])]


def _addresses(services: Sequence[Egress]) -> dict[str, str]:
    """``REVIEWS_BOOKINFO_9080=127.0.0.1:9080``, and with ``_URL`` where a URL can be had."""
    short = Counter(_variable(_name_and_namespace(each.host), each.port) for each in services)
    named: dict[str, list[Egress]] = {}
    for each in services:
        name = _variable(_name_and_namespace(each.host), each.port)
        named.setdefault(name if short[name] == 1 else _variable(each.host, each.port), []).append(each)
    pairs = [pair for name, [each, *others] in sorted(named.items()) if not others for pair in _pairs(name, each)]
    return dict(pairs)


def _pairs(name: str, egress: Egress) -> Iterable[tuple[str, str]]:
    if egress.listen:
        yield name, egress.listen
    if egress.url:
        yield f"{name}_URL", egress.url


def _name_and_namespace(host: str) -> str:
    labels = host.split(".")
    return ".".join(labels[:2]) if labels[2:3] == ["svc"] else host


def _variable(name: str, port: int) -> str:
    variable = re.sub(r"[^A-Z0-9]", "_", f"{name}_{port}".upper())
    return f"_{variable}" if variable[0].isdigit() else variable

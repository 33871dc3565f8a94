"""Mistakes planted in sound documents: each is to be reported, at its place, and nothing else is."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from hypothesis import strategies as st

from tests.generated import sound

if TYPE_CHECKING:
    from hypothesis.strategies import DrawFn

    from tests.documents import Fields

_HTTP = {"HTTP", "HTTP2", "GRPC"}


@dataclass(frozen=True)
class Mistake:
    """Something that a user may do to a sound document."""

    document: int
    """0 for the mesh, 1 for the workload."""
    plant: Callable[[Fields], object]
    """Does it to ``spec``, or to the whole document where the field is not in there."""
    fields: tuple[str, ...]
    """The field that has to be named: any one of these."""
    spoils: frozenset[str]
    """What nobody can know any more."""
    needs: frozenset[str] = frozenset()
    """What must be known to see it."""
    there: bool = True
    """Whether the field is there, so that its line must be shown."""

    def goes_with(self, other: Mistake) -> bool:
        """Whether both can be made, and seen."""
        return not any(
            _within(one, another)
            for made, seen in ((self, other), (other, self))
            for another in made.spoils
            for one in seen.spoils | seen.needs
        )


def _within(inner: str, outer: str) -> bool:
    return inner == outer or inner.startswith((f"{outer}.", f"{outer}["))


def _put(path: list[str | int], value: Any, document: int, *needs: str, **more: Any) -> Mistake:
    """A value, in place of what is at a path in ``spec``."""

    def plant(spec: Fields) -> None:
        inner: Any = spec
        for step in path[:-1]:
            inner = inner[step]
        inner[path[-1]] = value

    field = more.pop("field", path)
    return Mistake(document, plant, (_name(field),), frozenset([_name(path)]), frozenset(needs), **more)


def _name(path: list[str | int]) -> str:
    return "spec" + "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path)


def _drop(path: list[str | int], document: int, field: list[str | int], *needs: str, there: bool = True) -> Mistake:
    """Something that has to be there, left out."""

    def plant(spec: Fields) -> None:
        inner: Any = spec
        for step in path[:-1]:
            inner = inner[step]
        del inner[path[-1]]

    return Mistake(document, plant, (_name(field),), frozenset([_name(path)]), frozenset(needs), there)


def _append(path: list[str | int], value: Any, at: int, document: int, below: str, *needs: str) -> Mistake:
    """One item too many."""

    def plant(spec: Fields) -> None:
        inner: Any = spec
        for step in path:
            inner = inner[step]
        inner.append(value)

    name = f"{_name(path)}[{at}]{below}"
    return Mistake(document, plant, (name,), frozenset([f"end of {_name(path)}"]), frozenset(needs))


def in_mesh(spec: Fields) -> Iterator[Mistake]:
    """What can go wrong in a mesh."""
    for at in range(len(spec["gateways"])):
        yield _put(["gateways", at, "port"], 0, 0)
        yield _put(["gateways", at, "address"], "10.0.0.1:15443", 0)
        yield _put(["gateways", at, "weight"], 1, 0)
    yield _put(["trustDomain"], "spiffe://cluster.local", 0)
    yield _put(["roots"], "nowhere.pem", 0)
    for at, service in enumerate(spec["services"]):
        yield from _in_service(at, service, len(spec["services"]))


def _in_service(at: int, service: Fields, count: int) -> Iterator[Mistake]:
    where: list[str | int] = ["services", at]
    host = service["host"]
    yield _put([*where, "host"], host.replace(".", "_.", 1), 0)
    again = {"host": host, "ports": [{"number": 1}], "serviceAccounts": ["a/b"]}
    yield _append(["services"], again, count, 0, ".host", _name([*where, "host"]))
    for number, port in enumerate(service["ports"]):
        place = [*where, "ports", number]
        yield _put([*place, "number"], 70000, 0)
        yield _put([*place, "protocol"], "http", 0)
        again = {"number": port["number"], "protocol": "TCP"}
        end = len(service["ports"])
        yield _append([*where, "ports"], again, end, 0, ".number", _name([*place, "number"]))
    if "serviceAccounts" in service:
        yield _drop([*where, "serviceAccounts"], 0, where, there=False)
        yield _put([*where, "serviceAccounts", 0], "Reviews!", 0)
    else:
        yield _put([*where, "unsafeAnyWorkloadOf"], {}, 0)


def in_workload(spec: Fields, services: list[Fields]) -> Iterator[Mistake]:
    """What can go wrong in a workload."""
    hosts = {service["host"]: at for at, service in enumerate(services)}
    for at, egress in enumerate(spec["egress"]):
        yield from _in_egress(at, egress, services, hosts[egress["host"]])
    for at, ingress in enumerate(spec.get("ingress", [])):
        yield from _in_ingress(at, ingress, len(spec["ingress"]))
    yield from _of_listening(spec)
    if "clients" in spec:
        yield from _in_forwarder(spec)


def _in_egress(at: int, egress: Fields, services: list[Fields], called: int) -> Iterator[Mistake]:
    where: list[str | int] = ["egress", at]
    place: list[str | int] = ["services", called]
    known = _name([*place, "host"])
    yield _put([*where, "host"], "nowhere.at-all", 1)
    yield _put([*where, "listen"], "localhost:80", 1)
    yield _put([*where, "what"], 1, 1)
    if "transcode" in egress:
        yield _put([*where, "transcode", "descriptor"], "nowhere.pb", 1)
    ports = services[called]["ports"]
    numbers = [_name([*place, "ports", number, "number"]) for number in range(len(ports))]
    free = next(number for number in range(1, 10) if all(number != port["number"] for port in ports))
    reached = (known, _name([*where, "host"]))
    yield _put([*where, "port"], free, 1, *reached, *numbers)
    [index] = [index for index, port in enumerate(ports) if port["number"] == egress["port"]]
    through = _name([*where, "port"]), numbers[index], _name([*place, "ports", index, "protocol"])
    declared = ports[index].get("protocol")
    if declared:
        yield _put([*where, "protocol"], "TCP" if declared in _HTTP else "HTTP", 1, *reached, *through)
    else:
        yield _drop([*where, "protocol"], 1, [*where, "protocol"], *reached, *through, there=False)
    if (declared or egress["protocol"]) in _HTTP:
        yield _put([*where, "timeout"], "5 s", 1)
        yield _put(
            [*where, "retries"], {"attempts": 0, "perTryTimeout": "1s"}, 1, field=[*where, "retries", "attempts"]
        )


def _of_listening(spec: Fields) -> Iterator[Mistake]:
    """Two egresses on one address."""
    placed = [at for at, each in enumerate(spec["egress"]) if each.get("listen", "none") != "none"]
    for one, other in pairwise(placed):

        def plant(spec: Fields, one: int = one, other: int = other) -> None:
            spec["egress"][other]["listen"] = spec["egress"][one]["listen"]
            spec["egress"][other].pop("socketMode", None)

        names = tuple(f"spec.egress[{at}].listen" for at in (one, other))
        yield Mistake(1, plant, names, frozenset(names))


def _in_ingress(at: int, ingress: Fields, count: int) -> Iterator[Mistake]:
    where: list[str | int] = ["ingress", at]
    yield _put([*where, "port"], 0, 1)
    yield _put([*where, "listen"], "0.0.0.0", 1)
    yield _put([*where, "protocol"], "http", 1)
    yield _put([*where, "healthCheck"], {}, 1)
    again = {"port": ingress["port"], "protocol": "TCP", "allow": ["*"], "listen": "127.102.0.1:1"}
    yield _append(["ingress"], again, count, 1, ".port", _name([*where, "port"]))
    if "allow" in ingress:
        yield _drop([*where, "allow"], 1, where, there=False)
        yield _put([*where, "allow", 0], "spiffe://cluster.local/ns/a/sa/b", 1)
    if "rules" in ingress:
        operation: list[str | int] = [*where, "rules", 0, "to", 0, "operation"]
        yield _put(operation, {}, 1)


def _in_forwarder(spec: Fields) -> Iterator[Mistake]:
    if "cidrs" in spec["clients"]:
        yield _append(["clients", "cidrs"], "10.0.0.1/8", len(spec["clients"]["cidrs"]), 1, "", "spec.clients")
    if "mutualTLS" in spec["clients"]:
        yield _put(["clients", "mutualTLS", "principals"], [], 1, "spec.clients")
    if "credentials" in spec["clients"]:
        yield _put(["clients", "credentials"], "nowhere.htpasswd", 1, "spec.clients")
    yield _drop(["clients"], 1, ["profile"], "spec.profile")
    yield _put(["profile"], "proxy", 1)
    yield _put(["limits"], {"connections": 0}, 1, field=["limits", "connections"])
    yield _put(["health"], {"listen": "everywhere"}, 1, field=["health", "listen"])


def in_metadata(document: int) -> Iterator[Mistake]:
    """What can go wrong in a document's name."""
    for name, value in {"name": "Prod", **({"namespace": "v m s", "lables": {}} if document else {})}.items():

        def plant(metadata: Fields, name: str = name, value: Any = value) -> None:
            metadata[name] = value

        yield Mistake(document, plant, (f"metadata.{name}",), frozenset([f"{document} metadata.{name}"]))


@st.composite
def planted(draw: DrawFn) -> tuple[list[Fields], list[Mistake]]:
    """Documents, and what is wrong in them: one to six things that do not hide each other."""
    documents: list[Fields] = copy.deepcopy(draw(sound()))
    mesh, workload = (document["spec"] for document in documents)
    possible = [*in_mesh(mesh), *in_workload(workload, mesh["services"]), *in_metadata(0), *in_metadata(1)]
    made: list[Mistake] = []
    for mistake in draw(st.lists(st.sampled_from(possible), min_size=1, max_size=6)):
        if all(mistake.goes_with(other) for other in made):
            made.append(mistake)
    for mistake in sorted(made, key=lambda each: min(map(len, each.spoils))):
        document = documents[mistake.document]
        mistake.plant(document["metadata" if mistake.fields[0].startswith("metadata") else "spec"])
    return documents, made

"""Documents that nobody wrote: sound ones of every shape, and sound ones with something broken in them."""

from __future__ import annotations

import copy
from ipaddress import IPv4Address, IPv6Address
from typing import TYPE_CHECKING, Any

from hypothesis import strategies as st

from tests.documents import Fields, mesh, workload
from tests.pages import ROOT

if TYPE_CHECKING:
    from hypothesis.strategies import DrawFn, SearchStrategy

USERS = str(
    ROOT / "tests" / "compile" / "cases" / "the-clients-of-a-forwarder-are-those-of-its-spec" / "users.htpasswd"
)
PROTOCOLS = ("HTTP", "HTTP2", "GRPC", "TCP", "TLS", "HTTPS", None)
LABELS = st.one_of(
    st.text("abz059", min_size=1, max_size=6),
    st.sampled_from(["a-b", "x--y", "a" * 63, "no", "1", "0x1f", "1e3", "null"]),
)
PORTS = st.integers(1, 65535)
NAMES = st.tuples(LABELS, st.sampled_from(["com", "example.com", "a.b.c", "0", "svc", "ns.svc.x"])).map(".".join)


def _means_one_machine(address: IPv4Address | IPv6Address) -> bool:
    if isinstance(address, IPv4Address):
        return 0 < address.packed[0] < 224
    special = address.is_unspecified or address.is_multicast or address.is_link_local
    return not special and address.ipv4_mapped is None


ADDRESSES = st.one_of(
    st.ip_addresses().filter(_means_one_machine).map(str),
    NAMES.filter(lambda name: not _is_numeric(name)),
)
KUBERNETES_VALUES = st.one_of(LABELS, st.sampled_from(["app", "version", "app.kubernetes.io/name", "A_b.c", "v1.0"]))


def _is_numeric(name: str) -> bool:
    return set(name) <= set("0123456789.")


@st.composite
def services(draw: DrawFn) -> Fields:
    """A service with one to three ports."""
    in_cluster = draw(st.booleans())
    host = f"{draw(LABELS)}.{draw(LABELS)}.svc.cluster.local" if in_cluster else draw(NAMES)
    numbers = draw(st.lists(PORTS, min_size=1, max_size=3, unique=True))
    ports = [{"number": number, "protocol": draw(st.sampled_from(PROTOCOLS))} for number in numbers]
    listed = [{name: value for name, value in port.items() if value is not None} for port in ports]
    return {"host": host, "ports": listed, **draw(_pins(in_cluster=in_cluster))}


def _pins(*, in_cluster: bool) -> SearchStrategy[Fields]:
    whole = st.tuples(NAMES, LABELS, LABELS).map(lambda part: f"spiffe://{part[0]}/ns/{part[1]}/sa/{part[2]}")
    elsewhere = st.tuples(LABELS, LABELS).map("/".join)
    account = st.one_of(whole, elsewhere, LABELS) if in_cluster else st.one_of(whole, elsewhere)
    namespace = LABELS.map(lambda name: {"namespace": name})
    anyone = st.one_of(namespace, NAMES.map(lambda name: {"trustDomain": name}))
    return st.one_of(
        st.lists(account, min_size=1, max_size=3, unique=True).map(lambda names: {"serviceAccounts": names}),
        anyone.map(lambda rule: {"unsafeAnyWorkloadOf": rule}),
    )


@st.composite
def served(draw: DrawFn) -> Fields:
    """A port that the mesh may call."""
    protocol = draw(st.sampled_from(PROTOCOLS[:-1]))
    port: Fields = {"port": draw(PORTS), "protocol": protocol}
    balancer = draw(st.sampled_from([None, None, {}, {"unsafeTlsMode": "SIMPLE"}, {"unsafeTlsMode": "DISABLE"}]))
    http = protocol in {"HTTP", "HTTP2", "GRPC"}
    if http and balancer is not None:
        network = st.integers(1, 254).map(lambda octet: f"10.{octet}.0.0/16")
        port["loadBalancer"] = {"sources": draw(st.lists(network, min_size=1, max_size=3, unique=True)), **balancer}
    if not (http and balancer):
        port["allow"] = draw(st.lists(principals(), min_size=1, max_size=3, unique=True))
    if http and draw(st.booleans()):
        operation = st.sampled_from([{"methods": ["GET"]}, {"paths": ["/a/*", "*.json", "*", "/b"]}])
        port["rules"] = [{"to": [{"operation": draw(operation)}]}]
    if draw(st.booleans()):
        port["healthCheck"] = draw(st.sampled_from([{"tcpSocket": {"port": 81}}, {"httpGet": {"path": "/up"}}]))
    return port


@st.composite
def principals(draw: DrawFn) -> str:
    """A principal as AuthorizationPolicy writes it."""
    domain, namespace, account = draw(NAMES), draw(LABELS), draw(LABELS)
    whole = f"{domain}/ns/{namespace}/sa/{account}"
    prefixes = [f"{domain}/*", f"{domain}/ns/{namespace}*", f"{domain}/ns/{namespace}/*", f"{whole}*"]
    return draw(st.sampled_from([whole, *prefixes, f"*/ns/{namespace}/sa/{account}", f"*/sa/{account}", "*"]))


def _placed(port: Fields, index: int) -> Fields:
    """On addresses of its own, and those of nobody else."""
    listen, application = (f"127.{half}.{index}.1:{port['port']}" for half in (100, 101))
    return {**port, "listen": listen, "application": application}


@st.composite
def sound(draw: DrawFn) -> list[Fields]:
    """A mesh and a workload that are to be taken as they are."""
    offered = draw(st.lists(services(), min_size=1, max_size=3, unique_by=lambda each: each["host"]))
    alike = draw(st.sets(st.sampled_from(["priority", "statusPort"])))
    whole = {
        name: field for name, field in {"priority": st.integers(0, 2), "statusPort": PORTS}.items() if name in alike
    }
    gateways = st.fixed_dictionaries({"address": ADDRESSES, **whole}, optional={"port": PORTS, "locality": LOCALITIES})
    listed = draw(st.lists(gateways, min_size=1, max_size=3, unique_by=lambda each: each["address"]))
    trust_domain = draw(st.sampled_from([{}, {"trustDomain": "prod.example.com"}]))
    return [mesh(*offered, gateways=listed, **trust_domain), draw(_workloads(offered))]


@st.composite
def _workloads(draw: DrawFn, offered: list[Fields]) -> Fields:
    """A sidecar or a forwarder that calls every port of these services."""
    proxy = draw(st.one_of(st.none(), st.sampled_from(PROXIES)))
    addresses = draw(st.sampled_from([None, {}, {"range": "127.88.0.0/20"}]))
    places = [
        "address",
        "elsewhere",
        "socket",
        "bundle",
        *(["none"] if proxy is not None else []),
        *([None] if addresses else []),
    ]
    calls = [call for index, each in enumerate(offered) for call in _calls(draw, each, index, places)]
    document = workload(*calls, name=draw(LABELS), namespace=draw(LABELS))
    document["metadata"]["labels"] = draw(st.dictionaries(KUBERNETES_VALUES, LABELS, max_size=3))
    spec: Fields = document["spec"]
    spec |= {name: value for name, value in {"proxy": proxy, "addresses": addresses}.items() if value is not None}
    ingress = draw(st.lists(served(), max_size=3, unique_by=lambda each: each["port"]))
    if ingress:
        spec["ingress"] = [_placed(each, index) for index, each in enumerate(ingress)]
    if draw(st.booleans()):
        spec |= draw(forwarding(asks=proxy is not None and not proxy.get("listen", "").startswith("unix:")))
    return document


@st.composite
def forwarding(draw: DrawFn, *, asks: bool) -> Fields:
    """What makes a workload a forwarder, with a proxy that ``asks`` for passwords or without."""
    in_plain_text = st.one_of(
        st.lists(NETWORKS, min_size=1, max_size=3, unique=True).map(lambda cidrs: {"cidrs": cidrs}),
        st.just({"unsafeAnyAddress": True}),
    )
    asked = st.sampled_from([{}, {"credentials": USERS}]) if asks else st.just({})
    by_tls = st.lists(principals(), min_size=1, max_size=3).map(lambda names: {"mutualTLS": {"principals": names}})
    plain, tls = st.tuples(in_plain_text, asked).map(_together), by_tls
    limits = _optional(connections=COUNTS, requestsPerSecond=COUNTS)
    more = _optional(limits=limits, health=PORTS.map(lambda port: {"listen": f"127.120.0.1:{port}"}))
    clients = st.one_of(plain, tls, st.tuples(plain, tls).map(_together))
    balancers = _optional(proxyProtocol=st.lists(NETWORKS, min_size=1, max_size=2, unique=True).map(_from))
    return {"profile": "forwarder", "clients": draw(st.tuples(clients, balancers).map(_together)), **draw(more)}


def _from(networks: list[str]) -> Fields:
    return {"from": networks}


def _together(parts: tuple[Fields, ...]) -> Fields:
    return {name: value for part in parts for name, value in part.items()}


def _calls(draw: DrawFn, called: Fields, index: int, places: list[str | None]) -> list[Fields]:
    """An egress for each port of a service, each on an address of its own."""
    calls = []
    for number, port in enumerate(called["ports"]):
        place = draw(st.sampled_from(places))
        call = {
            "host": called["host"],
            "port": port["number"],
            **draw(_listening(place, f"{index}.{number}", port["number"])),
        }
        if "protocol" not in port:
            call["protocol"] = draw(st.sampled_from(PROTOCOLS[:-1]))
        protocol = port.get("protocol", call.get("protocol"))
        call |= draw(_traffic(protocol, upgradable=port.get("protocol") == "HTTP"))
        if protocol in {"HTTP2", "GRPC"} and place != "none" and draw(st.booleans()):
            call["transcode"] = draw(TRANSCODES)
        calls.append(call)
    return calls


def _listening(place: str | None, name: str, port: int) -> SearchStrategy[Fields]:
    """On an address, a socket or nothing that no other egress has; on other machines' under the service's number."""
    if place == "address":
        return st.tuples(st.integers(1, 254), PORTS).map(lambda end: {"listen": f"127.{name}.{end[0]}:{end[1]}"})
    if place == "elsewhere":
        return st.sampled_from([f"10.{name}.1", f"[2001:db8::{name.replace('.', ':')}]"]).map(
            lambda address: {"listen": f"{address}:{port}"}
        )
    if place in {"socket", "bundle"}:
        listen = f"unix:./{name}.sock" if place == "bundle" else f"unix:/run/sidestep/{name}"
        return st.sampled_from([{"listen": listen}, {"listen": listen, "socketMode": "0660"}])
    return st.just({"listen": "none"} if place else {})


def _optional(**fields: SearchStrategy[Any]) -> SearchStrategy[Fields]:
    return st.fixed_dictionaries({}, optional=fields)


def _traffic(protocol: str, *, upgradable: bool) -> SearchStrategy[Fields]:
    """What an egress may say of its traffic."""
    http = protocol in {"HTTP", "HTTP2", "GRPC"}
    retries = st.one_of(RETRIES, UNSAFE_RETRIES if protocol == "GRPC" else IDEMPOTENT_RETRIES)
    tcp = _optional(maxConnections=COUNTS, connectTimeout=SPANS, maxConnectionDuration=SPANS, idleTimeout=SPANS)
    requests = _optional(http2MaxRequests=COUNTS, maxRetries=COUNTS, maxRequestsPerConnection=COUNTS, idleTimeout=SPANS)
    if upgradable:
        upgrade = st.sampled_from([{}, {"h2UpgradePolicy": "UPGRADE"}])
        requests = st.tuples(requests, upgrade).map(lambda parts: {**parts[0], **parts[1]})
    outliers = _optional(
        consecutive5xxErrors=st.integers(0, 9), baseEjectionTime=SPANS, maxEjectionPercent=st.integers(0, 100)
    )
    pool = _optional(tcp=tcp, **({"http": requests} if http else {}))
    policy = _optional(connectionPool=pool, outlierDetection=outliers)
    asked = {"subset": LABELS, "trafficPolicy": policy, "healthCheck": _optional(interval=SPANS, timeout=SPANS)}
    return _optional(**asked, **({"timeout": SPANS, "retries": retries} if http else {}))


NETWORKS = st.one_of(
    st.integers(1, 254).map(lambda octet: f"10.{octet}.0.0/16"), st.sampled_from(["2001:db8::/64", "192.0.2.1"])
)
PROXIES: list[Fields] = [
    {},
    {"listen": "127.110.0.1:3128"},
    {"listen": "unix:./proxy.sock", "socketMode": "0666"},
    {"listen": "unix:/run/sidestep/proxy"},
]
TRANSCODES = st.fixed_dictionaries(
    {"descriptor": st.just(str(ROOT / "examples" / "ledger.pb"))},
    optional={
        "services": st.just(["pay.v1.Ledger"]),
        "ignoreUnknownQueryParameters": st.booleans(),
        "preserveProtoFieldNames": st.booleans(),
        "alwaysPrintPrimitiveFields": st.booleans(),
        "alwaysPrintEnumsAsInts": st.booleans(),
        "streamNewlineDelimited": st.booleans(),
    },
)
LOCALITIES = st.lists(st.sampled_from(["a", "b"]), min_size=1, max_size=3).map("/".join)
COUNTS = st.integers(1, 1000)
SPANS = st.sampled_from(["1ms", "500ms", "1s", "1.5s", "2m", "1h30m"])
RETRIES: SearchStrategy[Fields] = st.one_of(
    st.just({"attempts": 0}),
    st.fixed_dictionaries(
        {"attempts": st.integers(1, 5)},
        optional={
            "perTryTimeout": SPANS,
            "retryOn": st.sampled_from(["refused-stream", "connect-failure,reset-before-request"]),
            "hedgeOnPerTryTimeout": st.booleans(),
        },
    ),
)
_FAILED = {"attempts": st.integers(1, 5), "retryOn": st.sampled_from(["5xx,reset", "503,unavailable"])}
UNSAFE_RETRIES = st.fixed_dictionaries({**_FAILED, "unsafeAnyMethod": st.just(value=True)})
IDEMPOTENT_RETRIES = st.one_of(UNSAFE_RETRIES, st.fixed_dictionaries(_FAILED))
SCALARS: SearchStrategy[Any] = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=20),
    st.text(alphabet="ab.-_/:\n\"'${}\\\0\x1b\x7f\u0085\u2028é中\U0001f600", max_size=12),
    st.sampled_from(
        [
            "",
            "../..",
            "${HOME}",
            "a" * 300,
            "127.0.0.1:80",
            "0.0.0.0:80",
            "[::]:80",
            "spiffe://a/ns/b/sa/c",
            "<<",
            70000,
        ]
    ),
)
GARBAGE: SearchStrategy[Any] = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=6), inner, max_size=3)),
    max_leaves=6,
)


@st.composite
def broken(draw: DrawFn) -> list[Any]:
    """Sound documents with one to three values replaced, removed, repeated, added or copied from elsewhere."""
    documents: list[Any] = copy.deepcopy(draw(sound()))
    for _ in range(draw(st.integers(1, 3))):
        places = list(_places(documents))
        container, key = places[draw(st.integers(0, len(places) - 1))]
        how = draw(st.sampled_from(["replace", "remove", "add", "repeat", "copy"]))
        if how == "copy":  # sound where it comes from, and mostly not where it goes
            elsewhere, at = places[draw(st.integers(0, len(places) - 1))]
            container[key] = copy.deepcopy(elsewhere[at])
        else:
            _break(draw, how, container, key)
    return documents


def _places(value: Any) -> list[tuple[Any, Any]]:
    keys = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else []
    return [place for key in keys for place in [(value, key), *_places(value[key])]]


def _break(draw: DrawFn, how: str, container: Any, key: Any) -> None:
    if how == "remove" and len(container) > 1:
        del container[key]
    elif how == "add" and isinstance(container, dict):
        container[draw(st.text(max_size=8))] = draw(GARBAGE)
    elif how == "repeat" and isinstance(container, list):
        container.append(copy.deepcopy(container[key]))
    else:
        container[key] = draw(GARBAGE)

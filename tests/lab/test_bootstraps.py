"""A real Envoy accepts whatever the builders make."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from typing import TYPE_CHECKING

import orjson
import pytest

from sidestep.lab.authorization import http_rbac
from sidestep.lab.gateway import Export, gateway_bootstrap
from sidestep.lab.sidecar import Inbound, Sidecar, sidecar_bootstrap
from sidestep.lab.topology import Application, AuthorizationPolicy, MTLSMode, Protocol, Service, ServicePort
from sidestep.proxy.binary import find
from sidestep.proxy.validation import validate

if TYPE_CHECKING:
    from pathlib import Path

    from sidestep.lab.xds import Config

PORTS = tuple(ServicePort(9000 + number, protocol, Application.HTTP) for number, protocol in enumerate(Protocol))
POLICIES = [
    None,
    AuthorizationPolicy("nobody", "ns"),
    AuthorizationPolicy("some", "ns", ("cluster.local/ns/a/sa/b", "cluster.local/ns/a/*", "*/sa/b", "*")),
]


def accepted(bootstrap: Config, directory: Path) -> None:
    for secret in ("default", "ROOTCA"):  # their content is read when it runs; that they exist is checked now
        (directory / f"{secret}.json").write_text("{}")
    (directory / "envoy.json").write_bytes(orjson.dumps(bootstrap))
    validate(find(), directory)


@pytest.mark.parametrize(("mtls", "policy"), list(product(MTLSMode, POLICIES)))
def test_a_sidecar_is_accepted(tmp_path: Path, mtls: MTLSMode, policy: AuthorizationPolicy | None) -> None:
    service = Service("open", "ns", PORTS, mtls=mtls, policy=policy)
    inbound = tuple(Inbound(port, 20000 + port.number, 30000 + port.number) for port in PORTS)
    accepted(sidecar_bootstrap(Sidecar(service, inbound, ("cluster.local", "vms.example"))), tmp_path)


@pytest.mark.parametrize("endpoints", [(), (20001,), (20001, 20002)])
def test_a_gateway_is_accepted(tmp_path: Path, endpoints: tuple[int, ...]) -> None:
    exports = [Export("open.ns.svc.cluster.local", port, endpoints) for port in PORTS]
    accepted(gateway_bootstrap("gateway", listen=20000, exports=exports), tmp_path)


def test_a_gateway_that_exports_one_port_twice_is_refused(tmp_path: Path) -> None:
    export = Export("open.ns.svc.cluster.local", PORTS[0], (20001,))
    with pytest.raises(Exception, match="Envoy"):
        accepted(gateway_bootstrap("gateway", listen=20000, exports=[export, replace(export)]), tmp_path)


@pytest.mark.parametrize(
    ("principal", "match"),
    [
        ("cluster.local/ns/a/sa/b", {"exact": "spiffe://cluster.local/ns/a/sa/b"}),
        ("cluster.local/ns/a/*", {"prefix": "spiffe://cluster.local/ns/a/"}),
        ("*/sa/b", {"suffix": "/sa/b"}),
        ("*", {"safe_regex": {"regex": ".+"}}),
        ("spiffe://cluster.local/ns/a/sa/b", {"exact": "spiffe://spiffe://cluster.local/ns/a/sa/b"}),
    ],
)
def test_a_principal_is_matched_as_istio_matches_it(principal: str, match: Config) -> None:
    [rbac] = orjson.loads(orjson.dumps(http_rbac(AuthorizationPolicy("p", "ns", (principal,)))))
    [policy] = rbac["typed_config"]["rules"]["policies"].values()
    [ids] = policy["principals"][0]["and_ids"]["ids"]
    assert ids["or_ids"]["ids"] == [{"authenticated": {"principal_name": match}}]

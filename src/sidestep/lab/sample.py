"""The mesh that the lab plays: a bookshop's services, as strict as Istio's defaults and a careful owner make them."""

from __future__ import annotations

from typing import Final

from sidestep.lab.topology import (
    Application,
    AuthorizationPolicy,
    MeshDescription,
    MTLSMode,
    Protocol,
    Service,
    ServicePort,
)

BILLING: Final = "cluster.local/ns/vms/sa/billing"
"""The principal of the machine, as AuthorizationPolicies write it."""

_HTTP = ServicePort(9080, Protocol.HTTP, Application.HTTP)
_HTTP2 = ServicePort(9090, Protocol.HTTP2, Application.HTTP)
_UNDECLARED = ServicePort(9081, Protocol.UNDECLARED, Application.HTTP)
_GRPC = ServicePort(50051, Protocol.GRPC, Application.GRPC)
_CARRIED = ServicePort(9083, Protocol.HTTP, Application.HTTP)
"""Called over HTTP/2, although it speaks HTTP/1.1."""
_TLS = ServicePort(8443, Protocol.TLS, Application.TLS)
_ACCOUNTS = ServicePort(50052, Protocol.GRPC, Application.LEDGER)
_TCP = ServicePort(9000, Protocol.TCP, Application.TCP_ECHO)
_GREETING = ServicePort(2525, Protocol.TCP, Application.TCP_GREETING)


def _admits(principal: str, namespace: str) -> AuthorizationPolicy:
    return AuthorizationPolicy("callers", namespace, (principal,))


REVIEWS: Final = Service(
    "reviews",
    "bookinfo",
    (_HTTP, _HTTP2, _UNDECLARED, _CARRIED, _GRPC),
    policy=_admits(BILLING, "bookinfo"),
    pods=2,
    subsets={"v1": (0,), "v2": (1,)},
)
LEDGER: Final = Service("ledger", "pay", (_GRPC, _ACCOUNTS, _TCP, _GREETING, _TLS), policy=_admits(BILLING, "pay"))
RATINGS: Final = Service("ratings", "bookinfo", (_HTTP, _GRPC, _TCP, _GREETING), mtls=MTLSMode.PERMISSIVE)
PAYROLL: Final = Service(
    "payroll", "hr", (_HTTP, _GRPC, _ACCOUNTS, _TCP, _GREETING), policy=_admits("cluster.local/ns/hr/sa/portal", "hr")
)
"""Admits somebody else, not the machine."""
DETAILS: Final = Service("details", "bookinfo", (_HTTP,), presents="spiffe://cluster.local/ns/bookinfo/sa/intruder")
"""Something else answers in its place."""
ADMIN: Final = Service("admin", "bookinfo", (_HTTP,), exported=False)
"""Not exported by the gateway."""

MESH: Final = MeshDescription((REVIEWS, LEDGER, RATINGS, PAYROLL, DETAILS, ADMIN), gateways=2)

PRODUCTPAGE: Final = "cluster.local/ns/bookinfo/sa/productpage"
"""The principal of the pod that the machine admits."""
BILLING_HOST: Final = "billing.vms.svc.cluster.local"
"""The host of the ServiceEntry that stands for the machine in the mesh."""
INVOICES: Final = ServicePort(8080, Protocol.HTTP, Application.HTTP)
"""The machine's own HTTP application; of it, only some paths may be asked for."""
SERVED: Final = (INVOICES, _GRPC, _TCP, _GREETING)
"""The machine's own applications."""
PATHS: Final = "rules: [{to: [{operation: {paths: [/, /public/*]}}]}]"
"""What of `INVOICES` may be asked for, as in the document."""
UNSTEADY: Final = ServicePort(8081, Protocol.HTTP, Application.HTTP)
"""An application of the machine that is down at first."""
PROBE: Final = "healthCheck: {tcpSocket: {}, periodSeconds: 1, failureThreshold: 1}"
"""How the machine's Envoy tells whether `UNSTEADY` is up, as in the document."""

"""What an AuthorizationPolicy becomes in a sidecar: Envoy's RBAC, for HTTP and for TCP. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sidestep.lab import xds

if TYPE_CHECKING:
    from sidestep.lab.topology import AuthorizationPolicy
    from sidestep.lab.xds import Config

_SHADOW = "istio_dry_run_allow_"


def http_rbac(policy: AuthorizationPolicy | None) -> list[Config]:
    """The HTTP filter, first in its chain; none without a policy."""
    if policy is None:
        return []
    type_name = "envoy.extensions.filters.http.rbac.v3.RBAC"
    rules = _rules(policy)
    return [xds.extension("envoy.filters.http.rbac", type_name, rules=rules, shadow_rules_stat_prefix=_SHADOW)]


def network_rbac(policy: AuthorizationPolicy | None) -> list[Config]:
    """The network filter, before ``tcp_proxy``; none without a policy."""
    if policy is None:
        return []
    return [
        xds.extension(
            "envoy.filters.network.rbac",
            "envoy.extensions.filters.network.rbac.v3.RBAC",
            rules=_rules(policy),
            shadow_rules_stat_prefix=_SHADOW,
            stat_prefix="tcp.",
        )
    ]


def _rules(policy: AuthorizationPolicy) -> Config:
    name = f"ns[{policy.namespace}]-policy[{policy.name}]-rule[0]"
    return {"policies": {name: _rule(policy) if policy.principals else _match_never()}}


def _rule(policy: AuthorizationPolicy) -> Config:
    ids = [_authenticated(principal) for principal in policy.principals]
    return {
        "permissions": [{"and_rules": {"rules": [{"any": True}]}}],
        "principals": [{"and_ids": {"ids": [{"or_ids": {"ids": ids}}]}}],
    }


def _match_never() -> Config:
    return {"permissions": [{"not_rule": {"any": True}}], "principals": [{"not_id": {"any": True}}]}


def _authenticated(principal: str) -> Config:
    return {"authenticated": {"principal_name": _string_match(principal)}}


def _string_match(principal: str) -> Config:
    if principal == "*":
        return {"safe_regex": {"regex": ".+"}}
    if principal.startswith("*"):
        return {"suffix": principal.removeprefix("*")}
    if principal.endswith("*"):
        return {"prefix": f"spiffe://{principal.removesuffix('*')}"}
    return {"exact": f"spiffe://{principal}"}

"""Who may call the machine, and what they may ask for: matchers of SPIFFE IDs, and Envoy's RBAC for HTTP."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from sidestep.compile.envoy.resources import extension

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from sidestep.compile.envoy.resources import Json, Resource
    from sidestep.spec import Ingress, Rule


def subject_alt_names(allow: Iterable[str], trust_domain: str) -> list[Resource]:
    """For a validation context: a certificate with none of these URIs fails the handshake.

    Envoy's RBAC alone would come too late for a protocol whose server speaks first: it is asked at the caller's first
    byte, when the greeting is out (facts/envoy.md f).
    """
    return [{"san_type": "URI", "matcher": _matcher(principal, trust_domain)} for principal in allow]


def http_rbac(ingress: Ingress, trust_domain: str) -> list[Resource]:
    """The HTTP filter for ``rules``; none without them. Who may call at all is settled in the handshake."""
    if not ingress.rules:
        return []
    policies: Resource = {
        f"rule[{index}]": {"permissions": _permissions(rule), "principals": _principals(rule, trust_domain)}
        for index, rule in enumerate(ingress.rules)
    }
    rules: Resource = {"action": "ALLOW", "policies": policies}
    return [extension("envoy.filters.http.rbac", "filters.http.rbac.v3.RBAC", rules=rules)]


def looks_at_paths(ingress: Ingress) -> bool:
    """Whether a rule names paths."""
    return any(to.operation.paths for rule in ingress.rules or () for to in rule.to or ())


def _matcher(principal: str, trust_domain: str) -> Resource:
    """What a principal means for the URI. A pattern without trust domain means the mesh's own."""
    own = re.escape(trust_domain)
    if principal == "*":
        return {"prefix": f"spiffe://{trust_domain}/"}
    if principal.startswith("*"):
        return {"safe_regex": {"regex": f"spiffe://{own}(/.*)?{re.escape(principal[1:])}"}}
    if principal.endswith("*"):
        return {"prefix": f"spiffe://{principal[:-1]}"}
    return {"exact": f"spiffe://{principal}"}


def _principals(rule: Rule, trust_domain: str) -> list[Json]:
    if rule.from_ is None:
        return [{"any": True}]
    named = [principal for from_ in rule.from_ for principal in from_.source.principals]
    return [{"authenticated": {"principal_name": _matcher(principal, trust_domain)}} for principal in named]


def _permissions(rule: Rule) -> list[Json]:
    if rule.to is None:
        return [{"any": True}]
    return [_permission(to.operation.methods, to.operation.paths) for to in rule.to]


def _permission(methods: Sequence[str] | None, paths: Sequence[str] | None) -> Resource:
    both: list[Json] = []
    if methods:
        both.append(_any_of([{"header": _method(method)} for method in methods]))
    if paths:
        both += [_any_of([_path(path) for path in paths]), {"not_rule": _CLIMBS}]
    return {"and_rules": {"rules": both}}


def _any_of(rules: list[Json]) -> Resource:
    return {"or_rules": {"rules": rules}}


def _method(method: str) -> Resource:
    return {"name": ":method", "string_match": {"exact": method}}


def _path(pattern: str) -> Resource:
    if pattern == "*":
        return _url_path({"safe_regex": {"regex": ".+"}})
    if pattern.startswith("*"):
        return {"and_rules": {"rules": [_url_path({"suffix": pattern[1:]}), {"not_rule": _HAS_PARAMETER}]}}
    return _url_path({"prefix": pattern[:-1]} if pattern.endswith("*") else {"exact": pattern})


def _url_path(matcher: Resource) -> Resource:
    return {"url_path": {"path": matcher}}


# A servlet reads /admin;.json as /admin.
_HAS_PARAMETER: Final = _url_path({"safe_regex": {"regex": ".*(?:;|%3[Bb]).*"}})
# A servlet takes the parameter off /public/..;/admin, and then reads /admin. Of Envoy's releases some do, too.
_CLIMBS: Final = _url_path({"safe_regex": {"regex": r".*/\.\.?(?:;|%3[Bb]).*"}})

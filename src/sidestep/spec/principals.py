"""Principals, in the form of AuthorizationPolicy: exact, with a ``*`` at one end, or ``*`` alone.

A principal is a SPIFFE ID without its ``spiffe://``. Istio takes any text; here a pattern has to stand where a part of
an identity begins or ends in a trust domain that is written out, so that none means more than it seems to
(``cluster.local*`` would admit the trust domain ``cluster.localhost``, too).
"""

from __future__ import annotations

import re
from typing import Annotated, Final

from sidestep.pki.spiffe import LABEL, SUBDOMAIN, TRUST_DOMAIN
from sidestep.spec.checked import checked

SCHEME: Final = "spiffe://"
ANYBODY: Final = "*"

_DOMAIN = rf"(?![^/]{{256}}){TRUST_DOMAIN}"
_ACCOUNT = rf"(?!.{{254}}){SUBDOMAIN}"
_BEGINNING = rf"(?!.{{254}})(?:{SUBDOMAIN}\.)?(?:[a-z0-9][-a-z0-9]*)?"
"""Of an account."""
_EXACT = rf"{_DOMAIN}/ns/{LABEL}/sa/{_ACCOUNT}"
_PREFIX = rf"{_DOMAIN}/(?:ns/(?:(?:[a-z0-9][-a-z0-9]{{0,62}})?|{LABEL}/(?:sa/{_BEGINNING})?))?\*"
_SUFFIX = rf"\*(?:(?:/ns/{LABEL})?/sa/{_ACCOUNT})?"
_PATTERN: Final = rf"{_EXACT}|{_PREFIX}|{_SUFFIX}"
_LONGEST: Final = 700

_FORMS: Final = (
    "a principal as in AuthorizationPolicy: TRUST-DOMAIN/ns/NAMESPACE/sa/SERVICE-ACCOUNT, the beginning of one with a "
    "slash and '*' after its trust domain (cluster.local/ns/bookinfo/*), '*/ns/NAMESPACE/sa/SERVICE-ACCOUNT', "
    "'*/sa/SERVICE-ACCOUNT' or '*'"
)


def _principal(value: object) -> str:
    if type(value) is not str:
        raise ValueError("no text")
    if value.startswith(SCHEME):
        raise ValueError("Istio writes principals without spiffe://, and with it an AuthorizationPolicy never matches")
    if len(value) > _LONGEST or not re.fullmatch(_PATTERN, value):
        raise ValueError("no principal")
    return value


Principal = Annotated[
    str,
    checked(_principal, _FORMS, {"type": "string", "pattern": f"^(?:{_PATTERN})$", "maxLength": _LONGEST}),
]


def meet(one: str, other: str, trust_domain: str) -> bool:
    """Whether somebody may be both: admitted by either of two principals.

    ``trust_domain`` is the mesh's, which is what patterns without one mean.
    """
    return all(map(_agree, _parts(one, trust_domain), _parts(other, trust_domain)))


def _parts(principal: str, trust_domain: str) -> tuple[str, str, str]:
    """Trust domain, namespace and service account; the last two may end in ``*``, or be that alone."""
    if principal.startswith("*/ns/"):
        principal = f"{trust_domain}{principal[1:]}"
    elif principal.startswith(ANYBODY):
        principal = f"{trust_domain}/ns/{principal}"
    domain, _, rest = principal.partition("/")
    namespace, _, account = rest.removeprefix("ns/").partition("/sa/")
    return domain, namespace.removesuffix("/*"), account or ANYBODY


def _agree(one: str, other: str) -> bool:
    if one.endswith(ANYBODY) and other.endswith(ANYBODY):
        shorter, longer = sorted((one[:-1], other[:-1]), key=len)
        return longer.startswith(shorter)
    if one.endswith(ANYBODY):
        return other.startswith(one[:-1])
    return one.startswith(other[:-1]) if other.endswith(ANYBODY) else one == other

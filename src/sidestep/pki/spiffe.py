"""The name of a workload: a SPIFFE ID in the form that Istio gives it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from sidestep.errors import CertificateError

_FORM = "spiffe://<trust domain>/ns/<namespace>/sa/<service account>"
LABEL: Final = r"[a-z0-9](?:[-a-z0-9]{0,61}[a-z0-9])?"
"""A pattern of a DNS label (RFC 1123), as Kubernetes has them."""
DNS_NAME: Final = rf"{LABEL}(?:\.{LABEL})*"
"""A pattern of several, of which 253 characters are allowed in all."""
SUBDOMAIN: Final = r"[a-z0-9](?:[-a-z0-9]*[a-z0-9])?(?:\.[a-z0-9](?:[-a-z0-9]*[a-z0-9])?)*"
"""A pattern of what Kubernetes calls a DNS subdomain, such as a service account's name: 253 characters are allowed in
all, and no label of it has a limit of its own (apimachinery, IsDNS1123Subdomain)."""
TRUST_DOMAIN: Final = r"[a-z0-9_-]+(?:\.[a-z0-9_-]+)*"
"""A pattern of a trust domain, of which 255 characters are allowed."""

_TRUST_DOMAIN = re.compile(rf"(?=.{{1,255}}\Z){TRUST_DOMAIN}")
_NAMESPACE = re.compile(LABEL)
_SERVICE_ACCOUNT = re.compile(rf"(?=.{{1,253}}\Z){SUBDOMAIN}")


def check_trust_domain(text: str) -> str:
    """``text``, if it can be a trust domain; else `CertificateError`.

    The SPIFFE specification allows lower-case letters, digits, dots, dashes and underscores, 255 bytes at most. Dots
    stand between other characters only: in a name constraint a leading dot would mean every domain below.
    """
    return _check("trust domain", _TRUST_DOMAIN, text, "1 to 255 of a-z 0-9 - _, with dots between them")


@dataclass(frozen=True, order=True)
class SpiffeId:
    """``spiffe://<trust domain>/ns/<namespace>/sa/<service account>``; valid, or `CertificateError` on making it.

    Namespace and service account follow Kubernetes: a DNS label of at most 63 bytes; labels of any length, 253 in all.
    """

    trust_domain: str
    namespace: str
    service_account: str

    def __post_init__(self) -> None:
        check_trust_domain(self.trust_domain)
        _check("namespace", _NAMESPACE, self.namespace, "a DNS label: 1 to 63 of a-z 0-9 -, no dash at either end")
        _check(
            "service account",
            _SERVICE_ACCOUNT,
            self.service_account,
            "1 to 253 of a-z 0-9 - ., no dash or dot at either end",
        )

    @classmethod
    def parse(cls, text: str) -> SpiffeId:
        """The name written as a URI; strict: no query, port, encoding, capital or further path. `CertificateError`."""
        scheme, _, rest = text.partition("://")
        parts = rest.split("/")
        if scheme != "spiffe" or len(parts) != 5 or (parts[1], parts[3]) != ("ns", "sa"):
            raise CertificateError(f"not a SPIFFE ID of a workload: found {_shown(text)}; allowed: {_FORM}")
        return cls(parts[0], parts[2], parts[4])

    @property
    def principal(self) -> str:
        """The name as AuthorizationPolicy writes it: without ``spiffe://``."""
        return f"{self.trust_domain}/ns/{self.namespace}/sa/{self.service_account}"

    def __str__(self) -> str:
        return f"spiffe://{self.principal}"


def _check(what: str, pattern: re.Pattern[str], text: str, allowed: str) -> str:
    if not pattern.fullmatch(text):
        raise CertificateError(f"{what} of a SPIFFE ID: found {_shown(text)}; allowed: {allowed}")
    return text


def _shown(text: str) -> str:
    return repr(text if len(text) <= 120 else f"{text[:120]}…")

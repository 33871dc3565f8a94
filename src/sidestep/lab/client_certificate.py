"""What a sidecar tells its application of the caller's certificate."""

from __future__ import annotations

import re
from typing import Final

_URI: Final = re.compile(r"(?:^|[;,])URI=([^;,]*)")


def principal(xfcc: str) -> str:
    """The SPIFFE ID of the last hop in ``x-forwarded-client-cert``; empty where there was no client certificate."""
    uris = _URI.findall(xfcc.replace('"', ""))
    return uris[-1] if uris else ""

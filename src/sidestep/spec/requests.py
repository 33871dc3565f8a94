"""What a request is known by: its method, its path, and patterns of paths as AuthorizationPolicy has them."""

from __future__ import annotations

import re
from typing import Annotated, Final

from sidestep.spec.checked import checked, text

_PATH_CHARACTERS: Final = r"[A-Za-z0-9._~!$&'()+,;=:@/-]"


def _path_pattern(value: object) -> str:
    if type(value) is not str or not 1 <= len(value) <= 2048:
        raise ValueError
    if "{" in value:
        raise ValueError("path templates are not known here")
    if "?" in value or "#" in value:
        raise ValueError("a path has no query")
    if "%" in value:
        raise ValueError("paths are compared without escapes")
    if not re.fullmatch(rf"\*|/{_PATH_CHARACTERS}*\*?|\*{_PATH_CHARACTERS}+", value):
        raise ValueError
    if "//" in value or re.search(r"/\.{1,2}(/|$)", value):
        raise ValueError("requests are normalised before, so it would never match")
    return value


PathPattern = Annotated[
    str,
    checked(
        _path_pattern,
        "a path such as /api/v1, a prefix /api/*, a suffix *.json, or *",
        {"type": "string"},
    ),
]


RequestPath = Annotated[
    str, text(rf"/(?:{_PATH_CHARACTERS}|[?%])*", "a path such as /healthz, beginning with a slash", 2048)
]
PlainPath = Annotated[
    str, text(rf"/{_PATH_CHARACTERS}*", "a path such as /healthz, beginning with a slash, without a query", 2048)
]
Method = Annotated[str, text(r"[A-Z][A-Z-]{0,31}", "an HTTP method in capitals, such as GET", 32)]
GrpcServiceName = Annotated[str, text(r"|[A-Za-z_][A-Za-z0-9_.]*", "a gRPC service's full name, or nothing", 512)]

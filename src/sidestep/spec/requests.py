"""What a request is known by: its method, its path, and patterns of paths as AuthorizationPolicy has them."""

from __future__ import annotations

import re
from typing import Annotated, Final

from sidestep.spec.checked import checked, text

HEALTH_PATH: Final = "/healthz/ready"
"""Istio's own, for gateways and sidecars alike."""
_PATH_CHARACTERS: Final = r"[A-Za-z0-9._~!$&'()+,;=:@/-]"
_PLAIN: Final = rf"/{_PATH_CHARACTERS}*"
_LONGEST: Final = 2048


def _path_pattern(value: object) -> str:
    if type(value) is not str or not 1 <= len(value) <= _LONGEST:
        raise ValueError
    if "{" in value:
        raise ValueError("path templates are not known here")
    if "?" in value or "#" in value:
        raise ValueError("a path has no query")
    if "%" in value:
        raise ValueError("paths are compared without escapes")
    if not re.fullmatch(rf"\*|/{_PATH_CHARACTERS}*\*?|\*{_PATH_CHARACTERS}+", value):
        raise ValueError
    if not _is_normal(value):
        raise ValueError("requests are normalised before, so it would never match")
    return value


def _plain_path(value: object) -> str:
    if type(value) is not str or len(value) > _LONGEST or not re.fullmatch(_PLAIN, value):
        raise ValueError
    if not _is_normal(value):
        raise ValueError("not in its shortest form")
    return value


def _is_normal(path: str) -> bool:
    return "//" not in path and not re.search(r"/\.{1,2}(/|$)", path)


PathPattern = Annotated[
    str,
    checked(_path_pattern, "a path such as /api/v1, a prefix /api/*, a suffix *.json, or *"),
]
RequestPath = Annotated[
    str, text(rf"/(?:{_PATH_CHARACTERS}|[?%])*", "a path such as /healthz, beginning with a slash", _LONGEST)
]
PlainPath = Annotated[
    str,
    checked(
        _plain_path,
        "a path such as /healthz, beginning with a slash, without a query",
        {"type": "string", "pattern": f"^(?:{_PLAIN})$", "maxLength": _LONGEST},
    ),
]
Method = Annotated[str, text(r"[A-Z][A-Z-]{0,31}", "an HTTP method in capitals, such as GET", 32)]
GrpcServiceName = Annotated[str, text(r"|[A-Za-z_][A-Za-z0-9_.]*", "a gRPC service's full name, or nothing", 512)]

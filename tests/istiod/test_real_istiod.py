from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from .machine import Machine

pytestmark = pytest.mark.xdist_group("istiod")
MODES = pytest.mark.parametrize("service", ["open.strict", "open.perm"])


@MODES
def test_http_reaches_the_application(billing: Machine, service: str) -> None:
    response = billing[service].http(method="POST", path="/a?b=c", body="text")
    print(response)
    assert response.status == 200
    assert response.heard["body"] == "text"


@MODES
def test_grpc(billing: Machine, service: str) -> None:
    print(billing[service].unary())
    print(billing[service].stream(["a", "b"]))
    print(billing[service].exchange(b"ping"))
    print(billing[service].exchange(b"ping", port=9082))
    print(billing[service].http(9081))
    print(billing[service].greeted_exchange(b"ping", b"220 ready\r\n"))
    print(billing[service].websocket(["a", "b"]))
    assert 0

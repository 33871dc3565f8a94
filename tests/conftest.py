"""What every test may ask for."""

from __future__ import annotations

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """``--update-golden`` writes anew what the golden cases expect; read the difference before keeping it."""
    parser.addoption("--update-golden", action="store_true", help="write what the golden cases expect anew")

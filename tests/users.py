"""Users other than root, in whose directories root works."""

from __future__ import annotations

import os

import pytest

USER, GROUP = 12345, 23456
"""Of nobody: no account is needed to own a file."""
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can make what belongs to other users")

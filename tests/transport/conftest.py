"""Fixtures of the transport tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from house import House, open_house


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    """Endpoints with a minimal broker."""
    with open_house(tmp_path) as house:
        yield house

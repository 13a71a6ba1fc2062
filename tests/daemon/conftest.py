"""Fixtures of the daemon's tests: growing raw data, and a broker driven by hand."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from core_rig import Hand, Raw


@pytest.fixture
def raw(tmp_path: Path) -> Iterator[Raw]:
    written = Raw(tmp_path / "data", 40)
    yield written
    written.dataset.finish()
    written.dataset.close()


@pytest.fixture
def broker() -> Iterator[Hand]:
    one = Hand()
    yield one
    one.ring.close()

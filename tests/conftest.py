"""Fixtures that several test modules share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from refocusd.demo.microscope import DemoMicroscope


@pytest.fixture(scope="session")
def demo_microscope() -> Iterator[DemoMicroscope]:
    """Open a real MMCore with the demo specimen: one for the session, as a process takes one."""
    with DemoMicroscope() as microscope:
        yield microscope

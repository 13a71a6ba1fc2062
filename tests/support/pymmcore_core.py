"""A core of pymmcore-plus with the demo devices, and small frames."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from refocusd.daemon.daemon import daemon_status

pymmcore_plus = pytest.importorskip("pymmcore_plus", reason="pymmcore-plus is not installed")
adapters = pytest.importorskip("mm_test_adapters", reason="mm-test-adapters is not installed")


@contextmanager
def demo_core() -> Iterator[Any]:
    libs = Path(adapters.__file__).parent / "libs"
    mmc = pymmcore_plus.CMMCorePlus(mm_path=str(libs))
    mmc.loadSystemConfiguration(str(libs / "MMConfig_demo.cfg"))
    mmc.setProperty("Camera", "PixelType", "16bit")
    mmc.setProperty("Camera", "OnCameraCCDXSize", 64)
    mmc.setProperty("Camera", "OnCameraCCDYSize", 48)
    mmc.setExposure(2)
    yield mmc
    mmc.unloadAllDevices()


def daemon_counts(daemon: Any) -> list[Any]:
    """Counts of the acquisitions that have ended."""
    details = daemon_status(daemon.endpoint).details
    return [about.counts for about in details if about.state == "ended"]

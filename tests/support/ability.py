"""Builds engines in a precision that not every processor supports, or skips the test."""

from __future__ import annotations

import pytest

from refocusd.config import EngineOptions, Precision
from refocusd.engines.runtimes.openvino import OpenVinoEngine
from refocusd.errors import EngineError
from refocusd.models.bundle import ModelBundle


def cpu_engine(bundle: ModelBundle, precision: Precision) -> OpenVinoEngine:
    """The CPU engine of a bundle; skips if this processor does not support `precision`."""
    try:
        return OpenVinoEngine(bundle, EngineOptions(precision=precision))
    except EngineError as error:
        if "this processor does not compute" not in str(error):
            raise
        pytest.skip(str(error))

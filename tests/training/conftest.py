"""Fixtures of the training tests."""

from __future__ import annotations

import os
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from refocusd_training.simulate.specimen import flux_of


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Use one thread: networks this small gain nothing from more cores."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def test_data() -> Path:
    """Give the folder of real images, or skip."""
    folder = os.environ.get("REFOCUSD_TEST_DATA")
    if not folder:
        pytest.skip("REFOCUSD_TEST_DATA is not set: no real images to test with")
    return Path(folder)


@pytest.fixture(scope="session")
def sample() -> NDArray[np.uint8]:
    """Give the nuclei that the demo ships; they are on the test side of the split."""
    source = resources.files("refocusd").joinpath("demo/sample/nuclei.tif")
    with resources.as_file(source) as path:
        return np.asarray(tifffile.imread(path))


@pytest.fixture(scope="session")
def flux(sample: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Give the light of the sample, without offset."""
    return flux_of(sample)

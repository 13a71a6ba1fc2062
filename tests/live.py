"""What the tests of the live path share: settings, recordings, readers."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray

from refocusd.config import Settings
from refocusd.sources.recording.ndtiff import NDTiffReader

__all__ = ["keys", "quick_settings", "read_all", "stack", "write_stack"]


def quick_settings(tmp_path: Path, **changes: Any) -> Settings:
    """A daemon on a free port that passes frames through, with its ledgers in the test's folder."""
    values: dict[str, Any] = {
        "endpoint": "tcp://127.0.0.1:0",
        "backend": "identity",
        "ledgers": str(tmp_path / "ledgers"),
        "ring_mib": 64,
        "reserve_mib": 1,
        **changes,
    }
    return Settings(**values)


def stack(planes: int, side: int = 64, seed: int = 0) -> NDArray[np.uint16]:
    """Frames that all differ."""
    return np.random.default_rng(seed).integers(100, 4000, (planes, side, side), dtype=np.uint16)


def write_stack(path: Path, frames: NDArray[np.uint16]) -> Path:
    """Write an ImageJ z-stack."""
    tifffile.imwrite(path, frames, imagej=True, metadata={"axes": "ZYX"})
    return path


def keys(dataset: Path) -> list[str]:
    """Canonical axes of the frames in a dataset."""
    with closing(NDTiffReader(dataset)) as reader:
        return reader.axes_keys()


def read_all(dataset: Path) -> dict[str, tuple[NDArray[Any], dict[str, Any]]]:
    """Canonical axes → pixels and metadata."""
    with closing(NDTiffReader(dataset)) as reader:
        frames = {key: reader.read(key) for key in reader.axes_keys()}
        # Metadata are read when they are looked at.
        return {
            key: (frame.pixels, json.loads(json.dumps(dict(frame.metadata))))
            for key, frame in frames.items()
        }

"""Distance between the planes of a recording."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from refocusd.formats.dataset import Dataset

__all__ = ["z_step_um"]

_OME_STEP = re.compile(r'PhysicalSizeZ="([^"]+)"')
_OME_UNIT = re.compile(r'PhysicalSizeZUnit="([^"]+)"')
_UM = {"µm": 1.0, "μm": 1.0, "um": 1.0, "micron": 1.0, "nm": 1e-3, "mm": 1e3}


def z_step_um(recording: Dataset, planes: Sequence[int]) -> float | None:
    """Distance of two neighbouring planes in um; None where the recording does not say.

    What the stage was told comes first, then what the recording's header says.

    Parameters
    ----------
    recording : Dataset
    planes : sequence of int
        Frames of one stack, in order of z.
    """
    axes = recording.plan().axes
    first, last = (recording.metadata(axes[planes[i]]) for i in (0, -1))
    for key in ("ZPosition_um_Intended", "ZPositionUm"):
        low, high = _number(first.get(key)), _number(last.get(key))
        if low is not None and high is not None and high != low:
            return abs(high - low) / (len(planes) - 1)
    summary = recording.summary
    for key in ("z-step_um", "Z-step_um"):
        if step := _number(summary.get(key)):
            return abs(step)
    return _of_tiff(recording.path)


def _of_tiff(path: Path) -> float | None:
    if not path.is_file() or path.suffix.lower() not in {".tif", ".tiff"}:
        return None
    import tifffile

    try:
        with tifffile.TiffFile(path) as file:
            ome, imagej = file.ome_metadata, file.imagej_metadata
    # The recording was read already; whatever is odd about its header says nothing of z.
    except Exception:  # noqa: BLE001
        return None
    if ome and (step := _OME_STEP.search(ome)):
        unit = _OME_UNIT.search(ome)
        length = _number(step[1])
        return (
            length * _UM[unit[1] if unit else "um"]
            if length and (unit is None or unit[1] in _UM)
            else None
        )
    said: dict[str, Any] = imagej or {}
    if said.get("unit") in (None, "um", "micron", "\\u00B5m", "µm"):
        return _number(said.get("spacing"))
    return None


def _number(value: object) -> float | None:
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None

"""Distance between the planes of a recording."""

from __future__ import annotations

from collections.abc import Sequence

from refocusd.formats.dataset import Dataset
from refocusd.formats.scale import stated_z_step_um, z_position_um


def z_step_um(recording: Dataset, planes: Sequence[int]) -> float | None:
    """Distance of two neighbouring planes in um; None if the recording does not state it.

    The commanded stage positions take precedence over the recording's header.

    Parameters
    ----------
    recording : Dataset
    planes : sequence of int
        Frames of one stack, in order of z.
    """
    axes = recording.plan().axes
    low, high = (z_position_um(recording.metadata(axes[planes[i]])) for i in (0, -1))
    if low is not None and high is not None and high != low:
        return abs(high - low) / (len(planes) - 1)
    step = stated_z_step_um(recording.summary)
    return None if step is None else abs(step)

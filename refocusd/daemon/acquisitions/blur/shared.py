"""The blur that the positions of an acquisition share, by channel and plane."""

from __future__ import annotations

import json
import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from refocusd.transport.messages import KnownBlur
from refocusd.worker.blurs import LEAST_UNCERTAINTY

#: Axes along which the blur is about the same.
SHARING = frozenset({"position", "row", "column", "time"})
#: Largest number of positions that are measured, and the smallest from which the blur of the others is derived.
MOST_MEASURED, LEAST_MEASURED = 9, 3
#: Narrower blurs, px, are not shared: frames that are nearly in focus are measured in one pass.
LEAST_SHARED_PX = 2.5
#: Number of frames that use a shared blur before another is measured, because the focus changes over a plate.
MOST_USES = 8
#: Largest number of channels and planes of an acquisition.
MOST_KINDS = 1024
#: Factor from the median absolute deviation to the standard deviation of a normal variable.
_NORMAL = 1.4826


def kind_of(axes: str) -> str:
    """What a frame has in common with those of other positions: its axes except those of `SHARING`."""
    kept = {name: at for name, at in json.loads(axes).items() if name not in SHARING}
    return json.dumps(kept, separators=(",", ":"))


def pooled(widths_px: Sequence[float]) -> KnownBlur | None:
    """The blur of several positions: their median, and their spread as its uncertainty.

    The blur is therefore uncertain if the positions differ in focus.  A position whose first frame contradicts
    it is measured separately.  None for too few positions, and for narrow blurs.
    """
    if len(widths_px) < LEAST_MEASURED or np.median(widths_px) < LEAST_SHARED_PX:
        return None
    logs = np.log(widths_px)
    spread = _NORMAL * float(np.median(np.abs(logs - np.median(logs))))
    return KnownBlur(math.exp(np.median(logs)), max(spread, LEAST_UNCERTAINTY), "memory")


def surer(found: KnownBlur | None, shared: KnownBlur | None) -> KnownBlur | None:
    """The more certain of two blurs: that from the microscope, and that of other positions.

    A blur with a measured shape of the PSF is preferred to a width alone.
    """
    if found is None or shared is None or found.form:
        return found or shared
    return min(found, shared, key=lambda blur: blur.uncertainty)


@dataclass(slots=True)
class _Pool:
    widths_px: deque[float] = field(default_factory=lambda: deque(maxlen=MOST_MEASURED))
    uses: int = 0


class SharedBlurs:
    """Blurs of the open acquisitions.  Belongs to one thread."""

    def __init__(self) -> None:
        self._pools: dict[str, dict[str, _Pool]] = {}

    def of(self, acquisition: str, axes: str) -> KnownBlur | None:
        """The blur for the next position; None if it is to be measured."""
        pool = self._pools.get(acquisition, {}).get(kind_of(axes))
        if pool is None or pool.uses >= MOST_USES:
            return None
        pool.uses += 1
        return pooled(pool.widths_px)

    def add(self, acquisition: str, axes: str, width_px: float) -> None:
        """Take in a width that was measured in one frame alone."""
        pools = self._pools.setdefault(acquisition, {})
        kind = kind_of(axes)
        if kind in pools or len(pools) < MOST_KINDS:
            pool = pools.setdefault(kind, _Pool())
            pool.widths_px.append(width_px)
            pool.uses = 0

    def end(self, acquisition: str) -> None:
        """Forget an acquisition that has ended."""
        self._pools.pop(acquisition, None)

"""What frames told of their blur, for the next frames of their kind.

Frames of one channel, plane and position share the optics, and most of the defocus: what one of them
tells of the blur is where the next begins, a little less certain.  The engine sees how a frame
departs from that, so that many frames tell more than one does.
"""

from __future__ import annotations

import math
from collections import OrderedDict

from refocusd.imaging.blur import BlurEstimate

__all__ = ["Blurs", "Stream"]

#: Kinds of frames that are remembered; the oldest goes.
MOST_STREAMS = 1024
#: What the focus drifts from one frame to the next, relative.
DRIFT = 0.05
#: No number of frames tells more: those of one specimen share its peculiarities.
LEAST_UNCERTAINTY = 0.08


class Blurs:
    """Widths of blurs by stream."""

    def __init__(self) -> None:
        self._known: OrderedDict[str, BlurEstimate] = OrderedDict()

    def of(self, key: str) -> Stream:
        """Frames that differ in time alone."""
        return Stream(self._known, key)


class Stream:
    """What the frames of one stream told of their blur."""

    def __init__(self, known: OrderedDict[str, BlurEstimate], key: str) -> None:
        self._known, self._key = known, key

    @property
    def blur(self) -> BlurEstimate | None:
        """What earlier frames told; None at the first one."""
        return self._known.get(self._key)

    def learn(self, blur: BlurEstimate | None) -> None:
        """Remember what a frame told; None where it did not tell, which makes nothing known."""
        self._known.pop(self._key, None)
        if blur is None or blur.source == "optics":
            return
        uncertainty = max(math.hypot(blur.uncertainty, DRIFT), LEAST_UNCERTAINTY)
        self._known[self._key] = BlurEstimate(blur.sigma_px, uncertainty, "frames")
        if len(self._known) > MOST_STREAMS:
            self._known.popitem(last=False)

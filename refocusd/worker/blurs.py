"""What frames told of their blur, for the next frames of their kind.

Frames of one channel, plane and position share the optics, and most of the defocus: what one of them
tells of the blur is where the next begins, a little less certain.  The engine sees how a frame
departs from that, so that many frames tell more than one does.
"""

from __future__ import annotations

import math
from collections import OrderedDict

from refocusd.imaging.blur import BlurEstimate

__all__ = ["Blurs"]

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

    def of(self, stream: str) -> BlurEstimate | None:
        """What earlier frames of a stream told; None at its first frame."""
        return self._known.get(stream)

    def learn(self, stream: str, blur: BlurEstimate | None) -> None:
        """Remember what a frame told; None where it did not tell, which makes nothing known."""
        self._known.pop(stream, None)
        if blur is None or blur.source == "optics":
            return
        uncertainty = max(math.hypot(blur.uncertainty, DRIFT), LEAST_UNCERTAINTY)
        self._known[stream] = BlurEstimate(blur.sigma_px, uncertainty, "frames")
        if len(self._known) > MOST_STREAMS:
            self._known.popitem(last=False)

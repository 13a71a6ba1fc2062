"""What frames told of their blur, for the next frames of their kind.

Frames of one channel, plane and position share the optics, and most of the defocus: what one of them
tells of the blur is where the next begins, a little less certain.  The engine sees how a frame
departs from that, so that many frames tell more than one does.  What is known of the microscope
beforehand is weighed in, unless the frames contradict it.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from dataclasses import replace

from refocusd.frame import Pixels
from refocusd.imaging.blur import BlurEstimate, PsfShape, contradict, estimate_blur, fused
from refocusd.transport.messages import KnownBlur

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

    def of(self, key: str, beforehand: BlurEstimate | None = None) -> Stream:
        """Frames that differ in time alone, and what is known of this one's blur beforehand."""
        return Stream(self._known, key, beforehand)


class Stream:
    """What the frames of one stream told of their blur."""

    def __init__(
        self, known: OrderedDict[str, BlurEstimate], key: str, beforehand: BlurEstimate | None
    ) -> None:
        self._known, self._key, self._beforehand = known, key, beforehand
        self._asked: BlurEstimate | None = None

    @property
    def blur(self) -> BlurEstimate | None:
        """What earlier frames told; None at the first one."""
        return self._known.get(self._key)

    def known(self, seen: Pixels) -> BlurEstimate | None:
        """What is known of the next frame's blur; None where that is nothing.

        Of the first frame, what was known beforehand and what it tells by itself.  Later, what earlier
        frames told, which holds the former; a measured PSF is weighed in again, or it would be forgotten,
        but makes nothing surer: frames see the focus drift.
        """
        told, beforehand = self.blur, self._beforehand
        if told is None and beforehand is not None:
            alone = estimate_blur(seen)
            return fused(beforehand, alone) if alone else beforehand
        if told is None or beforehand is None or beforehand.source != "profile":
            return told
        both = fused(beforehand, told)
        self._asked = BlurEstimate(both.sigma_px, told.uncertainty, "frames", both.shape)
        return self._asked

    def learn(self, blur: BlurEstimate | None) -> BlurEstimate | None:
        """Remember what a frame told; None where it did not tell, which makes nothing known.

        Returns
        -------
        BlurEstimate or None
            The same, with the source that it rests on most.
        """
        told, beforehand = self._known.pop(self._key, None), self._beforehand
        if blur is None or blur.source == "optics":
            return blur
        uncertainty = max(math.hypot(blur.uncertainty, DRIFT), LEAST_UNCERTAINTY)
        # What the engine took as it was given tells nothing new: it would count twice.
        sigma_px = told.sigma_px if told and blur == self._asked else blur.sigma_px
        self._known[self._key] = BlurEstimate(sigma_px, uncertainty, "frames")
        if len(self._known) > MOST_STREAMS:
            self._known.popitem(last=False)
        if told is None or beforehand is None or beforehand.uncertainty > told.uncertainty:
            return blur
        return blur if contradict(beforehand, blur) else replace(blur, source=beforehand.source)


def known_blur(told: KnownBlur | None) -> BlurEstimate | None:
    """What the daemon told of a frame's blur."""
    if told is None:
        return None
    shape = PsfShape(tuple(told.form)) if len(told.form) == len(PsfShape.CYCLES) else None
    return BlurEstimate(told.sigma_px, told.uncertainty, told.source, shape)

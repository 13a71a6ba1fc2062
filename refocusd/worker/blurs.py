"""Keeps the blur that was measured in earlier frames, for the next frames of the same stream.

Frames of one channel, plane and position share the optics and most of the defocus.  The blur of one frame
is therefore the starting value for the next.  Its uncertainty grows with the number of frames since it was
measured, because the focus drifts; it hardly grows while the focus score stays the same.  What is known of
the microscope beforehand is included, unless the frames contradict it.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from dataclasses import dataclass, replace

from refocusd.frame import Pixels
from refocusd.imaging.blur import (
    LEAST_STACK_PX,
    BlurEstimate,
    PsfShape,
    contradict,
    estimate_blur,
    fused,
)
from refocusd.transport.messages import KnownBlur

#: Number of streams that are remembered; the oldest is forgotten first.
MOST_STREAMS = 1024
#: Relative change of the blur from one frame to the next, because the focus drifts: if the focus score
#: is that of the frame in which the blur was measured, and if there is no score.
SLOW_DRIFT, DRIFT = 0.01, 0.05
#: Width of the objects that the focus score sees, px.  For objects and blurs of Gaussian form it is proportional to
#: 1 / (object² + blur²), so that it hardly changes while the blur is much narrower than this.
OBJECT_PX = 4.5
#: Smallest uncertainty: frames of one specimen share its peculiarities, so more of them do not help.
LEAST_UNCERTAINTY = 0.08
#: Nobody has checked a self-measured PSF or the position of the focus.  Its shape is tried only if the width
#: expected at the stage's position and a rough estimate from the frame agree within this (natural logarithm).
STACK_AGREES = 0.5
#: Smallest uncertainty of a width that rests on one frame.  It is above `STACK_SURE`, so that the engine
#: measures the width before it uses a self-measured shape.
_ONE_FRAME = 0.15


@dataclass(frozen=True, slots=True)
class _Measured:
    """A blur, the focus score of the frame in which it was measured, and the number of frames since."""

    blur: BlurEstimate
    focus: float
    frames: int

    def now(self, focus: float) -> BlurEstimate:
        """The blur of a frame with this focus score: the same, and less certain."""
        drift = DRIFT * math.sqrt(self.frames)
        if min(focus, self.focus) > 0:
            per_score = 0.5 * (1 + (OBJECT_PX / self.blur.sigma_px) ** 2)
            by_score = per_score * abs(math.log(focus / self.focus))
            drift = math.hypot(by_score, SLOW_DRIFT * math.sqrt(self.frames))
        uncertainty = max(math.hypot(self.blur.uncertainty, drift), LEAST_UNCERTAINTY)
        return replace(self.blur, uncertainty=uncertainty)


class Blurs:
    """Widths of blurs, by stream."""

    def __init__(self) -> None:
        self._known: OrderedDict[str, _Measured] = OrderedDict()

    def of(self, key: str, beforehand: BlurEstimate | None = None) -> Stream:
        """The stream of frames that differ only in time, with what is known beforehand of this frame's blur."""
        return Stream(self._known, key, beforehand)


class Stream:
    """The blur measured in the frames of one stream."""

    def __init__(
        self, known: OrderedDict[str, _Measured], key: str, beforehand: BlurEstimate | None
    ) -> None:
        self._known, self._key, self._beforehand = known, key, beforehand
        self._asked: BlurEstimate | None = None

    @property
    def blur(self) -> BlurEstimate | None:
        """Estimate from earlier frames, as it was measured; None for the first frame."""
        measured = self._known.get(self._key)
        return measured.blur if measured else None

    def known(self, seen: Pixels, focus: float = 0.0) -> BlurEstimate | None:
        """What is known of the next frame's blur; None if nothing is known.

        For the first frame, this combines what was known beforehand with the frame's own estimate.  Later, it
        is the estimate from earlier frames, which contains both.  A measured PSF is then included again, because
        it would be forgotten otherwise, but it does not reduce the uncertainty, because the focus drifts.

        Parameters
        ----------
        seen : ndarray of uint8 or uint16, shape (height, width)
        focus : float
            Its `refocusd.imaging.quality.focus_score`; 0 if it is not known.
        """
        beforehand = self._beforehand
        measured = self._known.get(self._key)
        told = measured.now(focus) if measured else None
        if beforehand is not None and beforehand.source == "stack":
            self._asked = _formed(told or estimate_blur(seen), beforehand) or told
        elif told is None:
            alone = estimate_blur(seen) if beforehand else None
            self._asked = fused(beforehand, alone) if beforehand and alone else beforehand
        elif beforehand is not None and beforehand.source == "profile":
            both = fused(beforehand, told)
            self._asked = BlurEstimate(both.sigma_px, told.uncertainty, "frames", both.shape)
        else:
            self._asked = told
        return self._asked

    def learn(self, blur: BlurEstimate | None, focus: float) -> BlurEstimate | None:
        """Take in the estimate from a frame; None discards what is known.

        Parameters
        ----------
        blur : BlurEstimate or None
        focus : float
            Focus score of that frame.

        Returns
        -------
        BlurEstimate or None
            The same, with the source that it mostly rests on.
        """
        told, beforehand = self._known.pop(self._key, None), self._beforehand
        if blur is None or blur.source == "optics":
            return blur
        if told is not None and blur == self._asked:
            # The engine returned what it was given: counting this as a measurement would count it twice.
            self._known[self._key] = replace(told, frames=told.frames + 1)
        else:
            kept = BlurEstimate(blur.sigma_px, blur.uncertainty, "frames")
            self._known[self._key] = _Measured(kept, focus, 1)
        if len(self._known) > MOST_STREAMS:
            self._known.popitem(last=False)
        if told is None or beforehand is None or beforehand.source == "stack":
            return blur
        if beforehand.uncertainty > told.blur.uncertainty:
            return blur
        return blur if contradict(beforehand, blur) else replace(blur, source=beforehand.source)


def _formed(seen: BlurEstimate | None, stack: BlurEstimate) -> BlurEstimate | None:
    """The width measured on the frames, with the shape of a self-measured PSF; None if they do not fit."""
    if seen is None or stack.sigma_px < LEAST_STACK_PX:
        return None
    if abs(math.log(seen.sigma_px / stack.sigma_px)) > STACK_AGREES:
        return None
    uncertainty = max(seen.uncertainty, _ONE_FRAME if seen.source == "frame" else 0.0)
    return BlurEstimate(seen.sigma_px, uncertainty, "stack", stack.shape)


def known_blur(told: KnownBlur | None) -> BlurEstimate | None:
    """The blur that the daemon stated for a frame."""
    if told is None:
        return None
    shape = PsfShape(tuple(told.form)) if len(told.form) == len(PsfShape.CYCLES) else None
    return BlurEstimate(told.sigma_px, told.uncertainty, told.source, shape)

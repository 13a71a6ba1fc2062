"""Refocuses frames at the scale of their blur, whose width it measures.

A frame is reduced until its blur has the width that the network is made for, restored there, and
enlarged again.  The network estimates by how much the assumed width was off, and the frame is processed
once more with a width that is more likely too small than too large.  The widths measured in some frames
are used for the next frames of their stream.
"""

from __future__ import annotations

import logging
import math
import time
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from refocusd.engines.engine import BlurEngine, EngineDescription, Network, Refocused
from refocusd.engines.tiling import plan_tiles, reflect_into
from refocusd.errors import EngineError
from refocusd.frame import Pixels
from refocusd.imaging.blur import (
    LEAST_STACK_PX,
    MIN_SIDE_PX,
    STACK_SURE,
    BlurEstimate,
    estimate_blur,
)
from refocusd.imaging.hot_pixels import pixel_noise, without_hot_pixels
from refocusd.imaging.normalise import CountsRange, check_frame, counts_range
from refocusd.imaging.psf_shape import KEPT, KEPT_AT_PX, SURE, equalised
from refocusd.imaging.reduction import Reduction
from refocusd.models.bundle import ModelBundle

log = logging.getLogger(__name__)

Floats = NDArray[np.float32]

#: Outputs of a network that works at the scale of the blur.  Its inputs are the normalised frame and, at every
#: pixel, the logarithm of the blur relative to the width that the network is made for, and the standard
#: uncertainty of that logarithm.
OUTPUTS: tuple[str, ...] = ("refocused", "interval", "blur")
#: A blur whose width minus its standard uncertainty is below this is that of the objective itself: the frame is
#: in focus and passes through.  Of 112 real images said to be in focus, all but two (which are blurred) are below it.
LEAST_BLUR_PX = 1.7
#: A width is reduced by this many of its standard uncertainties, because too wide does more harm than too
#: narrow.  Wide blurs (px), however, are measured too small, by this much (natural logarithm).
CAREFUL = 1.5
SMALL_AT_PX, SMALL = (3.0, 6.0, 9.0), (0.0, 0.1, 0.15)
#: The form of a PSF is used from this width (px) on; narrower blurs gain nothing by it, and are measured too wide.
#: With a form, widths are used as measured, except for a known bias (natural logarithm) at these widths (px).
LEAST_FORM_PX = 5.0
FORM_AT_PX, FORM = (5.0, 7.0, 10.0), (-0.06, -0.01, 0.04)
#: The uncertainty that the network is given for such a width; with a larger one it would guess a wider blur.
TOLD = 0.1
#: Least uncertainty that the network is given for a width measured in a frame.
LEAST_TOLD = 0.15
#: A known width is used for the next frames of its stream until its uncertainty exceeds this, for these widths (px).
STALE_AT_PX, STALE = (3.5, 6.0), (0.4, 0.2)
#: A frame departs from those before it if the network finds the width off by at least this (natural logarithm).
DEPARTED = 0.45
#: A width is measured in at most this many passes, until the network finds it off by less than this (logarithm).
_MOST_LOOKS, _STAYS = 4, 0.1
#: It is measured in a part with this side, px of the reduced frame; a larger part hardly improves it.
_MEASURED_PX = 704
#: If earlier frames of the kind are in focus, a part with this side (px) shows whether another one is.
_FOCUS_PX = 320
#: Uncertainties of a width that networks are trained with.
UNCERTAINTY = (0.03, 0.45)
#: 90 % of a normal distribution lie within this many standard deviations.
_NINETY = 1.645
#: A frame is continued beyond its border by this much, px of the reduced frame.
_AROUND_PX = 16
#: Surroundings that a tile needs, and its largest size, px of the reduced frame.
_HALO_PX, _TILE_PX = 96, 2048
#: A frame with a blur of this fraction of the network's own is not reduced.
_WARM_UP = 0.8
#: Smallest side of a tile, px: if memory runs out even with this, the frame fails.
_LEAST_TILE_PX = 512


@dataclass(frozen=True, slots=True)
class Answer:
    """A network's output for one frame, valid until the next one.

    Parameters
    ----------
    light : ndarray of float32, shape (height, width)
        The refocused frame, normalised like the input.
    interval : ndarray of float32, shape (2, height, width)
        Distances below and above `light` within which 90 % of true pixels lie.
    ratio, uncertainty : float
        True width of the blur over the stated one, and the standard uncertainty of its natural
        logarithm.
    """

    light: Floats
    interval: Floats
    ratio: float
    uncertainty: float


class ScaledEngine(BlurEngine):
    """Refocuses with a model that works at the scale of the blur.

    Parameters
    ----------
    bundle : ModelBundle
        A bundle that states `ModelBundle.fine_sigma_px`.
    network : Network
        Compiled from the bundle, with `OUTPUTS`.  Closed with the engine.
    known : BlurEstimate, optional
        Every frame's blur if it is stated; otherwise it is estimated.

    Raises
    ------
    EngineError
        If the bundle, or the network, is of another kind.
    """

    def __init__(
        self, bundle: ModelBundle, network: Network, known: BlurEstimate | None = None
    ) -> None:
        if bundle.fine_sigma_px is None:
            raise EngineError(f"model {bundle.model_id} does not work at the scale of the blur")
        if missing := set(OUTPUTS) - set(network.outputs):
            raise EngineError(
                f"{network.onnx} has no output {', '.join(sorted(missing))}; export the model again"
            )
        self.bundle = bundle
        self._fine_px = bundle.fine_sigma_px
        self.network = network
        self._places = [network.outputs.index(name) for name in OUTPUTS]
        self._known = known
        self._tile_px = _TILE_PX
        self._closed = False

    @property
    def description(self) -> EngineDescription:
        """What the engine runs, and on which device."""
        return self.network.description

    @property
    def grid(self) -> tuple[float, int]:
        """Width of the blur that the network is made for, px, and the step of the sides that it takes, px."""
        return self._fine_px, self.bundle.size_multiple

    def warm_up(self, shape: tuple[int, int]) -> None:
        """Load the estimator of the blur, and run the network on a flat frame of this shape."""
        ramp = np.arange(shape[0] * shape[1], dtype=np.uint32) % 4096
        frame = ramp.astype(np.uint16).reshape(shape)
        estimate_blur(frame)
        narrow = BlurEstimate(_WARM_UP * self._fine_px, 0.1, "frame")
        for _ in range(2):  # a backend may compile the network for a size that occurs again
            self._restored(frame.astype(np.float32), narrow)

    def refocus(
        self,
        raw: Pixels,
        out: Pixels,
        blur: BlurEstimate | None = None,
        counts: CountsRange | None = None,
    ) -> Refocused:
        """Estimate the in-focus frame into `out`; see `Engine.refocus`.

        `counts` is the range of the image that `raw` is a part of, for a blur from ``optics``.
        """
        check_frame(raw, out)
        if self._closed:
            raise EngineError(f"the engine of {self.bundle.model_id} is closed; build another")
        begun = time.perf_counter()
        # Parts of one image share the width, and so the grid, that they are given.
        stated = self._known if counts is None else None
        if min(raw.shape) < MIN_SIDE_PX or (blur := stated or blur or estimate_blur(raw)) is None:
            np.copyto(out, raw)
            return Refocused(counts_range(raw), (time.perf_counter() - begun) * 1e3, 0)
        frame = without_hot_pixels(raw)
        if blur.source == "optics":
            restored, found = self._restored(frame, blur, counts), blur
        elif (known := self._as_before(frame, blur)) is not None:
            restored, found = known, blur
        else:
            restored = self._measured(frame, replace(blur, shape=None))
            found = replace(restored.blur, source=blur.source, shape=blur.shape)
            if blur.source == "stack" and not _tells_form(found):
                found = replace(found, source="frame", shape=None)
            if not _in_focus(found):
                restored = self._restored(frame, careful(found))
        clipped = 0
        if _in_focus(found):
            np.copyto(out, raw)
        else:
            light = restored.reduction.enlarged(restored.light)
            clipped = restored.counts.restore(light, out)
        engine_ms = (time.perf_counter() - begun) * 1e3
        return Refocused(
            restored.counts, engine_ms, clipped, found, restored.expected_error, restored.interval
        )

    def answer(self, seen: Floats) -> Answer:
        """Run only the network on one frame.

        Parameters
        ----------
        seen : ndarray of float32, shape (1, 3, height, width)
            Its inputs, see `OUTPUTS`.

        Raises
        ------
        MemoryError, EngineError
            See `Network.run`.
        """
        found = self.network.run(seen)
        light, interval, blur = (found[place] for place in self._places)
        if light.shape != (1, 1, *seen.shape[2:]):
            raise EngineError(
                f"{self.network.onnx} returned {light.shape} for {seen.shape}; it does not work at the "
                "scale of the blur"
            )
        return Answer(light[0, 0], interval[0], float(blur[0, 0]), float(blur[0, 1]))

    def close(self) -> None:
        """Free the device."""
        self._closed = True
        self.network.close()

    def _as_before(self, frame: Floats, blur: BlurEstimate) -> _Restored | None:
        """Restore a frame with the width known beforehand; None if that is too uncertain, or does not fit the frame."""
        stale = float(np.interp(blur.sigma_px, STALE_AT_PX, STALE))
        if blur.shape is not None:
            # The form helps only with a width that was measured recently.
            stale = min(stale, STACK_SURE if blur.source == "stack" else SURE)
        if blur.source == "frame" or blur.uncertainty > stale:
            return None
        # Frames in focus pass through, so a part is enough to see whether this one is in focus, too.
        seen = _busiest(frame, _FOCUS_PX) if _in_focus(blur) else frame
        restored = self._restored(seen, careful(blur))
        return restored if abs(restored.off) < DEPARTED else None

    def _measured(self, frame: Floats, blur: BlurEstimate) -> _Restored:
        """Measure the width with the network, each time from the last result, until it hardly changes."""
        for _ in range(_MOST_LOOKS):
            side_px = math.ceil(_MEASURED_PX * max(1.0, blur.sigma_px / self._fine_px))
            restored = self._restored(_busiest(frame, side_px), blur)
            if abs(restored.off) < _STAYS:
                break
            blur = replace(restored.blur, uncertainty=max(restored.blur.uncertainty, LEAST_TOLD))
        return restored

    def _restored(
        self, frame: Floats, blur: BlurEstimate, counts: CountsRange | None = None
    ) -> _Restored:
        """Reduce a frame and run the network on it, with an assumed blur."""
        kept = 1.0 if blur.shape is None else float(np.interp(blur.sigma_px, KEPT_AT_PX, KEPT))
        reduction = Reduction.to_blur(frame.shape, kept * blur.sigma_px, self._fine_px)
        reduced = reduction.reduced(frame)
        sigma = kept * blur.sigma_px / reduction.factor
        if blur.shape is not None:
            noise = pixel_noise(frame) / reduction.factor
            reduced = equalised(reduced, sigma / kept, blur.shape, kept, noise)
        counts = counts or _range_of(reduced)
        light = (reduced - np.float32(counts.offset)) * np.float32(1 / counts.scale)
        told = (math.log(sigma / self._fine_px), float(np.clip(blur.uncertainty, *UNCERTAINTY)))
        answer = self._run(light, told)
        found = BlurEstimate(blur.sigma_px * answer.ratio, answer.uncertainty, "frame")
        interval = answer.interval * np.float32(counts.scale)
        half = interval.mean(axis=0)
        expected = math.sqrt(float(np.vdot(half, half)) / half.size) / _NINETY
        return _Restored(
            answer.light, counts, reduction, math.log(answer.ratio), found, expected, interval
        )

    def _run(self, frame: Floats, told: tuple[float, float]) -> Answer:
        """Run the network on a frame of any size, in smaller tiles if memory runs out."""
        while True:
            try:
                return self._in_tiles(frame, told)
            except MemoryError as error:
                if self._tile_px <= _LEAST_TILE_PX:
                    raise EngineError(
                        f"the memory ran out for model {self.bundle.model_id} with "
                        f"{self._tile_px}×{self._tile_px} px at a time, the least possible; close other "
                        "programs"
                    ) from error
                self._tile_px //= 2
                log.warning("the memory ran out; from now on in tiles of %d px", self._tile_px)

    def _in_tiles(self, frame: Floats, told: tuple[float, float]) -> Answer:
        # By reflection, a blurred object at the border would get a sharp edge, and the network would
        # find a blur of half the width.
        around = np.pad(frame, _AROUND_PX, mode="edge")
        multiple = self.bundle.size_multiple
        tiles = plan_tiles(around.shape, self._tile_px, _HALO_PX, multiple)
        light = np.empty_like(around)
        interval = np.empty((2, *around.shape), np.float32)
        ratios, uncertainties = [], []
        for tile in tiles:
            seen = np.empty((1, 3, *tile.shape), np.float32)
            part = around[tile.read]
            seen[0, 0, : part.shape[0], : part.shape[1]] = part
            reflect_into(seen[0, 0], part.shape)
            seen[0, 1], seen[0, 2] = told
            answer = self.answer(seen)
            if not (0 < answer.ratio < math.inf and 0 < answer.uncertainty < math.inf):
                raise EngineError(
                    f"model {self.bundle.model_id} returned a blur that is not finite; set precision "
                    "to f32, or use another model"
                )
            light[tile.write] = answer.light[tile.crop]
            interval[:, *tile.write] = answer.interval[:, *tile.crop]
            ratios.append(math.log(answer.ratio))
            uncertainties.append(answer.uncertainty)
        weights = np.array(uncertainties) ** -2.0
        inner = (slice(_AROUND_PX, -_AROUND_PX),) * 2
        return Answer(
            np.ascontiguousarray(light[inner]),
            interval[:, *inner],
            math.exp(float(np.average(ratios, weights=weights))),
            float(np.mean(uncertainties)),
        )


@dataclass(frozen=True, slots=True)
class _Restored:
    """The result of one pass: the reduced frame, its scale, and the blur that the network found."""

    light: Floats
    counts: CountsRange
    reduction: Reduction
    off: float
    blur: BlurEstimate
    expected_error: float
    interval: Floats


def _busiest(frame: Floats, side_px: int) -> Floats:
    """The part of the frame with the most structure, among parts with at most this side."""
    cuts = [
        [slice(int(at), int(at) + side_px) for at in np.linspace(0, side - side_px, count)]
        if (count := math.ceil(side / side_px)) > 1
        else [slice(None)]
        for side in frame.shape
    ]
    parts = [frame[rows, columns] for rows in cuts[0] for columns in cuts[1]]
    return max(parts, key=lambda part: float(np.std(part[::4, ::4]))) if len(parts) > 1 else frame


def _in_focus(blur: BlurEstimate) -> bool:
    """Whether the frame may be as sharp as its objective allows; a width that a person stated is trusted."""
    narrowest = blur.sigma_px * math.exp(-blur.uncertainty)
    return blur.source != "optics" and narrowest < LEAST_BLUR_PX


def _tells_form(blur: BlurEstimate) -> bool:
    """Whether the form of a self-measured PSF may be used with a width measured in the frame."""
    return blur.uncertainty <= STACK_SURE and blur.sigma_px >= LEAST_STACK_PX


def careful(blur: BlurEstimate) -> BlurEstimate:
    """The blur to assume for a frame: too narrow a width does little harm, too wide a one makes rims.

    If the width is well known, the form of the PSF is used, too, and the width is not reduced.
    """
    if blur.shape is not None and blur.uncertainty <= SURE and blur.sigma_px >= LEAST_FORM_PX:
        off = float(np.interp(blur.sigma_px, FORM_AT_PX, FORM))
        return replace(blur, sigma_px=blur.sigma_px * math.exp(off), uncertainty=TOLD)
    small = float(np.interp(blur.sigma_px, SMALL_AT_PX, SMALL))
    width = blur.sigma_px * math.exp(small - CAREFUL * blur.uncertainty)
    return replace(blur, sigma_px=width, uncertainty=TOLD, shape=None)


def _range_of(reduced: Floats) -> CountsRange:
    """Offset and scale from percentiles 1 and 99.9, as in training."""
    step = max(1, math.isqrt(reduced.size >> 17))
    low, high = np.percentile(reduced[::step, ::step], (1, 99.9))
    return CountsRange(float(low), max(float(high - low), 1.0))

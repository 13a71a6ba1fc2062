"""Makes refocused frames whose truth is known, with the evidence for their errors."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from refocusd.engines.engine import Engine
from refocusd.imaging.field_evidence import MIN_SIDE_PX, FieldEvidence, examine_field
from refocusd.imaging.pair_evidence import PairEvidence, examine_pair
from refocusd.imaging.quality import BORDER, psnr
from refocusd_training.blur.frames import Exposure, SharpImage, expose
from refocusd_training.blur.psfs import FAMILIES, HELD_OUT, transfer_functions

#: Number of pixels of a frame on which intervals are fitted.
PIXELS = 100


@dataclass(frozen=True, slots=True, eq=False)
class Outcome:
    """The result of one engine for a frame.

    Parameters
    ----------
    pair : PairEvidence
    error : float
        See `relative_error`.
    off, light : ndarray of float32, shape (pixels,)
        Absolute error of some pixels, and their light above the offset by which the frame was
        normalised, counts.
    """

    pair: PairEvidence
    error: float
    off: NDArray[np.float32]
    light: NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class Example:
    """One simulated frame.

    Parameters
    ----------
    sigma_px : float
        Width of its blur.
    test : bool
        Whether its specimen or the family of its PSF is kept for testing.
    field : FieldEvidence
    raw_error : float
        `relative_error` of the raw frame.
    outcomes : mapping of str to Outcome
        Results by engine.
    """

    sigma_px: float
    test: bool
    field: FieldEvidence
    raw_error: float
    outcomes: Mapping[str, Outcome]


def relative_error(frame: NDArray[np.generic], truth: NDArray[np.float32]) -> float:
    """Root mean square error after the best offset and gain, over the truth's range."""
    return float(10 ** (-psnr(frame, truth, affine=True) / 20))


def examples(
    images: Sequence[SharpImage],
    engines: Mapping[str, Engine],
    count: int,
    seed: int,
    minutes: float = math.inf,
) -> Iterator[Example]:
    """Yield frames of sharp images that are blurred by up to 42 px and refocused by each engine.

    Parameters
    ----------
    images : sequence of SharpImage
    engines : mapping of str to Engine
    count, seed : int
    minutes : float
        Time limit.
    """
    until = time.monotonic() + 60 * minutes
    rng = np.random.default_rng(seed)
    transfers = {family: transfer_functions(family, 60, rng) for family in FAMILIES}
    chances = np.array([image.weight for image in images])
    made = 0
    while made < count and time.monotonic() < until:
        one, other = rng.choice(len(images), 2, p=chances / chances.sum())
        family = FAMILIES[rng.integers(len(FAMILIES))]
        exposure = expose(images[one], images[other], transfers[family], rng)
        if exposure is None or min(exposure.frame.shape) < MIN_SIDE_PX + 2 * BORDER:
            continue
        made += 1
        held_out = images[one].test or family in HELD_OUT
        yield _example(exposure, engines, held_out, np.random.default_rng(made))


def _example(
    exposure: Exposure, engines: Mapping[str, Engine], test: bool, rng: np.random.Generator
) -> Example:
    raw = exposure.frame
    field = examine_field(raw)
    assert field is not None
    rows, columns = (rng.integers(BORDER, side - BORDER, PIXELS) for side in raw.shape)
    truth = exposure.truth[rows, columns]
    outcomes = {}
    for name, engine in engines.items():
        out = np.empty_like(raw)
        found = engine.refocus(raw, out)
        pair = examine_pair(field, raw, out, found.blur, found.expected_error, found.interval)
        seen = out[rows, columns].astype(np.float32)
        outcomes[name] = Outcome(
            pair,
            relative_error(out, exposure.truth),
            np.abs(seen - truth),
            np.maximum(seen - np.float32(found.counts.offset), 0),
        )
    return Example(exposure.sigma_px, test, field, relative_error(raw, exposure.truth), outcomes)


def other_looks(
    transmitted_light: Sequence[NDArray[np.generic]], count: int, seed: int
) -> dict[str, NDArray[np.float32]]:
    """`FieldEvidence.looks` of pictures of other kinds, one per row, by kind.

    Parameters
    ----------
    transmitted_light : sequence of ndarray
        Real pictures in transmitted light; without any, this kind is left out.
    count : int
        Number of pictures of each kind.
    seed : int
    """
    from refocusd_training.trust import pictures

    rng = np.random.default_rng(seed)
    kinds = {
        "photographs": pictures.photograph,
        "checkerboards": pictures.checkerboard,
        "brightfield": pictures.brightfield,
        "noise": pictures.clouds,
    }
    if transmitted_light:
        images = [np.asarray(image, np.float32) for image in transmitted_light]
        kinds["phase contrast"] = lambda rng: pictures.transmitted(images, rng)
    found = {}
    for name, draw in kinds.items():
        fields = [examine_field(draw(rng)[0]) for _ in range(count)]
        found[name] = np.stack([field.looks for field in fields if field is not None])
    return found

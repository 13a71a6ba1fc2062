"""Evaluates real frames: a user's own pair, and the published protocol."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import track

from refocusd.errors import InputError
from refocusd.frame import Pixels
from refocusd.imaging.normalise import counts_range
from refocusd.imaging.optics import Optics
from refocusd_training.data.images import read_image
from refocusd_training.evaluation.methods import Exposure, Method, applies
from refocusd_training.evaluation.results import AS_TAKEN, Judge, Result, measure

REAL_DEFINITION = (
    "PSNR in dB over the whole frame less a 16 px border; range = 0.1-99.9 percentile of the truth; "
    "truth = the frame taken in focus, with its noise, onto which every result is registered; "
    "'affine' after the least-squares offset and gain"
)


@dataclass(frozen=True, slots=True)
class Pair:
    """A frame out of focus and the frame in focus of the same field.

    Parameters
    ----------
    specimen, group : str
        Field and its origin.
    raw, truth : ndarray of uint8 or uint16, shape (height, width)
    channel : str
    pixel_um : float
    defocus_um : float or None
        Defocus; None if it is not known.
    optics : Optics or None
        Nominal optics, with which the oracles deconvolve.
    setting : str
        `AS_TAKEN`, or `THROUGH_FOCUS` for the planes of a stack.
    """

    specimen: str
    group: str
    raw: Pixels
    truth: Pixels
    channel: str
    pixel_um: float
    defocus_um: float | None = None
    optics: Optics | None = None
    setting: str = AS_TAKEN

    @property
    def exposure(self) -> Exposure:
        """Convert the pair to the exposure that methods take."""
        return Exposure(
            self.raw,
            self.truth.astype(np.float32),
            counts_range(self.raw),
            self.pixel_um,
            self.optics,
            self.defocus_um,
        )


def pair_of_files(raw: Path, truth: Path, *, channel: str, pixel_um: float) -> Pair:
    """Read a user's own pair.

    Parameters
    ----------
    raw, truth : Path
        Grey PNG or TIFF images of the same field, uint8 or uint16.
    channel : str
    pixel_um : float

    Raises
    ------
    InputError
        If one cannot be read, or they differ in shape or type.
    """
    frames = [np.ascontiguousarray(read_image(path)) for path in (raw, truth)]
    if frames[0].shape != frames[1].shape or frames[0].dtype != frames[1].dtype:
        raise InputError(
            f"{raw} has shape {frames[0].shape} and type {frames[0].dtype}, {truth} has "
            f"{frames[1].shape} and {frames[1].dtype}: give two frames of one camera and field"
        )
    if min(frames[0].shape) < 64:
        raise InputError(f"{raw} has shape {frames[0].shape}: give frames of at least 64 px a side")
    return Pair(raw.name, "own", frames[0], frames[1], channel, pixel_um)


def evaluate_pairs(
    pairs: Sequence[Pair], methods: Sequence[Method], judge: Judge | None = None
) -> list[Result]:
    """Apply every method to every pair; results are registered to the truth.

    Parameters
    ----------
    pairs : sequence of Pair
    methods : sequence of Method
        Those that need optics and defocus are left out for pairs that have none.
    judge : callable, optional
        See `measure`.
    """
    results: list[Result] = []
    for pair in track(pairs, "evaluating", console=Console(stderr=True)):
        um = math.nan if pair.defocus_um is None else abs(pair.defocus_um)
        results += measure(
            pair.exposure,
            [method for method in methods if applies(method, pair.exposure)],
            (pair.specimen, pair.group, pair.setting, um),
            channel=pair.channel,
            simulated=False,
            judge=judge,
        )
    return results

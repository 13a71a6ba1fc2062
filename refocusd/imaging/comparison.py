"""Compares refocused frames with the known in-focus plane, singly and as means per defocus."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refocusd.frame import Pixels
from refocusd.imaging.quality import compare, focus_score

#: Figures of the comparison: heading in the table, key in JSON, digits in both.
QUALITIES = (
    ("PSNR dB", "psnr_db", ".1f", ".3f"),
    ("affine dB", "psnr_affine_db", ".1f", ".3f"),
    ("SSIM", "ssim", ".2f", ".4f"),
    ("Pearson", "pearson", ".2f", ".4f"),
    ("focus score", "focus_score", ".2g", ".4g"),
)


@dataclass(frozen=True, slots=True)
class Comparison:
    """Raw and refocused frames compared with the in-focus plane: one frame, or the mean of a level.

    Parameters
    ----------
    level : float
        Distance from focus.
    before, after : ndarray of float64, shape (5,)
        Of the raw and of the refocused frame, in the order of the table: PSNR and affine PSNR (dB),
        SSIM, Pearson correlation, focus score.
    frames : int
    """

    level: float
    before: NDArray[np.float64]
    after: NDArray[np.float64]
    frames: int = 1

    def as_json(self, unit: str) -> dict[str, Any]:
        """The figures with their units in the keys."""
        figures: dict[str, Any] = {f"defocus_{unit}": self.level, "frames": self.frames}
        for index, (_, key, _, digits) in enumerate(QUALITIES):
            for when, values in (("before", self.before), ("after", self.after)):
                figures[f"{key}_{when}"] = float(format(values[index], digits))
        return figures


def by_level(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """Means for each level, in order of the level."""
    levels = []
    for level in sorted({c.level for c in comparisons}):
        own = [c for c in comparisons if c.level == level]
        before, after = _mean([c.before for c in own]), _mean([c.after for c in own])
        levels.append(Comparison(level, before, after, len(own)))
    return levels


def compare_frames(
    level: float, raw: Pixels, refocused: Pixels, truth: NDArray[Any], *, register: bool
) -> Comparison:
    """Compare one frame before and after with the in-focus plane.

    Parameters
    ----------
    level : float
        Distance of the frame from the in-focus plane.
    raw, refocused : ndarray of uint8 or uint16
    truth : ndarray
        The in-focus plane, same shape.
    register : bool
        Shift both onto the truth first, because a real stage drifts between planes.
    """

    def figures(pixels: Pixels) -> NDArray[np.float64]:
        q = compare(pixels, truth, register=register)
        return np.array([q.psnr_db, q.psnr_affine_db, q.ssim, q.pearson, focus_score(pixels)])

    return Comparison(level, figures(raw), figures(refocused))


def _mean(rows: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    """Column means.

    A frame equal to the truth has an infinite PSNR, which would hide the others.
    """
    values = np.array(rows)
    finite = np.isfinite(values)
    means: NDArray[np.float64] = values.mean(0, where=finite | ~finite.any(0))
    return means

"""Checks of a camera series, each with advice if it fails."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from refocusd.profiles.profile import CameraSection, Check, Measured
from refocusd_calibration.camera.levels import LevelStatistics
from refocusd_calibration.camera.maps import FlatField
from refocusd_calibration.camera.photon_transfer import Line, Saturation, read_noise
from refocusd_calibration.measurement import check

#: Dark signal above this is due to light, or to a sensor that is far too warm (electrons per second).
MOST_DARK_E_PER_S = 100.0
#: ... and so is a dark signal above this share of the flat light's.
MOST_DARK_SHARE = 0.005
#: Largest relative change of the light of the flat series at one exposure.
MOST_LIGHT_CHANGE = 0.02
#: Largest correlation of neighbours in the difference of two frames.
MOST_STRUCTURE = 0.1
#: Largest linearity error, percent, and largest relative deviation of the variance from its line.
MOST_NONLINEARITY = 2.0
MOST_CURVATURE = 0.05
#: Largest share of defective pixels, and largest spread of the pixels' responses.
MOST_DEFECTS = 0.01
MOST_PRNU = 0.05
#: Largest share of dark pixels at zero counts.
MOST_CLIPPED = 0.001


@dataclass(frozen=True, slots=True)
class Findings:
    """The measured properties of a camera.

    Parameters
    ----------
    dark, lit, fitted : sequence of LevelStatistics
        Dark levels, lit levels, and the lit levels to which the line was fitted.
    line : Line
    offset : Measured
        Counts without exposure.
    dark_rate : Measured or None
        Dark signal, counts per millisecond.
    saturation : Saturation
    field : FlatField
    defects : ndarray of bool, shape (height, width)
    shortest_dark : LevelStatistics
    """

    dark: Sequence[LevelStatistics]
    lit: Sequence[LevelStatistics]
    fitted: Sequence[LevelStatistics]
    line: Line
    offset: Measured
    dark_rate: Measured | None
    saturation: Saturation
    field: FlatField
    defects: NDArray[np.bool_]
    shortest_dark: LevelStatistics


def camera_checks(section: CameraSection, found: Findings) -> list[Check]:
    """Judge a measurement."""
    return [
        _dark_clipping(found),
        _light_leak(section, found),
        _dark_drift(found),
        _light(found),
        _specimen(found),
        _response(found),
        _range(found),
        _linearity(section),
        _curvature(found),
        _defects(section),
        _read_noise(found),
    ]


def _dark_clipping(f: Findings) -> Check:
    share = max(1 - level.share_at_or_above(1) for level in f.dark)
    return check(
        "dark clipping",
        share <= MOST_CLIPPED,
        f"{100 * share:.3g} % of the dark pixels are at zero counts",
        "raise the camera's offset, because it cuts off the noise",
    )


def _light_leak(section: CameraSection, f: Findings) -> Check:
    advice = "close the shutter, cover the camera and switch off the room light"
    offset = f.offset.value
    if f.dark_rate is None:
        # With one exposure, only the size of the signal tells light from offset.
        share = offset / f.saturation.counts
        detail = f"one dark exposure, at {100 * share:.1f} % of the scale; take several to be sure"
        return check("light leak", share < 0.25, detail, advice)
    gain = section.gain_e_per_count.value
    rate, error = f.dark_rate.value * gain * 1000, f.dark_rate.uncertainty * gain * 1000
    brightest = max(f.fitted, key=lambda level: level.mean)
    of_flat = (brightest.mean - offset) / brightest.exposure_ms * gain * 1000
    low = rate - 2 * error
    uneven = _uneven(f)
    passed = low <= MOST_DARK_E_PER_S and low <= MOST_DARK_SHARE * of_flat and not uneven
    detail = f"dark signal {rate:.3g} e-/s, {100 * rate / of_flat:.2g} % of the flat light's"
    if uneven:
        detail += ", and it is brighter in one part of the field than in another"
    return check("light leak", passed, detail, advice)


def _uneven(f: Findings) -> bool:
    """Whether the dark signal (longest minus shortest exposure) varies over the field."""
    longest = max(f.dark, key=lambda level: level.exposure_ms)
    if longest is f.shortest_dark:
        return False
    signal = longest.mean_map - f.shortest_dark.mean_map
    parts = 4
    height, width = (side // parts * parts for side in signal.shape)
    tiles = signal[:height, :width].reshape(parts, height // parts, parts, width // parts)
    # Medians ignore hot pixels.
    centres = np.median(tiles.transpose(0, 2, 1, 3).reshape(parts * parts, -1), axis=1)
    per_tile = height * width / parts**2
    error = 1.25 * math.sqrt(
        (longest.variance / longest.frames + f.shortest_dark.variance / f.shortest_dark.frames)
        / per_tile
    )
    spread = float(np.ptp(centres))
    # If the noise is small, rounding shifts medians by up to a count.
    return spread > max(0.5 * abs(float(centres.mean())), 12 * error, 2.0)


def _dark_drift(f: Findings) -> Check:
    noise = math.sqrt(f.shortest_dark.variance)
    worst = max(float(np.ptp(level.frame_means)) for level in f.dark)
    return check(
        "dark drift",
        worst <= max(0.5 * noise, 1.0),
        f"the mean of dark frames varies by {worst:.2g} counts at one exposure",
        "a changing light leaks in, or the camera is warming up; wait, cover it, repeat",
    )


def _light(f: Findings) -> Check:
    offset = f.offset.value
    worst = 0.0
    for level in f.fitted:
        signal = level.mean - offset
        chance = 6 * math.sqrt(level.variance / level.pixels)
        worst = max(worst, (float(np.ptp(level.frame_means)) - chance) / signal)
    return check(
        "light",
        worst <= MOST_LIGHT_CHANGE,
        f"the flat light varies by {100 * worst:.2g} % at one exposure",
        "let the lamp warm up, use a steady one (LED), and keep out other light",
    )


def _specimen(f: Findings) -> Check:
    worst = max(f.fitted, key=lambda level: level.structure - 5 * level.structure_error)
    return check(
        "movement",
        worst.structure <= max(MOST_STRUCTURE, 5 * worst.structure_error),
        f"differences between frames of one exposure have a correlation between neighbours of {worst.structure:.2f}",
        "something moves in the flat field; take it without a specimen",
    )


def _response(f: Findings) -> Check:
    return check(
        "response",
        f.field.prnu <= MOST_PRNU,
        f"pixels respond alike within {100 * f.field.prnu:.2f} %",
        "the flat field shows a specimen or dirt; defocus or remove it",
    )


def _range(f: Findings) -> Check:
    shot = max(level.variance for level in f.fitted) - f.line.intercept.value
    top = max(level.mean for level in f.fitted)
    reached = "reached" if f.saturation.reached else "not reached"
    return check(
        "range",
        shot >= 3 * f.line.intercept.value,
        f"{len(f.fitted)} flat exposures fitted, up to {top:.0f} counts; saturation at "
        f"{f.saturation.counts:.0f} counts is {reached}",
        "the flat frames are too dim: read noise dominates; expose longer",
    )


def _linearity(section: CameraSection) -> Check:
    error = section.linearity_error_percent
    if error is None:
        return check(
            "linearity", True, "there are too few exposures between 5 and 95 % of saturation"
        )
    return check(
        "linearity",
        error <= MOST_NONLINEARITY,
        f"mean against exposure deviates by {error:.2f} % from a line",
        "the camera is not linear in this mode, or the light changed between exposures",
    )


def _curvature(f: Findings) -> Check:
    offset = f.offset.value
    worst = 0.0
    for level in f.fitted:
        expected = float(f.line.at(np.array([level.mean - offset]))[0])
        chance = 3 * math.sqrt(2 / ((level.frames - 1) * level.pixels))
        worst = max(worst, abs(level.variance - expected) / expected - chance)
    return check(
        "photon transfer",
        worst <= MOST_CURVATURE,
        f"variances deviate by up to {100 * worst:.1f} % from the line",
        "the camera is not linear (a high-dynamic-range mode, a gamma, a filter), or the frames at "
        "one exposure do not belong together",
    )


def _defects(section: CameraSection) -> Check:
    height, width = section.shape
    share = section.hot_pixel_count / (height * width)
    return check(
        "defects",
        share <= MOST_DEFECTS,
        f"{section.hot_pixel_count} defective pixels ({100 * share:.3f} %)",
        "cool the camera, and make sure that no light leaks in",
    )


def _read_noise(f: Findings) -> Check:
    resolved = read_noise(f.line)[1]
    detail = (
        "above the rounding"
        if resolved
        else "hidden by the rounding to counts: an upper limit only"
    )
    return check("read noise", True, detail)

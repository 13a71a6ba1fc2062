"""Measures a camera from dark and lit (flat) frames, by the definitions of EMVA 1288.

Deliberate differences from the standard: frames are scaled to the same brightness before their
variance is computed (a flickering lamp is not camera noise); if there are more than two frames, all
of them are used; defective pixels are left out of all averages; dark levels are included in the line
that is fitted; saturation is the value at which pixels stop rising, not the maximum of the variance
slightly below it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from refocusd.errors import InputError
from refocusd.profiles.profile import CameraSection, Measured
from refocusd_calibration.camera.checks import Findings, camera_checks
from refocusd_calibration.camera.levels import LevelStatistics, level_statistics
from refocusd_calibration.camera.maps import (
    OFFSET_FRAMES,
    VARIANCE_FRAMES,
    FlatField,
    dead_pixels,
    dsnu_counts,
    flat_field,
    gain_map,
    hot_pixels,
    noisy_pixels,
)
from refocusd_calibration.camera.photon_transfer import (
    dark_line,
    find_saturation,
    fit_transfer,
    fitted_levels,
    linearity_error_percent,
    read_noise,
)
from refocusd_calibration.camera.series import Series
from refocusd_calibration.estimates import measured
from refocusd_calibration.measurement import Measurement
from refocusd_calibration.profile.write import Map

#: Fewest lit levels with which the fit of the line can be judged.
FEWEST_LEVELS = 4
#: A profile lists at most this many defective pixels, the hottest first; the maps contain all.
LISTED_PIXELS = 5000


@dataclass(frozen=True, slots=True, kw_only=True)
class CameraMeasurement(Measurement):
    """The result of `measure_camera`."""

    section: CameraSection


def measure_camera(dark: Series, flat: Series) -> CameraMeasurement:
    """Measure a camera.

    Memory does not grow with the number of frames: about ten maps of the camera's size are held.

    Parameters
    ----------
    dark : Series
        Without light; two or more frames at each exposure, and several exposures for the
        dark current.
    flat : Series
        Under steady, even light; two or more frames at each of four or more exposures
        up to saturation.

    Returns
    -------
    CameraMeasurement

    Raises
    ------
    InputError
        If no measurement is possible at all: series swapped, sizes mixed, too few
        frames or levels, all saturated, or no light.
    """
    _check_series(dark, flat)
    bad, dark_levels = _dark(dark)
    shortest = min(dark_levels, key=lambda level: level.exposure_ms)
    offset, dark_rate = dark_line(dark_levels)
    lit = _lit(flat, offset.value, bad)
    _check_light(lit, shortest)
    saturation = find_saturation(lit, offset.value, flat.bits, flat.largest_count)
    fitted = fitted_levels(lit, offset.value, saturation)
    if len(fitted) < FEWEST_LEVELS:
        raise InputError(
            f"{len(lit) - len(fitted)} of {len(lit)} flat exposures are saturated (near "
            f"{saturation.counts:.0f} counts), and {len(fitted)} are left; {FEWEST_LEVELS} are needed "
            "below 70 % of saturation: take shorter exposures or less light"
        )
    line = fit_transfer([*dark_levels, *fitted], offset.value)
    if line.slope.value <= 3 * line.slope.uncertainty:
        raise InputError(
            "the noise of the flat frames does not grow with the light, so the gain cannot be "
            "measured: check that they are not averaged, denoised, compressed, or as dark as the dark frames"
        )
    field = flat_field(flat.levels, fitted, shortest, offset.value, bad)
    gains = gain_map(flat.levels, fitted, shortest, line, offset.value, bad)
    defects = bad | dead_pixels(field)
    found = Findings(
        dark_levels, lit, fitted, line, offset, dark_rate, saturation, field, defects, shortest
    )
    section = _section(found)
    return CameraMeasurement(
        section=section,
        checks=tuple(camera_checks(section, found)),
        maps=_maps(shortest, offset.value, field, gains),
    )


def _check_series(dark: Series, flat: Series) -> None:
    if dark.shape != flat.shape or dark.largest_count != flat.largest_count:
        raise InputError(
            f"the dark frames are {dark.shape[1]}×{dark.shape[0]} px and the flat ones "
            f"{flat.shape[1]}×{flat.shape[0]} px, or their types differ: take both with one camera "
            "region, binning and pixel type"
        )
    for what, series in (("dark", dark), ("flat", flat)):
        few = [level for level in series.levels if level.count < 2]
        if few:
            raise InputError(
                f"the {what} series has one frame at {few[0].exposure_ms:g} ms: the noise needs two or "
                "more at each exposure"
            )
    if len(flat.levels) < FEWEST_LEVELS:
        raise InputError(
            f"the flat series has {len(flat.levels)} exposures; the photon-transfer curve needs "
            f"{FEWEST_LEVELS} or more, from dim to nearly saturated"
        )


def _dark(dark: Series) -> tuple[NDArray[np.bool_], list[LevelStatistics]]:
    """Defective pixels at the longest exposure, and statistics of the other pixels."""
    longest = level_statistics(dark.levels[-1])
    bad = hot_pixels(longest) | noisy_pixels(longest)
    if bad.mean() > 0.5:
        raise InputError("more than half of the pixels are hot: these are not dark frames")
    levels: list[LevelStatistics] = []
    for level in dark.levels:
        # Only the maps of the shortest and of the longest exposure are needed.
        levels[1:] = map(_without_maps, levels[1:])
        levels.append(level_statistics(level, bad=bad))
    return bad, levels


def _lit(flat: Series, offset: float, bad: NDArray[np.bool_]) -> list[LevelStatistics]:
    """Statistics of the lit levels; only those of the brightest keep their maps."""
    found: list[LevelStatistics] = []
    for level in flat.levels:
        found.append(level_statistics(level, offset=offset, bad=bad))
        brightest = max(found, key=lambda level: level.mean)
        found = [item if item is brightest else _without_maps(item) for item in found]
    return found


def _without_maps(level: LevelStatistics) -> LevelStatistics:
    nothing = np.zeros((0, 0))
    return replace(level, mean_map=nothing, variance_map=nothing)


def _check_light(lit: list[LevelStatistics], dark: LevelStatistics) -> None:
    brightest = max(level.mean for level in lit)
    noise = math.sqrt(dark.variance)
    if brightest - dark.mean < 3 * noise + 2:
        raise InputError(
            f"the flat frames are as dark as the dark ones ({brightest:.1f} and {dark.mean:.1f} counts): "
            "open the shutter, switch the light on, or give the dark series first and the flat second"
        )


def _section(f: Findings) -> CameraSection:
    slope, saturation = f.line.slope, f.saturation
    gain = measured(1 / slope.value, slope.uncertainty / slope.value**2)
    noise, _ = read_noise(f.line)
    error = math.hypot(saturation.uncertainty, f.offset.uncertainty)
    well = measured(saturation.counts - f.offset.value, error)
    used = {id(level) for level in (*f.dark, *f.fitted)}
    points = sorted((*f.dark, *f.lit), key=lambda level: level.mean)
    defects = np.argwhere(f.defects)
    heat = f.shortest_dark.mean_map[f.defects]
    hottest = defects[np.argsort(-heat, kind="stable")][:LISTED_PIXELS]
    return CameraSection(
        offset_counts=f.offset,
        gain_e_per_count=gain,
        read_noise_e=noise,
        dark_current_e_per_s=_product(f.dark_rate, gain, 1000.0) if f.dark_rate else None,
        full_well_e=_product(well, gain) if saturation.reached else None,
        saturation_counts=saturation.counts,
        linearity_error_percent=linearity_error_percent(f.lit, f.offset.value, saturation),
        prnu_percent=100 * f.field.prnu,
        dsnu_e=dsnu_counts(f.shortest_dark, f.defects) * gain.value,
        hot_pixels=[(int(y), int(x)) for y, x in hottest],
        hot_pixel_count=len(defects),
        ptc_mean_counts=[level.mean - f.offset.value for level in points],
        ptc_variance_counts2=[level.variance for level in points],
        ptc_fitted=[id(level) in used for level in points],
        shape=(f.defects.shape[0], f.defects.shape[1]),
    )


def _product(a: Measured, b: Measured, scale: float = 1.0) -> Measured:
    uncertainty = math.hypot(a.uncertainty * b.value, a.value * b.uncertainty)
    return measured(a.value * b.value, uncertainty, scale)


def _maps(
    dark: LevelStatistics,
    offset: float,
    field: FlatField,
    gains: NDArray[np.float64] | None,
) -> dict[str, Map]:
    maps = {"flat": Map(field.stored.astype(np.float32), "1")}
    if dark.frames >= OFFSET_FRAMES:
        # The mean dark current of the shortest exposure is subtracted.
        values = dark.mean_map - dark.mean + offset
        maps["offset"] = Map(values.astype(np.float32), "counts")
    if dark.frames >= VARIANCE_FRAMES:
        maps["variance"] = Map(dark.variance_map.astype(np.float32), "counts^2")
    if gains is not None:
        maps["gain"] = Map(gains.astype(np.float32), "e-/count")
    return maps

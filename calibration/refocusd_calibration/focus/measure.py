"""Through-focus measurement: from sweeps to a profile's focus section and its checks.

How the numbers are computed
----------------------------
- A sweep's curve is the mean of a metric over the tiles with content.
- One metric decides (`choose_metric`); its peak is fitted between planes (`peak`).
- Sweeps are aligned by their own best focus, whose differences give backlash, drift
  and repeatability of the stage (`stage_motion`).
- All planes together give the best focus by each metric and of each tile, and from the tiles the
  focal surface (`surface`).

The uncertainty of best focus is the larger of that of a jackknife over groups of tiles (noise and
specimen) and that of the fit (planes at a wrong position), combined with
the spread over models and the scatter between sweeps.

Depth of field is the full width within which the deciding metric keeps 80 % of its
peak.  A quarter wave of defocus, wavelength · n / (2 NA²), takes 19 % from a point's
peak intensity, so for point-like content and a metric that follows intensity it is
wavelength · n / NA²; metrics that are quadratic in the contrast of fine structure give less, coarse
structure and large pixels give more.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from refocusd.errors import InputError
from refocusd.profiles.profile import CameraSection, FocusSection, Measured
from refocusd_calibration.estimates import jackknife, measured
from refocusd_calibration.focus.checks import FocusFindings, check_focus, refuse_still
from refocusd_calibration.focus.choose_metric import (
    MetricFigures,
    choose_metric,
    is_inside,
    judge_metric,
)
from refocusd_calibration.focus.metrics import METRICS
from refocusd_calibration.focus.peak import Peak, fit_peak
from refocusd_calibration.focus.stage_motion import Passage, StageMotion, fit_motion
from refocusd_calibration.focus.surface import FocalSurface, fit_surface
from refocusd_calibration.focus.table import FocusTable, SweepTable, measure_series
from refocusd_calibration.measurement import Measurement
from refocusd_calibration.stage.z_sweeps import ZSeries

Floats = NDArray[np.float64]

#: Groups of tiles that the jackknife leaves out in turn.
GROUPS = 16
#: Fewest tiles with content for a jackknife.
MIN_GROUPS = 4
#: A tile's peak counts if it exceeds its own scatter by this factor.
TILE_CONTRAST = 4.0


@dataclass(frozen=True, slots=True, kw_only=True)
class FocusMeasurement(Measurement):
    """The result of a measurement, with checks that say whether it is valid.

    Parameters
    ----------
    section : FocusSection
    figures : tuple of MetricFigures
        Figures by which the deciding metric was chosen.
    surface : FocalSurface or None
    power : float
        Power of the model of the deciding peak (see `focus.peak`).
    """

    section: FocusSection
    figures: tuple[MetricFigures, ...]
    surface: FocalSurface | None = None
    power: float = math.nan


@dataclass(frozen=True, slots=True)
class _Fitted:
    """A sweep's peak, and the peaks of its jackknife replicates."""

    peak: Peak
    replicates: list[Peak]

    @property
    def places_um(self) -> Floats:
        return np.array([peak.z_um for peak in self.replicates])


def measure_focus(
    series: ZSeries,
    *,
    pixel_um: float,
    camera: CameraSection | None = None,
    on_plane: Callable[[], None] | None = None,
) -> FocusMeasurement:
    """Measure the through-focus response of one field.

    Parameters
    ----------
    series : ZSeries
    pixel_um : float
        Camera pixel in the specimen plane, um.
    camera : CameraSection, optional
        States offset, saturation and hot pixels, which are otherwise estimated.
    on_plane : callable, optional
        Called after each plane is read.

    Raises
    ------
    InputError
        If the field is empty, no plane is sharper than the others (the stage did not
        move), or a frame cannot be read.
    """
    if not (math.isfinite(pixel_um) and pixel_um > 0):
        raise InputError(f"a pixel of {pixel_um} um is not valid: give its size in the specimen")
    if camera is not None and tuple(camera.shape) not in ((0, 0), series.shape):
        camera = None
    table = measure_series(
        series,
        offset=camera.offset_counts.value if camera else None,
        hot_pixels=camera.hot_pixels if camera else (),
        full_scale=camera.saturation_counts if camera else None,
        on_plane=on_plane,
    )
    curves = {
        name: [_ordered(sweep, sweep.curve(name, table.content)) for sweep in table.sweeps]
        for name in METRICS
    }
    figures = tuple(judge_metric(name, curves[name]) for name in METRICS)
    refuse_still(table, figures)
    found = _from_table(table, choose_metric(figures), figures, series.notes, pixel_um)
    if not series.counted:
        return found
    return replace(found, section=msgspec.structs.replace(found.section, counted=True))


def _from_table(
    table: FocusTable,
    chosen: MetricFigures,
    figures: tuple[MetricFigures, ...],
    series_notes: Sequence[str],
    pixel_um: float,
) -> FocusMeasurement:
    """Align the sweeps by their own best focus, and fit all of their planes together."""
    groups = _groups(table.content)
    fitted = [
        _fit_pooled(sweep.z_um, sweep.values[chosen.metric], table.content, groups)
        for sweep in table.sweeps
    ]
    both = zip(table.sweeps, fitted, strict=True)
    pairs = [(sweep, item) for sweep, item in both if item is not None]
    if not pairs:
        return _concluded(table, chosen, figures, series_notes, failed_sweeps=len(fitted))
    sweeps, kept = [sweep for sweep, _ in pairs], [item for _, item in pairs]
    motion = fit_motion(_passages(sweeps, kept))
    notes = [*series_notes, *motion.notes]
    z = np.concatenate([sweep.z_um - (item.peak.z_um - motion.centre_um) for sweep, item in pairs])
    values_of = {name: np.concatenate([sweep.values[name] for sweep in sweeps]) for name in METRICS}
    pooled_of = {
        name: _fit_pooled(z, values, table.content, groups) for name, values in values_of.items()
    }
    pooled = pooled_of[chosen.metric]
    if pooled is None:
        return _concluded(table, chosen, figures, notes, failed_sweeps=len(fitted))
    best = {
        name: measured(item.peak.z_um, _uncertainty(item, motion))
        for name, item in pooled_of.items()
        if item is not None
    }
    tiles = _tiles(z, values_of[chosen.metric], table, pooled.peak, pixel_um)
    columns = [np.array(column) for column in zip(*tiles, strict=True)]
    surface = fit_surface(*columns) if tiles else None
    if surface is None:
        notes.append(
            f"{len(tiles)} tiles have content, which is too few for tilt and curvature: use a field that is "
            "covered by specimen"
        )
    if table.hot:
        notes.append(f"{table.hot} hot pixels were replaced by their neighbours' median")
    return _concluded(
        table,
        chosen,
        figures,
        notes,
        failed_sweeps=len(fitted) - len(kept),
        peak=pooled.peak,
        inside=all(is_inside(item.peak, sweep.z_um) for sweep, item in pairs),
        best=best,
        surface=surface,
        best_um=_best_of_field(best[chosen.metric], surface, pooled.peak, motion),
        depth_of_field_um=_depth(pooled),
        tiles_um=tiles,
        backlash_um=motion.backlash_um,
        repeatability_um=motion.repeatability_um,
        drift_um_per_min=motion.drift_um_per_min,
    )


def _best_of_field(
    curve: Measured, surface: FocalSurface | None, peak: Peak, motion: StageMotion
) -> Measured:
    """Best focus at the centre of the field if a surface was fitted, else from the whole field's curve."""
    if surface is None or surface.kind == "flat":
        return curve
    # The curve of the whole field gives the focus of its content, not of its centre.  Errors
    # that all tiles share do not appear in the tiles' scatter, so they are added.
    own = math.hypot(surface.centre_uncertainty_um, _common(peak, motion))
    return measured(surface.centre_um, own)


def _concluded(
    table: FocusTable,
    chosen: MetricFigures,
    figures: tuple[MetricFigures, ...],
    notes: Sequence[str],
    *,
    failed_sweeps: int,
    peak: Peak | None = None,
    inside: bool = False,
    best: Mapping[str, Measured] | None = None,
    surface: FocalSurface | None = None,
    **numbers: Any,
) -> FocusMeasurement:
    """The measurement with its checks; without a `peak`, the focus lies outside the planes."""
    found = FocusFindings(table, figures, chosen, peak, failed_sweeps, inside, best or {})
    section = FocusSection(
        metric=chosen.metric,
        best_by_metric_um=dict(found.best),
        z_um=[float(z) for sweep in table.sweeps for z in sweep.z_um],
        curves={
            name: [float(y) for sweep in table.sweeps for y in sweep.curve(name, table.content)]
            for name in METRICS
        },
        **(numbers if peak else {"best_um": _sharpest(table, chosen.metric)}),
    )
    return FocusMeasurement(
        section=_with_surface(section, surface),
        checks=check_focus(found),
        figures=figures,
        surface=surface,
        power=peak.power if peak else math.nan,
        notes=tuple(notes),
    )


def _sharpest(table: FocusTable, metric: str) -> Measured:
    """The position of the sharpest plane; the focus may lie anywhere beyond it."""
    sweep = table.sweeps[0]
    z, y = _ordered(sweep, sweep.curve(metric, table.content))
    # No smaller uncertainty than the whole range can be stated.
    return measured(float(z[int(np.argmax(y))]), float(np.ptp(z)))


def _ordered(sweep: SweepTable, curve: Floats) -> tuple[Floats, Floats]:
    order = np.argsort(sweep.z_um)
    return sweep.z_um[order], curve[order]


def _groups(content: NDArray[np.bool_]) -> list[NDArray[np.bool_]]:
    """The tiles that each jackknife replicate keeps."""
    tiles = np.flatnonzero(content)
    count = min(GROUPS, len(tiles))
    if count < MIN_GROUPS:
        return []
    kept = []
    for group in range(count):
        mask = content.copy()
        mask[tiles[group::count]] = False
        kept.append(mask)
    return kept


def _fit_pooled(
    z: Floats, values: Floats, content: NDArray[np.bool_], groups: list[NDArray[np.bool_]]
) -> _Fitted | None:
    peak = fit_peak(z, values[:, content].mean(axis=1))
    if peak is None:
        return None
    window = (peak.low_um, peak.high_um)
    replicates = []
    for mask in groups:
        # The same model over the same planes, so that only the content changes.
        again = fit_peak(z, values[:, mask].mean(axis=1), power=peak.power, window=window)
        replicates.append(again or peak)
    return _Fitted(peak, replicates)


def _jackknife(replicates: Floats) -> float:
    return float(jackknife(replicates)) if len(replicates) >= MIN_GROUPS else 0.0


def _common(peak: Peak, motion: StageMotion) -> float:
    """Uncertainty that all tiles share: wrong plane positions, the model, differences between sweeps."""
    return math.hypot(max(peak.uncertainty_um, motion.centre_uncertainty_um), peak.model_um)


def _uncertainty(item: _Fitted, motion: StageMotion) -> float:
    own = math.hypot(_jackknife(item.places_um), item.peak.model_um)
    return max(_common(item.peak, motion), own)


def _passages(sweeps: Sequence[SweepTable], fitted: Sequence[_Fitted]) -> list[Passage]:
    mean = np.mean([item.places_um for item in fitted], axis=0)
    passages = []
    for sweep, item in zip(sweeps, fitted, strict=True):
        # The specimen cancels in the difference from the mean of all sweeps.
        own = _jackknife(item.places_um - mean) if len(fitted) > 1 else 0.0
        time = None
        if sweep.time_s is not None:
            order = np.argsort(sweep.z_um)
            time = float(np.interp(item.peak.z_um, sweep.z_um[order], sweep.time_s[order]))
        passages.append(
            Passage(sweep.direction, item.peak.z_um, max(item.peak.uncertainty_um, own), time)
        )
    return passages


def _tiles(
    z: Floats, values: Floats, table: FocusTable, peak: Peak, pixel_um: float
) -> list[tuple[float, float, float, float]]:
    """x, y, best z and its uncertainty, um, of each tile whose own peak stands out."""
    found = []
    centres = table.grid.centres_px() * pixel_um
    for tile in np.flatnonzero(table.content):
        own = fit_peak(z, values[:, tile], power=peak.power)
        if own is None or not is_inside(own, z):
            continue
        if own.height < TILE_CONTRAST * own.residual or own.uncertainty_um > 2 * peak.half_depth_um:
            continue
        # A perfect fit (no noise) is not infinitely certain.
        least = 1e-3 * peak.half_depth_um
        x, y = (float(um) for um in centres[tile])
        found.append((x, y, own.z_um, max(own.uncertainty_um, least)))
    return found


def _depth(pooled: _Fitted) -> Measured:
    spread = _jackknife(np.array([peak.half_depth_um for peak in pooled.replicates]))
    # The width follows from curvature and height, each about as uncertain as the position.
    half = measured(pooled.peak.half_depth_um, max(spread, pooled.peak.uncertainty_um))
    return measured(half.value, half.uncertainty, 2)


def _with_surface(section: FocusSection, surface: FocalSurface | None) -> FocusSection:
    if surface is None:
        return section
    (a, b), (ua, ub) = surface.coefficients[1:3], surface.uncertainties[1:3]
    return msgspec.structs.replace(
        section,
        surface_um=list(surface.coefficients),
        surface_uncertainty_um=list(surface.uncertainties),
        tilt_mrad=(measured(a, ua, 1e3), measured(b, ub, 1e3)),
        curvature_per_m=measured(*surface.curvature, 2e6) if surface.curvature else None,
    )

"""Conditions that a through-focus measurement must meet to be valid, and advice if it does not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from refocusd.errors import InputError
from refocusd.profiles.profile import Check, FocusSection, Measured, Microscope
from refocusd_calibration.estimates import robust_sigma
from refocusd_calibration.focus.choose_metric import CONTRAST, MetricFigures
from refocusd_calibration.focus.metrics import METRICS
from refocusd_calibration.focus.peak import Peak
from refocusd_calibration.focus.table import FocusTable, SweepTable
from refocusd_calibration.measurement import check

#: Largest lateral excursion over a sweep that optics and stage can explain, px.
MAX_EXCURSION_PX = 4.0
#: A plane shows another scene if its correlation with the plane before is lower than usual by this much,
#: and by this many robust deviations.
JUMP = 0.15
JUMP_SIGMAS = 8.0
#: Largest relative change of the light during a series.
MAX_LIGHT_CHANGE = 0.2
#: Share of saturated pixels above which a curve is distorted.
MAX_SATURATED = 1e-3
#: A plane was taken at another position if its value deviates from its neighbours by this many robust
#: deviations ...
PLANE_SIGMAS = 6.0
#: ... and by this share of the peak.
PLANE_SHARE = 0.15
#: Allowed depth of field, relative to that of fine structures: coarse ones have several times as much.
DEPTHS = (0.25, 20.0)
#: Fewest steps within the depth of field.
MIN_STEPS = 1.0


@dataclass(frozen=True, slots=True)
class FocusFindings:
    """The results that the checks examine.

    Parameters
    ----------
    table : FocusTable
    figures : sequence of MetricFigures
    chosen : MetricFigures
    peak : Peak or None
        Peak of the deciding metric, from all sweeps together.
    failed_sweeps : int
        Number of sweeps without a peak.
    inside : bool
        Whether the focus lies within the planes of every other sweep.
    best : mapping of str to Measured
        Best focus by each metric, um.
    """

    table: FocusTable
    figures: Sequence[MetricFigures]
    chosen: MetricFigures
    peak: Peak | None
    failed_sweeps: int
    inside: bool
    best: Mapping[str, Measured]


def refuse_still(table: FocusTable, figures: Sequence[MetricFigures]) -> None:
    """Refuse planes that do not differ, because they have no focus.

    Raises
    ------
    InputError
        If most planes repeat the one before, or all planes are equally sharp.
    """
    for sweep in table.sweeps:
        if sweep.repeated > len(sweep.z_um) // 2:
            raise InputError(
                f"{sweep.repeated} of {len(sweep.z_um)} planes are identical to the one before: "
                "the stage did not move, or the camera returned the same frame; move the "
                "stage by hand in Micro-Manager and check whether the image changes"
            )
    if all(item.contrast < CONTRAST for item in figures):
        raise InputError(
            "all planes are equally sharp: the stage did not move, the range is much smaller than "
            "the depth of field, or focus is far outside it; check the stage or widen the range"
        )


def check_focus(found: FocusFindings) -> tuple[Check, ...]:
    """Every check, passed or not."""
    sweeps = found.table.sweeps
    return (
        _inside(found),
        _one_peak(found),
        _sampled(found),
        _agree(found),
        _arrived(found),
        _still(sweeps),
        _light(sweeps, found.peak.z_um if found.peak else None),
        _saturated(sweeps),
    )


def _inside(found: FocusFindings) -> Check:
    z = np.concatenate([sweep.z_um for sweep in found.table.sweeps])
    where = f"{z.min():g} to {z.max():g} um"
    passed = found.inside and found.peak is not None and not found.failed_sweeps
    chosen = METRICS.index(found.chosen.metric)
    # If this metric decides only because better ones still rise at the last plane, its result
    # does not count: the better ones may be right.
    beyond = [
        item.metric
        for item in found.figures
        if METRICS.index(item.metric) < chosen
        and item.peaks == 1
        and item.contrast >= CONTRAST
        and not item.inside
    ]
    name = "focus inside the range"
    if passed and not beyond:
        return check(name, True, f"planes lie on both sides of focus, within {where}")
    whose = f"by {' and '.join(beyond)} " if beyond else ""
    return check(
        name,
        False,
        f"{whose}focus is at the edge of the range or outside it ({where})",
        "move the range towards the sharper end and take the series again",
    )


def _one_peak(found: FocusFindings) -> Check:
    chosen = found.chosen
    if chosen.fit_to_decide:
        detail = f"{chosen.metric} has one peak, {chosen.contrast:.0f} times its noise"
        return check("one peak", True, detail)
    counts = ", ".join(f"{item.metric}: {item.peaks}" for item in found.figures)
    return check(
        "one peak",
        False,
        f"no metric has one clear peak within the planes ({counts})",
        "take a thinner specimen, a range around one focus, or more light",
    )


def _sampled(found: FocusFindings) -> Check:
    name = "planes close enough"
    if found.peak is None:
        return check(name, False, "no peak was found")
    steps = [float(np.median(np.abs(np.diff(sweep.z_um)))) for sweep in found.table.sweeps]
    step, depth = max(steps), 2 * found.peak.half_depth_um
    detail = f"steps of {step:g} um, depth of field {depth:.3g} um"
    return check(name, step <= depth / MIN_STEPS, detail, f"take planes {depth / 2:.2g} um apart")


def depth_check(section: FocusSection, microscope: Microscope) -> tuple[Check, ...]:
    """Whether the depth of field is possible for the stated aperture; no check if one of them is unknown."""
    if section.depth_of_field_um is None or microscope.na is None or microscope.pixel_um is None:
        return ()
    depth, index = section.depth_of_field_um, microscope.refractive_index
    # Due to diffraction and to the pixel (S. Inoue and K. R. Spring, Video Microscopy, 1997).
    nominal = (microscope.wavelength_um or 0.52) * index / microscope.na**2
    nominal += index * microscope.pixel_um / microscope.na
    least, most = (share * nominal for share in DEPTHS)
    spread = 2 * depth.uncertainty
    return (
        check(
            "depth of field",
            least - spread <= depth.value <= most + spread,
            f"{depth.value:.3g} um, where NA {microscope.na:g} gives about {nominal:.2g} um for fine structures "
            f"(allowed: {least:.2g} to {most:.2g} um)",
            "check the z step, the NA, the pixel size and the refractive index",
        ),
    )


def _agree(found: FocusFindings) -> Check:
    """Whether the metrics that are fit to decide find the focus within one depth of field."""
    name = "metrics agree"
    fit = {item.metric for item in found.figures if item.fit_to_decide}
    places = {metric: found.best[metric].value for metric in fit if metric in found.best}
    if found.peak is None or len(places) < 2:
        return check(name, True, "fewer than two metrics to compare")
    spread = max(places.values()) - min(places.values())
    passed = spread <= 2 * found.peak.half_depth_um
    listed = ", ".join(f"{metric} {z:.3g}" for metric, z in sorted(places.items()))
    detail = f"{len(places)} metrics within {spread:.3g} um"
    return check(
        name,
        passed,
        detail if passed else f"{detail} ({listed} um)",
        "structures lie at several heights, or the objective is aberrated (correction collar, cover "
        "glass)",
    )


def _arrived(found: FocusFindings) -> Check:
    """Whether every plane was at its stated position: whether it is near the curve of its neighbours."""
    name = "stage arrived"
    worst, place, share = 0.0, 0.0, 0.0
    for sweep in found.table.sweeps:
        order = np.argsort(sweep.z_um)
        z = sweep.z_um[order]
        y = sweep.curve(found.chosen.metric, found.table.content)[order]
        if len(y) < 7:
            continue
        residual = _against_neighbours(y)
        sigma = robust_sigma(residual) or 1e-12
        span = float(np.ptp(y)) or 1.0
        # If the planes are coarse, the peak itself deviates from the cubic through its neighbours.
        off = np.maximum(np.abs(residual) - _of_the_peak(found.peak, z), 0.0)
        at = int(np.argmax(off))
        if off[at] / span > PLANE_SHARE and off[at] / sigma > worst:
            worst, place, share = off[at] / sigma, float(z[at]), off[at] / span
    if worst <= PLANE_SIGMAS:
        return check(name, True, "every plane agrees with its neighbours")
    return check(
        name,
        False,
        f"the plane at {place:g} um is off its neighbours by {100 * share:.0f} % of the peak",
        "the stage was elsewhere, or something moved; take the series again, more slowly",
    )


def _against_neighbours(y: NDArray[np.float64]) -> NDArray[np.float64]:
    """Each value minus the cubic through two neighbours on each side; 0 at the ends."""
    residual = np.zeros_like(y)
    residual[2:-2] = y[2:-2] - (4 * (y[1:-3] + y[3:-1]) - (y[:-4] + y[4:])) / 6
    return residual


def _of_the_peak(peak: Peak | None, z_um: NDArray[np.float64]) -> NDArray[np.float64]:
    """Deviation that the fitted peak itself has at each plane, if positions are known to half a step."""
    if peak is None:
        return np.zeros_like(z_um)
    half = 0.5 * float(np.median(np.diff(z_um)))
    shifted = [peak.at(z_um - shift) for shift in np.linspace(-half, half, 9)]
    return np.asarray(np.max([np.abs(_against_neighbours(curve)) for curve in shifted], axis=0))


def _still(sweeps: Sequence[SweepTable]) -> Check:
    """Whether nothing moved sideways, and no plane shows another scene."""
    excursion, jump = 0.0, False
    for sweep in sweeps:
        if not len(sweep.shifts_px):
            continue
        path = np.concatenate([np.zeros((1, 2)), np.cumsum(sweep.shifts_px, axis=0)])
        excursion = max(excursion, float(np.hypot(*np.ptp(path, axis=0))))
        usual = float(np.median(sweep.alike))
        drop = usual - float(sweep.alike.min())
        jump |= drop > max(JUMP, JUMP_SIGMAS * robust_sigma(sweep.alike))
    detail = f"planes shift sideways by {excursion:.1f} px at most"
    if jump:
        detail += "; one plane does not show the scene of the plane before"
        advice = "something moved; take the series again with a fixed specimen"
    else:
        advice = (
            "the specimen moves or drifts, or the stage does not travel along the optical axis; "
            "wait until it is still, or use a fixed specimen"
        )
    return check("specimen still", excursion <= MAX_EXCURSION_PX and not jump, detail, advice)


def _light(sweeps: Sequence[SweepTable], focus_um: float | None) -> Check:
    """Whether the light is steady; an equal change on both sides of focus is caused by the optics.

    A microscope that rejects defocused light (a confocal one) has a steep peak of light at
    focus. A plane is therefore compared with all values within half a step on the other side.
    """
    curves = []
    for sweep in sweeps:
        order = np.argsort(sweep.z_um)
        curves.append((sweep.z_um[order], sweep.light[order]))
    changes = [0.0]
    for z, light in curves:
        if focus_um is None:
            changes.append(abs(light[-1] / max(light[0], 1e-9) - 1))
        else:
            changes.append(_off_curve(2 * focus_um - z[::-1], light[::-1], z, light))
    for z, light in curves[1:]:
        changes.append(_off_curve(z, light, *curves[0]))
    change = max(changes)
    return check(
        "light steady",
        change <= MAX_LIGHT_CHANGE,
        f"mean light changes by {100 * change:.1f} % during the series",
        "the specimen bleaches or the lamp drifts: use less light or a steadier lamp",
    )


def _off_curve(
    z: NDArray[np.float64],
    values: NDArray[np.float64],
    curve_z: NDArray[np.float64],
    curve: NDArray[np.float64],
) -> float:
    """Largest relative distance of values from a curve that is known to half a step in z."""
    half = 0.5 * float(np.median(np.diff(curve_z)))
    inside = (z >= curve_z[0]) & (z <= curve_z[-1])
    if not inside.any():
        return 0.0
    near = [np.interp(z[inside] + shift, curve_z, curve) for shift in np.linspace(-half, half, 9)]
    expected = np.clip(values[inside], np.min(near, axis=0), np.max(near, axis=0))
    return float(np.max(np.abs(values[inside] - expected) / np.maximum(expected, 1e-9)))


def _saturated(sweeps: Sequence[SweepTable]) -> Check:
    share = max(float(sweep.saturated.max()) for sweep in sweeps)
    return check(
        "not saturated",
        share <= MAX_SATURATED,
        f"at most {100 * share:.2g} % of a plane's pixels at the end of the scale",
        "shorten the exposure",
    )

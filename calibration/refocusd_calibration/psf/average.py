"""Averages beads to one radial profile per plane, registered to a fraction of a pixel.

Nothing is interpolated: each pixel counts at its true distance from the centre of its bead, so that
many beads sample a kernel more finely than the camera does.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from refocusd_calibration.psf.beads import Beads, distances
from refocusd_calibration.psf.laws import Floats
from refocusd_calibration.psf.observed import Observed
from refocusd_calibration.psf.stack import PlaneStack

#: Smallest error of a law, as a share of a plane's peak.
_MODEL_ERROR = 0.003
#: Radii per pixel at which laws are evaluated.
_FINE = 5
#: Iterations of subtracting neighbours with the kernels of the previous iteration.
_NEIGHBOUR_ROUNDS = 3
#: A spot this close to a bead's centre is the bead itself.
_ITSELF_PX = 3.0


def average_beads(stack: PlaneStack, beads: Beads) -> Observed:
    """Average the beads of a series.

    Parameters
    ----------
    stack : PlaneStack
    beads : Beads

    Returns
    -------
    Observed
        Replicates are the beads; values are counts of the mean bead above its
        surroundings.
    """
    observed = _average(stack, beads, _cut(stack, beads))
    others = _neighbours(beads)
    if any(len(places) for places, _ in others):
        # The light of neighbours is known only from the kernels themselves.
        for _ in range(_NEIGHBOUR_ROUNDS):
            observed = _average(stack, beads, _cut(stack, beads, observed, others))
    return observed


def _average(stack: PlaneStack, beads: Beads, cut: Floats) -> Observed:
    radius = beads.radius_px
    edges = _edges(radius)
    shifts = plane_shifts(cut, beads)
    planes, count = len(stack.z_um), len(beads.centres)
    moved = bool(np.any(shifts))

    fine = np.arange(0, radius + 1 + 1 / _FINE, 1 / _FINE)
    sums = np.zeros((count, planes, len(edges) - 1))
    pixels = np.zeros((count, planes, len(edges) - 1))
    operator = np.zeros((planes if moved else 1, len(edges) - 1, len(fine)))
    scale = _brightness(cut, beads)
    places: list[list[tuple[NDArray[np.intp], Floats, NDArray[np.bool_]]]] = []
    for bead in range(count):
        row = []
        for plane in range(planes):
            if plane == 0 or moved:
                centre = beads.centres[bead]
                far = distances(radius, *(centre + shifts[plane] - np.rint(centre)))
                inside = far < edges[-1]
                bins = np.searchsorted(edges, far[inside], side="right") - 1
                _accumulate(operator[plane if moved else 0], bins, far[inside], scale[bead])
            values = cut[bead, plane][inside]
            sums[bead, plane] = np.bincount(bins, values, len(edges) - 1)
            pixels[bead, plane] = np.bincount(bins, minlength=len(edges) - 1)
            row.append((bins, far[inside], inside))
        places.append(row)
    # Bright beads carry more information, so beads are summed without normalisation; a bead is the
    # mean bead times its brightness.
    norm = (scale[:, None, None] * pixels).sum(0)
    values = sums.sum(0) / norm
    operator /= operator.sum(2, keepdims=True)
    middles = (operator @ fine).mean(0)
    # Beads lie at different places on the pixel grid, so each is compared with the mean bead at its own radii.
    expected = np.zeros_like(sums)
    for bead, row in enumerate(places):
        for plane, (bins, far, _) in enumerate(row):
            light = scale[bead] * np.interp(far, middles, values[plane])
            expected[bead, plane] = np.bincount(bins, light, len(edges) - 1)
    deviations = (sums - expected) / norm
    deviations -= deviations.mean(0)
    background, per_count = _noise(cut, places, values, middles, scale, radius)
    squares = background[:, None] + per_count * np.maximum(values, 0)
    peak = np.maximum(np.abs(values).max(1, keepdims=True), 1e-9)
    variances = squares * pixels.sum(0) / norm**2 + (_MODEL_ERROR * peak) ** 2
    step = stack.pixel_um
    return Observed(
        method="beads",
        z_um=stack.z_um,
        bins=middles * step,
        values=values,
        variances=variances,
        deviations=deviations,
        pixel_um=step,
        radius_um=fine * step,
        operator=operator,
        area_um2=np.pi * np.diff(edges**2) * step**2,
    )


def plane_shifts(cut: Floats, beads: Beads) -> Floats:
    """Shift of all beads together at each plane relative to focus, px, shape (planes, 2).

    A stage that wobbles, or whose axis is not parallel to the optical axis, shifts the planes
    sideways.  The shift is a linear least-squares fit of the gradient of the mean bead's even part to its odd
    part; it is 0 if it is not significant or below 0.05 px.
    """
    radius = beads.radius_px
    images = _mean_images(cut, beads)
    far = distances(radius)
    inside = far < radius - 1
    shifts = np.zeros((len(images), 2))
    for plane, image in enumerate(images):
        # Repeated, because the radial mean about a wrong centre is too wide.
        for _ in range(3):
            moved = ndimage.shift(image, -shifts[plane], order=3, mode="nearest")
            even = (moved + moved[::-1, ::-1]) / 2
            odd = moved - even
            slopes = [
                ndimage.gaussian_filter(even, 0.7, order=order)[inside]
                for order in ((1, 0), (0, 1))
            ]
            noise = float(np.std(odd[inside & (far > 0.8 * radius)])) + 1e-12
            for axis, slope in enumerate(slopes):
                power = float(slope @ slope)
                if power > 0:
                    step = -float(odd[inside] @ slope) / power
                    if abs(step) > 4 * noise / math.sqrt(power) and abs(step) < 2:
                        shifts[plane, axis] += step
    shifts[np.hypot(*shifts.T) < 0.05] = 0.0
    return shifts


def _edges(radius: int) -> Floats:
    """Edges of the bins: half pixels at the core, whole ones outside."""
    inner = np.arange(0.75, 4.0, 0.5)
    return np.concatenate([[0.0], inner, np.arange(inner[-1] + 1, radius + 0.01, 1.0)])


#: Positions and brightness of the spots whose light reaches one bead's surroundings.
Neighbours = tuple[Floats, Floats]


def _neighbours(beads: Beads) -> list[Neighbours]:
    found = []
    for centre in beads.centres:
        far = np.hypot(*(beads.spots - centre).T)
        near = (far > _ITSELF_PX) & (far < 2 * beads.radius_px)
        found.append((beads.spots[near], beads.brightness[near]))
    return found


def _cut(
    stack: PlaneStack,
    beads: Beads,
    light: Observed | None = None,
    neighbours: Sequence[Neighbours] = (),
) -> Floats:
    """Surroundings of each bead without their background, shape (beads, planes, side, side).

    With `light`, the mean bead, the light of the neighbours is subtracted first.
    """
    radius = beads.radius_px
    rim = distances(radius)
    rim_pixels = (rim > 0.85 * radius) & (rim <= radius)
    side = 2 * radius + 1
    cut = np.empty((len(beads.centres), len(stack.z_um), side, side))
    for bead, centre in enumerate(beads.centres):
        cut[bead] = stack.around(centre, radius)
        if light is not None:
            for place, brightness in zip(*neighbours[bead], strict=True):
                far = distances(radius, *(place - np.rint(centre))) * stack.pixel_um
                for plane, values in enumerate(light.values):
                    shine = np.interp(far, light.bins, np.maximum(values, 0), right=0.0)
                    cut[bead, plane] -= brightness * shine
        cut[bead] -= cut[bead][:, rim_pixels].mean(1)[:, None, None]
    return cut


def _accumulate(operator: Floats, bins: NDArray[np.intp], far: Floats, weight: float) -> None:
    """Add the pixels of one bead to the operator, each split between two radii of the fine grid."""
    place = far * _FINE
    low = place.astype(int)
    share = place - low
    np.add.at(operator, (bins, low), weight * (1 - share))
    np.add.at(operator, (bins, low + 1), weight * share)


def _brightness(cut: Floats, beads: Beads) -> Floats:
    """Brightness of each bead, mean 1, from a least-squares fit to the mean bead near focus."""
    near = cut[:, max(0, beads.plane - 2) : beads.plane + 3].reshape(len(cut), -1)
    mean = near.mean(0)
    scale = near @ mean / (mean @ mean)
    return np.asarray(np.maximum(scale, 0.05) / np.maximum(scale, 0.05).mean(), np.float64)


def _noise(
    cut: Floats,
    places: list[list[tuple[NDArray[np.intp], Floats, NDArray[np.bool_]]]],
    values: Floats,
    middles: Floats,
    scale: Floats,
    radius: int,
) -> tuple[Floats, float]:
    """Noise variance of a pixel: in the surroundings at each plane, and its increase per count."""
    planes = values.shape[0]
    background = np.zeros(planes)
    rises: list[float] = []
    for plane in range(planes):
        squares, expected, rims = [], [], []
        for bead, row in enumerate(places):
            _, far, inside = row[plane]
            model = scale[bead] * np.interp(far, middles, values[plane])
            residual = cut[bead, plane][inside] - model
            rim = far > 0.85 * radius
            rims.append(residual[rim])
            squares.append(residual[~rim] ** 2)
            expected.append(model[~rim])
        background[plane] = float(np.var(np.concatenate(rims)))
        square, expect = np.concatenate(squares), np.concatenate(expected)
        light = np.maximum(expect, 0)
        if (power := float(light @ light)) > 0:
            rises.append(float(light @ (square - background[plane])) / power)
    # The noise is at least that of quantisation.
    return np.maximum(background, 1 / 12), max(0.0, float(np.median(rises)) if rises else 0.0)


def _mean_images(cut: Floats, beads: Beads) -> Floats:
    """Mean bead at each plane, centred by cubic splines; only for shifts, not to fit a law."""
    moves = np.rint(beads.centres) - beads.centres
    centred = [
        [ndimage.shift(image, move, order=3, mode="nearest") for image in planes]
        for planes, move in zip(cut, moves, strict=True)
    ]
    return np.asarray(np.mean(centred, axis=0))

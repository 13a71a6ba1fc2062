"""Finds beads that can be measured: single, whole, not saturated, and sharpest at the common focus."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, optimize, spatial

from refocusd.errors import InputError
from refocusd_calibration.estimates import robust_sigma
from refocusd_calibration.psf.laws import Floats
from refocusd_calibration.psf.stack import PlaneStack

#: Scales (px) at which spots are searched: from undersampled ones to 30 px wide.
_SCALES = (1.0, 1.6, 2.6, 4.0, 6.5, 10.0)
#: A bead is a spot above this many robust standard deviations of the filtered noise and above this
#: share of a bright spot; lower limits apply to neighbours that disturb a bead.
_DETECT, _DETECT_SHARE = 8.0, 0.1
_DISTURB, _DISTURB_SHARE = 6.0, 0.04
#: Fainter maxima this close to a bead are its own diffraction rings.
_RING_PX, _RING_SHARE = 12.0, 0.15
#: Radii below this (px) contain no background; and number of beads that are enough.
_SMALLEST_RADIUS, _ENOUGH = 8, 8
#: A bead is isolated if its nearest neighbour is this many radii away.  If few are, closer
#: neighbours are accepted, and their light is subtracted (`average`).
_ALONE, _APART = 1.6, 0.8
#: Beads this many times brighter than the median are clumps.
_CLUMP = 4.0
#: In a usable series, the sharpness of the planes differs by more than this factor.
_FLAT = 1.03


@dataclass(frozen=True, slots=True)
class Beads:
    """Beads that can be measured.

    Parameters
    ----------
    centres : ndarray of float64, shape (beads, 2)
        y and x in px, at the sharpest plane.
    plane : int
        The sharpest plane.
    radius_px : int
        Radius around each centre that contains only the bead.
    found : int
        Spots found in all.
    dropped : dict of str to int
        Number of spots left out, by reason.
    spots, brightness : ndarray of float64, shape (spots, 2) and (spots,)
        All spots whose light may reach a bead's surroundings, including the beads, and their
        brightness in units of the beads' mean.
    """

    centres: Floats
    plane: int
    radius_px: int
    found: int
    dropped: dict[str, int] = field(default_factory=dict)
    spots: Floats = field(default_factory=lambda: np.empty((0, 2)))
    brightness: Floats = field(default_factory=lambda: np.empty(0))

    @property
    def left_out(self) -> str:
        """Number of spots left out, with the reasons, in words."""
        return ", ".join(f"{count} {why}" for why, count in self.dropped.items() if count) or "none"


def sharpness(stack: PlaneStack) -> Floats:
    """Energy of each plane's fine structure above its noise, shape (planes,).

    It is the mean square of the Laplacian of Gaussian, minus that of its noise.
    """
    scores = []
    for plane in stack.pixels:
        smooth = ndimage.gaussian_laplace(plane, 1.0)
        # A robust estimate gives the noise, because most of a bead sample is background.
        noise = robust_sigma(smooth)
        scores.append(max(0.0, float(np.mean(smooth**2)) - noise**2))
    return np.asarray(scores)


def sharpest_plane(stack: PlaneStack) -> int:
    """Index of the sharpest plane, which must not be the first or the last.

    Raises
    ------
    InputError
        If the planes do not differ in sharpness, or the sharpest is the first or last.
    """
    scores = sharpness(stack)
    best = int(np.argmax(scores))
    if scores.max() <= _FLAT * scores.min():
        raise InputError(
            "all planes are equally sharp: the stage did not move, or nothing is in view; "
            "watch the stage while it moves, and look at the planes"
        )
    if best in (0, len(scores) - 1):
        raise InputError(
            f"the sharpest plane is the {'first' if best == 0 else 'last'} (z = "
            f"{stack.z_um[best]:g} um): the focus lies outside the series; move it so that the "
            "focus is in its middle"
        )
    return best


def find_beads(stack: PlaneStack, *, reach_um: float | None = None, at_least: int = 1) -> Beads:
    """Find the beads of a series that can be measured.

    Spots are maxima of the Laplacian of Gaussian over several scales in the sharpest
    plane.  Spots are left out if they are at the frame's edge, near another spot, saturated in any
    plane, sharpest at another plane than most, or much brighter than most (clumps).

    Parameters
    ----------
    stack : PlaneStack
    reach_um : float, optional
        Radius of the widest kernel.  By default, the radius of the beads' light at the first and
        the last plane.
    at_least : int
        Fewer beads are refused.

    Raises
    ------
    InputError
        If there are too few beads; the message says why the others were left out.
    """
    plane = sharpest_plane(stack)
    spots = _spots(stack.pixels[plane])
    if not len(spots.places):
        raise InputError(
            f"no beads were found in the sharpest plane (z = {stack.z_um[plane]:g} um): expose "
            "longer, look whether beads are in view, or measure without beads (--in-focus)"
        )
    if reach_um is None:
        radius = _radius_needed(stack, plane, spots)
    else:
        radius = max(6, math.ceil(reach_um / stack.pixel_um))
    beads = _within(stack, plane, spots, radius)
    if len(beads.centres) < at_least:
        raise InputError(
            f"{len(beads.centres)} of {beads.found} beads can be measured within a radius of "
            f"{beads.radius_px * stack.pixel_um:.1f} um, {at_least} are needed; left out: "
            f"{beads.left_out}. {_advice(beads.dropped)}"
        )
    return beads


def _within(stack: PlaneStack, plane: int, spots: _Spots, radius: int) -> Beads:
    """Isolated beads or, if there are few, also those with closer neighbours."""
    alone = _measurable(stack, plane, spots, radius, _ALONE)
    if len(alone.centres) >= _ENOUGH:
        return alone
    near = _measurable(stack, plane, spots, radius, _APART)
    return near if len(near.centres) > len(alone.centres) else alone


def _advice(dropped: dict[str, int]) -> str:
    worst = max(dropped, key=lambda why: dropped[why]) if any(dropped.values()) else ""
    return {
        "saturated": "Expose shorter or lower the light",
        "too near to another": "Dilute the beads, take a smaller range of z, or measure without "
        "single beads (--in-focus)",
        "at the edge of the frame": "Take a larger field, or a smaller range of z, or state the kernels' "
        "radius (--radius-um)",
    }.get(worst, "Give a field with more single beads on one plane")


@dataclass(frozen=True, slots=True)
class _Spots:
    """Maxima of the Laplacian of Gaussian: positions, strengths, and which of them may be beads."""

    places: Floats
    strengths: Floats
    bead: NDArray[np.bool_]


def _spots(image: NDArray[np.float32]) -> _Spots:
    # Normalised by the scale, so that the response to a spot is largest at its own size.
    layers = np.stack([-(s**2) * ndimage.gaussian_laplace(image, s) for s in _SCALES])
    noise = np.array([robust_sigma(layer) for layer in layers])[:, None, None]
    answer = layers.max(0)
    significance = (layers / np.maximum(noise, 1e-6 * max(float(answer.max()), 1e-12))).max(0)
    top = (ndimage.maximum_filter(answer, 5) == answer) & (answer > 0)
    places = np.argwhere(top & (significance > _DISTURB))
    if not len(places):
        return _Spots(np.empty((0, 2)), np.empty(0), np.empty(0, bool))
    at = tuple(places.T)
    strengths = answer[at]
    # A spot whose response is largest at scale s has the radius sqrt(2) s.
    radii = np.sqrt(2) * np.array(_SCALES)[layers.argmax(0)[at]]
    bright = float(np.percentile(strengths[strengths >= np.median(strengths)], 75))
    disturbing = strengths > _DISTURB_SHARE * bright
    for index in np.argsort(strengths)[::-1]:
        far = np.hypot(*(places - places[index]).T)
        weaker = strengths < strengths[index]
        # The rings of a bright bead are also maxima, and so is the rim of a large one.
        disturbing &= ~((far < _RING_PX) & (strengths < _RING_SHARE * strengths[index]))
        if disturbing[index]:
            disturbing &= ~((far < radii[index]) & weaker)
    bead = (strengths > _DETECT_SHARE * bright) & (significance[at] > _DETECT)
    return _Spots(
        places[disturbing].astype(np.float64),
        strengths[disturbing].astype(np.float64),
        bead[disturbing],
    )


def _measurable(stack: PlaneStack, plane: int, spots: _Spots, radius: int, apart: float) -> Beads:
    height, width = stack.pixels.shape[1:]
    places, strengths = spots.places[spots.bead], spots.strengths[spots.bead]
    keep = np.ones(len(places), bool)
    dropped: dict[str, int] = {}

    def drop(why: str, bad: NDArray[np.bool_]) -> None:
        dropped[why] = int((keep & bad).sum())
        keep[bad] = False

    margin = radius + 2
    inside = (places >= margin).all(1) & (places < np.array([height, width]) - margin).all(1)
    drop("at the edge of the frame", np.asarray(~inside, bool))
    distance = np.asarray(spatial.KDTree(spots.places).query(places, k=2)[0])
    drop("too near to another", distance[:, 1] < apart * radius)
    full = (stack.pixels >= stack.saturation).any(0)
    near = ndimage.maximum_filter(full, 2 * radius + 1)
    drop("saturated", near[tuple(places.astype(int).T)])
    drop("sharpest elsewhere", _elsewhere(stack, plane, places, keep))
    typical = float(np.median(strengths[keep])) if keep.any() else 1.0
    drop("clumped", strengths > _CLUMP * typical)
    centres = np.array([_centre(stack.pixels[plane], place) for place in places[keep]])
    mean = float(strengths[keep].mean()) if keep.any() else 1.0
    return Beads(
        centres.reshape(-1, 2),
        plane,
        radius,
        len(places),
        dropped,
        spots.places,
        spots.strengths / mean,
    )


def _elsewhere(
    stack: PlaneStack, plane: int, spots: Floats, keep: NDArray[np.bool_]
) -> NDArray[np.bool_]:
    """Spots whose sharpest plane differs from that of most spots that are kept."""
    if not keep.any():
        return ~keep
    y, x = spots.astype(int).T
    first, last = max(0, plane - 4), min(len(stack.z_um), plane + 5)
    answers = []
    for image in stack.pixels[first:last]:
        top = ndimage.maximum_filter(-ndimage.gaussian_laplace(image, _SCALES[0]), 3)
        answers.append(top[y, x])
    best = np.argmax(np.array(answers), 0)
    return np.asarray(np.abs(best - np.median(best[keep])) > 2)


def _centre(image: NDArray[np.float32], spot: Floats) -> Floats:
    """Sub-pixel centre, from a least-squares fit of a Gaussian to the surrounding pixels."""
    y, x = spot.astype(int)
    reach = 4
    y0, x0 = max(0, y - reach), max(0, x - reach)
    patch = image[y0 : y + reach + 1, x0 : x + reach + 1].astype(np.float64)
    rows, columns = np.indices(patch.shape, dtype=np.float64)
    floor = float(np.median(np.concatenate([patch[0], patch[-1], patch[:, 0], patch[:, -1]])))
    peak = max(float(patch.max()) - floor, 1e-6)

    def misfit(p: Floats) -> Floats:
        spread = 2 * p[4] ** 2
        bell = np.exp(-((rows - p[0]) ** 2 + (columns - p[1]) ** 2) / spread)
        return np.asarray((peak * p[2] * bell + floor + peak * p[3] - patch).ravel() / peak)

    start = np.array([y - y0, x - x0, 1.0, 0.0, 1.2])
    low = [start[0] - 2, start[1] - 2, 0.1, -1.0, 0.3]
    high = [start[0] + 2, start[1] + 2, 10.0, 1.0, 4.0]
    fit = optimize.least_squares(misfit, start, bounds=(low, high), max_nfev=60)
    return np.array([y0 + fit.x[0], x0 + fit.x[1]])


def _radius_needed(stack: PlaneStack, plane: int, spots: _Spots) -> int:
    """Radius that contains the beads' light at both ends of the series, and some background.

    It is determined from the beads that have the most room around them.
    """
    planes = range(len(stack.pixels))
    radius: int = min(stack.pixels.shape[1:]) // 4
    seen = False
    while radius >= _SMALLEST_RADIUS:
        beads = _measurable(stack, plane, spots, radius, _ALONE)
        if len(beads.centres):
            seen = True
            ends = max(_end_of_light(stack, beads, order) for order in (planes, planes[::-1]))
            needed = math.ceil(ends / 0.7) + 2
            if needed <= radius + 2:
                return max(_SMALLEST_RADIUS, min(needed, radius))
        radius = int(radius / 1.15)
    if seen:
        raise InputError(
            "at the ends of the series the beads' light reaches their neighbours: "
            "dilute the beads, take a smaller range of z, or measure without "
            "single beads (--in-focus)"
        )
    return _SMALLEST_RADIUS


def distances(radius: int, y: float = 0.0, x: float = 0.0) -> Floats:
    """Distance, px, of each pixel of a square of side 2 radius + 1 from the point (y, x) off its centre."""
    offsets = np.arange(-radius, radius + 1)
    return np.asarray(np.hypot(offsets[:, None] - y, offsets[None, :] - x))


def _end_of_light(stack: PlaneStack, beads: Beads, order: range) -> int:
    """Radius that holds 95 % of the light, px, in the first plane, in this order, that shows the beads."""
    radius = beads.radius_px
    far = distances(radius)
    for plane in order:
        mean = np.mean([stack.around(centre, radius)[plane] for centre in beads.centres], axis=0)
        rim = mean[(far > 0.85 * radius) & (far < radius)]
        bins = np.clip(far.astype(int), 0, radius)
        pixels = np.bincount(bins.ravel())[:radius]
        profile = np.bincount(bins.ravel(), mean.ravel())[:radius] / pixels - rim.mean()
        if (profile > 6 * rim.std() / np.sqrt(pixels))[: radius // 2].any():
            light = np.cumsum(profile * pixels)
            return int(np.argmax(light >= 0.95 * light.max())) + 1
    return 0

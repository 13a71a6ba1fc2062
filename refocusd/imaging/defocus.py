"""Estimates how far out of focus a frame was, from the raw and the refocused frame.

A defocused frame is the in-focus one times the optical transfer function (OTF) of the
defocus, plus noise.  The network estimates the in-focus frame, so the ratio of the spectra,
averaged over rings of equal spatial frequency, ::

    ratio(f) = <Re(raw · conj(refocused))> / <|refocused|²> · (1 - noise / <|raw|²>)

is that OTF relative to focus. (For a least-mean-square estimate, the first factor is the OTF
except for the noise that passed through; the second factor removes that, as in Wiener's filter.)
The distance is that of the nearest OTF in a family computed by wave optics
(`refocusd.imaging.optics`). Rings are weighted by their coherence, and rings without signal are
ignored.

Accuracy, measured on simulated specimens and optics that the network `live-nuclei` was not
trained on (``benchmarks/quality/focus_advice.py`` repeats the measurement):

- 8 to 30 um: better than 1 um on average, within the optics that the network was trained on (NA
  0.40-0.50, at most 0.15 waves of spherical aberration).
- Other optics: the network sharpens to the focus that it learnt, so that frames in focus can
  seem 6 um out of focus; one estimate in three is off by more than its stated uncertainty. Do not
  correct the stage automatically in this case.
- Below 6 um the network restores little of what was lost, so the ratio stays near one. The
  distance is corrected by a measured table, and is accurate to about 1.5 um.
- Beyond 36 um (less at higher NA, see `limit_um`) the network was not trained, and the ratio
  reverses: a frame at 40 um is still mostly reported as "farther than" (`saturated`), but one at
  48 um as about 30 um. The OTF fits worse there, so the confidence is low, but not zero.
- If the optics are assumed, not measured, the relative error of the distance is about that of NA.
- **No sign**: the OTF of a defocused plane is the same above and below focus.  Spherical
  aberration breaks this symmetry in theory, but the side that fits better was the right one in
  little more than half of the frames with 0.4 waves of it, so it is not used. The direction
  comes from several frames: `refocusd.daemon.acquisitions.focus.tracker`.

The alternative, a profile's focus curve (`benchmarks/quality/focus_curve.py`) applied to the
ratio of the focus scores before and after, was three to thirty times worse on the same frames
from 3 um on (and as good below that), because it depends on the specimen.

References
----------
J. W. Goodman, Introduction to Fourier Optics, chapter 6 (OTF of a defocused pupil).
G. C. Carter, Proc. IEEE 75, 236 (1987) (variance of a transfer function by its coherence).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import scipy
from numpy.typing import NDArray

from refocusd.errors import ConfigError, InputError
from refocusd.frame import Pixels
from refocusd.imaging.optics import Optics, defocus_otf, geometric_radius_um
from refocusd.profiles.profile import Profile

Floats = NDArray[np.float64]

#: Optics that are assumed for a microscope without a profile: 20x/0.45 and DAPI, as in BBBC006.
DEFAULT_OPTICS = Optics(na=0.45, wavelength_um=0.461, pixel_um=0.645)
#: Distances beyond this cannot be distinguished.
LIMIT_UM = 36.0
#: Radius of the widest disc that the network was trained on, um (NA 0.475 at `LIMIT_UM`).
_WIDEST_UM = LIMIT_UM * math.tan(math.asin(0.475))
#: Optics that the network was trained on; outside, the additional error: um, and a fraction.
_TRAINED_NA = (0.395, 0.505)
_TRAINED_WAVES = 0.16
_UNTRAINED_UM = 3.0
_UNTRAINED_CONFIDENCE = 0.6
#: The same error for optics that were not measured, because they may be outside the range.
_ASSUMED_UM = 1.0
#: Side of a tile, px: wide enough for the disc at 36 um, small enough for 10 ms per frame.
TILE = 256
MIN_TILE = 64
#: Number of tiles that are evaluated: those with most structure.
TILES = 4
#: Rings whose power is less than this many times the noise floor are ignored.
ABOVE_NOISE = 3.0
#: Fewest rings that an OTF is fitted to; the first rings hold the window and uneven illumination.
MIN_RINGS = 5
SKIPPED_RINGS = 2
#: Least uncertainty of a ring: the standard uncertainty of the network's spectrum.
RING_ERROR = 0.05
#: Misfit (rms of the ratio) at which an estimate is hardly credible.
MISFIT = 0.04
#: The same for distances below this, um, where high frequencies count.
NEAR_UM = 8.0
NEAR_MISFIT = 0.10
#: From this fraction of the limit on, an estimate counts as "farther than".
SATURATED = 0.97
#: Largest grid, in samples per side, that the family is computed on; it takes seconds and 100 MiB.
MAX_SAMPLES = 1024
#: Relative uncertainty of the distance that is due to the optics.
MEASURED_OPTICS = 0.03
ASSUMED_OPTICS = 0.20

#: Distances of the family of OTFs, um.
_FAMILY_UM: Floats = np.concatenate(
    [np.arange(0, 6, 0.25), np.arange(6, 20, 0.5), np.arange(20, 60.1, 1.0)]
)
#: Fitted distance for each true one, and its scatter, um: simulated training specimens and
#: optics within the trained ranges, with `live-nuclei`.
_FITTED_UM = (0, 1.1, 1.9, 2.5, 3.1, 4.5, 6.0, 7.6, 9.9, 11.8, 15.4, 19.3, 24.3, 29.2, 31.4, 34.1)
_TRUE_UM = (0, 1.3, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 10.0, 12.0, 16.0, 20.0, 25.0, 30.0, 33.0, 36.0)
_SCATTER_UM = (1.2, 1.3, 1.3, 1.0, 0.9, 0.8, 0.9, 0.9, 0.6, 0.6, 0.5, 0.5, 0.6, 1.2, 2.0, 3.0)


@dataclass(frozen=True, slots=True)
class DefocusEstimate:
    """How far a frame was from focus; the side is not known.

    Parameters
    ----------
    distance_um : float
        Never negative.
    uncertainty_um : float
        Standard uncertainty (k = 1): scatter of the tiles, of the network, and of the optics.
    confidence : float
        From 0 (unknown: the frame has no structure, or no OTF fits) to 1.
    relative : float
        The part of `uncertainty_um` that is proportional to the distance and common to all
        frames of a microscope, because it is due to the optics.
    saturated : bool
        Whether the frame may have been at any distance from `distance_um` on.
    """

    distance_um: float
    uncertainty_um: float
    confidence: float
    relative: float = 0.0
    saturated: bool = False


#: Estimate for a frame without structure.
_NOTHING = DefocusEstimate(0.0, LIMIT_UM, 0.0)


def optics_of(profile: Profile, pixel_um: float | None = None) -> tuple[Optics, bool]:
    """The optics of a profile, and whether they were measured (else nominal or assumed).

    Parameters
    ----------
    profile : Profile
    pixel_um : float, optional
        Of the frames, if their metadata state it; takes precedence over the profile's.

    Raises
    ------
    ConfigError
        If the profile's values are not physical.
    """
    psf, nominal, default = profile.psf, profile.microscope, DEFAULT_OPTICS
    fitted = psf is not None and psf.na is not None
    na = psf.na.value if psf is not None and psf.na is not None else nominal.na
    waves = psf.spherical_waves if psf is not None else None
    index = psf.refractive_index if psf is not None else nominal.refractive_index
    wavelength = (psf.wavelength_um if psf is not None else None) or nominal.wavelength_um
    return (
        Optics(
            na=na or default.na,
            wavelength_um=wavelength or default.wavelength_um,
            refractive_index=index,
            pixel_um=pixel_um or nominal.pixel_um or default.pixel_um,
            spherical_waves=waves.value if waves is not None else 0.0,
            apodisation=psf.apodisation.value if psf is not None and psf.apodisation else 0.0,
        ),
        fitted,
    )


def check_optics(optics: Optics) -> None:
    """Refuse optics so far from the network's that a family of OTFs would be costly and useless.

    Raises
    ------
    ConfigError
    """
    widest_um = geometric_radius_um(optics, float(_FAMILY_UM[-1]))
    finest_um = min(optics.pixel_um, optics.wavelength_um / (4 * optics.na))
    if not 3 * widest_um / finest_um <= MAX_SAMPLES or optics.pixel_um > widest_um:
        raise ConfigError(
            f"defocus is estimated for NA 0.35-0.6 and pixels of about 0.2-2 um; these are NA "
            f"{optics.na:g} and {optics.pixel_um:g} um: check the pixel size and the profile"
        )


def limit_um(optics: Optics) -> float:
    """Distance, um, beyond which frames of these optics cannot be distinguished."""
    return min(LIMIT_UM, _WIDEST_UM / geometric_radius_um(optics, 1.0))


def optics_error(*, measured: bool) -> float:
    """Relative standard uncertainty of distances that is due to the optics."""
    return MEASURED_OPTICS if measured else ASSUMED_OPTICS


def depth_of_field_um(optics: Optics) -> float:
    """Depth of field, um, full width: ``n λ / NA² + n e / NA`` with the pixel e.

    S. Inoué and K. R. Spring, Video Microscopy, 2nd ed. (1997), section 2.4.
    """
    index, na = optics.refractive_index, optics.na
    return index * optics.wavelength_um / na**2 + index * optics.pixel_um / na


def estimate_defocus(
    raw: Pixels, refocused: Pixels, optics: Optics, *, measured: bool = False
) -> DefocusEstimate:
    """Estimate the distance of one frame from focus.

    About 5 ms at 512×512 on one core; half a second more the first time with these optics.

    Parameters
    ----------
    raw, refocused : ndarray of uint8 or uint16, shape (height, width)
        The frame and the network's output (not the raw copy of a frame that passed through).
    optics : Optics
    measured : bool
        Whether `optics` were measured; if not, the uncertainty grows with the distance.

    Returns
    -------
    DefocusEstimate
        With confidence 0 if the frame shows no structure or is less than 64 px wide.

    Raises
    ------
    InputError
        If the shapes differ.
    ConfigError
        If the optics are too different from the network's, see `check_optics`.
    """
    if raw.shape != refocused.shape:
        raise InputError(
            f"a raw frame of {raw.shape} px and a refocused one of {refocused.shape} px do not belong "
            "together: give both versions of one frame"
        )
    side = min(TILE, *raw.shape) & ~1
    if side < MIN_TILE:
        return _NOTHING
    rings = _Rings.of(side)
    spectra = np.array([rings.spectra(raw[at], refocused[at]) for at in _tiles(raw, side)])
    family = _family(optics, side)
    fit = _fit(spectra.mean(axis=0), family, rings.samples)
    if fit is None:
        return _NOTHING
    alone = [found.um for tile in spectra if (found := _fit(tile, family, rings.samples))]
    scatter = _standard_error_um(alone, fit.um)
    limit = limit_um(optics)
    distance = min(limit, float(np.interp(fit.um, _FITTED_UM, _TRUE_UM)))
    saturated = distance > SATURATED * limit
    confidence = _confidence(fit)
    of_network = float(np.interp(fit.um, _FITTED_UM, _SCATTER_UM))
    if not _is_trained_for(optics):
        of_network = math.hypot(of_network, _UNTRAINED_UM)
        confidence *= _UNTRAINED_CONFIDENCE
    elif not measured:
        of_network = math.hypot(of_network, _ASSUMED_UM)
    relative = optics_error(measured=measured)
    uncertainty = math.hypot(scatter, of_network, relative * distance)
    best = limit if saturated else distance
    return DefocusEstimate(best, uncertainty, confidence, relative, saturated)


def _confidence(fit: _Fit) -> float:
    """Confidence, 0 to 1, from how well the optics explain the frame and how many rings had signal."""
    misfit = fit.misfit / (MISFIT if fit.um > NEAR_UM else NEAR_MISFIT)
    return math.exp(-(misfit**2)) * min(1.0, fit.rings / (2 * MIN_RINGS))


def _standard_error_um(alone: list[float], together_um: float) -> float:
    """Standard error of the distance, from the distances that single tiles give."""
    if len(alone) < 2:
        return together_um / 4
    return float(np.std(alone, ddof=1)) / math.sqrt(len(alone))


def _is_trained_for(optics: Optics) -> bool:
    sine = optics.na / optics.refractive_index
    return _TRAINED_NA[0] < sine < _TRAINED_NA[1] and abs(optics.spherical_waves) < _TRAINED_WAVES


@dataclass(frozen=True, slots=True)
class _Fit:
    """The OTF nearest to a ratio: its distance, the misfit (rms) and the number of rings with signal."""

    um: float
    misfit: float
    rings: int


def _fit(spectra: Floats, family: Floats, samples: Floats) -> _Fit | None:
    """Fit the family to one ratio of spectra, shape (3, rings); None without signal."""
    cross, refocused, raw = spectra
    noise = float(np.median(raw[-len(raw) // 6 :]))
    signal = (raw > ABOVE_NOISE * noise) & (refocused > 0)
    signal[:SKIPPED_RINGS] = False
    rings = int(signal.sum())
    if noise < 0 or rings < MIN_RINGS:
        return None
    cross, refocused, raw, samples = (a[signal] for a in (cross, refocused, raw, samples))
    # Defocus never transfers more than focus: a ratio above one means that the network removed noise.
    ratio = np.minimum(cross / refocused * (1 - noise / raw), 1.0)
    coherence = np.clip(cross**2 / (refocused * raw), 1e-3, 0.999)
    variance = (1 - coherence) / coherence * ratio**2 / samples
    weight = 1 / (variance + RING_ERROR**2)
    weight /= weight.sum()
    cost = ((ratio - family[:, signal]) ** 2) @ weight
    best = int(cost.argmin())
    return _Fit(_vertex(cost, best), math.sqrt(float(cost[best])), rings)


def _vertex(cost: Floats, best: int) -> float:
    """Minimum of the parabola through the least cost and its neighbours."""
    if best in (0, len(cost) - 1):
        return float(_FAMILY_UM[best])
    x, y = _FAMILY_UM[best - 1 : best + 2], cost[best - 1 : best + 2]
    curve, slope, _ = np.polyfit(x - x[1], y, 2)
    if curve <= 0:
        return float(x[1])
    return float(np.clip(x[1] - slope / (2 * curve), x[0], x[2]))


@dataclass(frozen=True, slots=True, eq=False)
class _Rings:
    """Rings of equal spatial frequency in the half-spectrum of a square tile."""

    window: NDArray[np.float32]
    index: NDArray[np.intp]
    weight: Floats
    samples: Floats

    @staticmethod
    @lru_cache(maxsize=8)
    def of(side: int) -> _Rings:
        """The rings of tiles of this side, one frequency step wide."""
        rows, columns = np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)[None, :]
        radius = np.rint(np.hypot(rows, columns) * side).astype(np.intp)
        # Columns between the first and the last also represent their mirror images.
        weight = np.full(radius.shape, 2.0)
        weight[:, [0, -1]] = 1.0
        within = radius < side // 2
        index = np.where(within, radius, side // 2).ravel()
        flat = weight.ravel()
        samples = np.bincount(index, flat, side // 2 + 1)[: side // 2].astype(np.float64)
        slope = np.hanning(side).astype(np.float32)
        return _Rings(np.outer(slope, slope), index, flat, samples)

    def mean(self, values: NDArray[np.floating]) -> Floats:
        """Mean over each ring."""
        length = len(self.samples)
        sums = np.bincount(self.index, values.ravel() * self.weight, length + 1)[:length]
        return np.asarray(sums / self.samples)

    def spectra(self, raw: Pixels, refocused: Pixels) -> Floats:
        """Cross-spectrum, power refocused, power raw by ring: shape (3, rings)."""
        before, after = (scipy.fft.rfft2(self._windowed(tile)) for tile in (raw, refocused))
        return np.stack(
            [
                self.mean(before.real * after.real + before.imag * after.imag),
                self.mean(after.real**2 + after.imag**2),
                self.mean(before.real**2 + before.imag**2),
            ]
        )

    def _windowed(self, tile: Pixels) -> NDArray[np.float32]:
        values = tile.astype(np.float32)
        values -= values.mean()
        values *= self.window
        return values


@lru_cache(maxsize=16)
def _family(optics: Optics, side: int) -> Floats:
    """OTFs relative to focus, by ring: shape (distances, rings)."""
    check_optics(optics)
    rings = _Rings.of(side)
    sharp = rings.mean(defocus_otf(optics, 0.0, (side, side)))
    otfs = np.array([rings.mean(defocus_otf(optics, um, (side, side))) for um in _FAMILY_UM])
    return np.asarray(otfs / np.maximum(sharp, 1e-3))


def _tiles(raw: Pixels, side: int) -> list[tuple[slice, slice]]:
    """The tiles with most structure, spread over the frame."""
    places = [
        (slice(top, top + side), slice(left, left + side))
        for top in _starts(raw.shape[0], side)
        for left in _starts(raw.shape[1], side)
    ]
    if len(places) <= TILES:
        return places
    return sorted(places, key=lambda at: -float(np.std(raw[at][::4, ::4])))[:TILES]


def _starts(length: int, side: int) -> list[int]:
    count = min(4, length // side)
    # Two tiles overlap where one would leave more than an eighth of the frame unseen.
    if count == 1 and length > 1.125 * side:
        count = 2
    return [round(start) for start in np.linspace(0, length - side, count)]

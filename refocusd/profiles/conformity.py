"""Warnings, in sentences, if an acquisition, its calibration profile and the model disagree."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from refocusd.profiles.microscope_metadata import bit_depth_of, magnification_of, na_of, pixel_um_of
from refocusd.profiles.profile import Measured, Profile

#: A measurement that is older than this counts as stale: cameras age, stages are serviced.
STALE_AFTER = timedelta(days=180)
SECTIONS = ("camera", "focus", "psf")
#: Values of one microscope agree within this fraction.
SAME = 0.02
#: A measured value counts as inside a range if it is within this many standard uncertainties of it.
SIGMAS = 2.0
#: Names of the ranges in a bundle, and their names in messages.
_RANGES = {
    "pixel_um": ("a pixel of {} um", "um"),
    "na": ("an NA of {}", ""),
    "wavelength_um": ("an emission wavelength of {} um", "um"),
    "spherical_waves": ("a spherical aberration of {} waves", "waves"),
}


def stale(profile: Profile, *, now: datetime | None = None) -> list[str]:
    """Say which sections of a profile are too old to rely on, or have no date."""
    now = now or datetime.now(UTC)
    said = []
    for name in SECTIONS:
        if getattr(profile, name) is None:
            continue
        text = profile.measured.get(name, profile.created)
        try:
            age = now - datetime.fromisoformat(text)
        except (TypeError, ValueError):
            said.append(f"the date {text!r} of its {name} section cannot be read: measure again")
            continue
        if age > STALE_AFTER:
            said.append(
                f"its {name} section was measured {age.days} days ago, on {text[:10]}: measure again"
            )
        elif age < timedelta(days=-1):
            said.append(
                f"its {name} section was measured in the future ({text}): check this computer's clock"
            )
    return said


def against_profile(metadata: Mapping[str, Any], profile: Profile) -> list[str]:
    """Warnings where a frame's metadata and its profile disagree."""
    microscope = profile.microscope
    psf = profile.psf
    pixel = _measured(psf.pixel_um if psf else None) or _nominal(microscope.pixel_um)
    na = _measured(psf.na if psf else None) or _nominal(microscope.na)
    pairs = (
        ("pixel size", pixel_um_of(metadata), pixel, " um"),
        ("NA", na_of(metadata), na, ""),
        ("magnification", magnification_of(metadata), _nominal(microscope.magnification), ""),
    )
    said = [
        f"the acquisition's {what} ({stated:g}{unit}) is not that of calibration profile "
        f"{profile.id()} ({value[0]:g}{unit}): correct the one that is wrong, or calibrate again"
        for what, stated, value, unit in pairs
        if stated is not None and value is not None and _differ(stated, value)
    ]
    bits = bit_depth_of(metadata)
    # 65535 is the schema's "not reached".
    full = profile.camera.saturation_counts if profile.camera else None
    if bits and full and full != 65535 and 2**bits - 1 < 0.9 * full:
        said.append(
            f"the acquisition's camera counts to {2**bits - 1} and calibration profile {profile.id()} "
            f"was measured up to {full:g}: another gain or readout mode; calibrate that one"
        )
    return said


def unchecked(profile: Profile) -> list[str]:
    """Say which checks failed, for a profile that was written nevertheless."""
    failed = ", ".join(item.name for item in profile.checks if not item.passed)
    return [f"it was written although checks failed ({failed}): measure again"] if failed else []


@dataclass(frozen=True, slots=True)
class Trained:
    """What a model was trained for.

    Parameters
    ----------
    model : str
        Its name.
    ranges : mapping of str to (low, high)
        By name, of the model bundle.
    """

    model: str
    ranges: Mapping[str, tuple[float, float]]


def against_training(
    metadata: Mapping[str, Any], profile: Profile | None, trained: Trained
) -> list[str]:
    """Warnings about known properties of the optics that the model was not trained for.

    Parameters
    ----------
    metadata : mapping
        Of a frame.
    profile : Profile or None
        Of the frame; its measured values take precedence over the metadata.
    trained : Trained
    """
    psf = profile.psf if profile else None
    microscope = profile.microscope if profile else None
    known = {
        "pixel_um": _measured(psf.pixel_um if psf else None)
        or _nominal(pixel_um_of(metadata))
        or _nominal(microscope.pixel_um if microscope else None),
        "na": _measured(psf.na if psf else None)
        or _nominal(na_of(metadata))
        or _nominal(microscope.na if microscope else None),
        "wavelength_um": _nominal(psf.wavelength_um if psf else None)
        or _nominal(microscope.wavelength_um if microscope else None),
        "spherical_waves": _measured(psf.spherical_waves if psf else None),
    }
    said = []
    for name, value in known.items():
        if value is None or name not in trained.ranges:
            continue
        (low, high), (words, unit) = trained.ranges[name], _RANGES[name]
        spread = SIGMAS * value[1]
        if not low - spread <= value[0] <= high + spread:
            said.append(
                f"{words.format(f'{value[0]:g}')} is outside the range that the model {trained.model} was trained "
                f"for ({low:g} to {high:g}{' ' + unit if unit else ''}): refocused frames may be wrong"
            )
    return said


def _measured(value: Measured | None) -> tuple[float, float] | None:
    return None if value is None else (value.value, max(value.uncertainty, 0.0))


def _nominal(value: float | None) -> tuple[float, float] | None:
    return None if value is None else (value, 0.0)


def _differ(stated: float, value: tuple[float, float]) -> bool:
    return abs(stated - value[0]) > max(SAME * abs(value[0]), SIGMAS * value[1])

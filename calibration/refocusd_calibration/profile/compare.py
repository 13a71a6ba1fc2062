"""Compares two profiles number by number with limits, to tell whether the microscope drifted."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from refocusd.errors import InputError
from refocusd.profiles.conformity import SECTIONS
from refocusd.profiles.profile import Measured, Profile
from refocusd_calibration.profile.write import differences

#: A difference of fewer standard uncertainties is not a drift.
SIGMA = 2.0


@dataclass(frozen=True, slots=True)
class Limit:
    """How far a number may move; the larger of the two values applies.

    Parameters
    ----------
    percent : float
        Of the first profile's value.
    absolute : float
        In the number's own unit.
    """

    percent: float = 0.0
    absolute: float = 0.0

    def allowed(self, value: float) -> float:
        """The largest difference from `value` that is not a drift."""
        return max(abs(value) * self.percent / 100, self.absolute)


#: Differences up to these are what service engineers call unchanged.
LIMITS = {
    "camera.offset_counts": Limit(absolute=2.0),
    "camera.gain_e_per_count": Limit(percent=3.0),
    "camera.read_noise_e": Limit(percent=10.0),
    "camera.dark_current_e_per_s": Limit(percent=30.0, absolute=1.0),
    "camera.full_well_e": Limit(percent=5.0),
    "camera.linearity_error_percent": Limit(absolute=1.0),
    "camera.prnu_percent": Limit(absolute=0.5),
    "camera.dsnu_e": Limit(percent=30.0, absolute=0.5),
    "camera.hot_pixel_count": Limit(percent=25.0, absolute=20.0),
    "focus.depth_of_field_um": Limit(percent=20.0),
    "focus.tilt_mrad.0": Limit(absolute=1.0),
    "focus.tilt_mrad.1": Limit(absolute=1.0),
    "focus.curvature_per_m": Limit(percent=30.0, absolute=2.0),
    "focus.backlash_um": Limit(absolute=0.5),
    "focus.repeatability_um": Limit(absolute=0.3),
    "focus.drift_um_per_min": Limit(absolute=0.3),
    "psf.na": Limit(percent=5.0),
    "psf.spherical_waves": Limit(absolute=0.1),
    "psf.pixel_um": Limit(percent=1.0),
    "psf.blur_um_per_um": Limit(percent=5.0),
    "psf.blur_focus_um": Limit(percent=10.0),
    "psf.asymmetry": Limit(absolute=0.1),
}


@dataclass(frozen=True, slots=True)
class Difference:
    """One number in both profiles.

    Parameters
    ----------
    name : str
        Section and field, e.g. ``camera.gain_e_per_count``.
    before, after : float
    uncertainty : float
        Standard uncertainty of the difference; 0 where none is stated.
    allowed : float
    """

    name: str
    before: float
    after: float
    uncertainty: float
    allowed: float

    @property
    def drifted(self) -> bool:
        """Whether the change exceeds the limit and what chance explains."""
        moved = abs(self.after - self.before)
        return moved > self.allowed and moved > SIGMA * self.uncertainty

    def as_json(self) -> dict[str, Any]:
        """The difference as plain data."""
        return {**asdict(self), "drifted": self.drifted}


def compare_profiles(one: Profile, other: Profile) -> list[Difference]:
    """Compare what both profiles measured.

    Parameters
    ----------
    one, other : Profile
        Before and after.

    Raises
    ------
    InputError
        If they are of different microscopes, or have no measurement in common.
    """
    apart = differences(one.microscope, other.microscope)
    if apart:
        raise InputError(
            f"the profiles are of different microscopes ({'; '.join(apart)}): compare two of the same one"
        )
    found = []
    for name, limit in LIMITS.items():
        before, after = _value(one, name), _value(other, name)
        if before is None or after is None:
            continue
        uncertainty = math.hypot(before.uncertainty, after.uncertainty)
        allowance = limit.allowed(before.value)
        found.append(Difference(name, before.value, after.value, uncertainty, allowance))
    if not found:
        raise InputError(
            "the profiles have no measurement in common: calibrate the same sections "
            f"({', '.join(SECTIONS)}) in both"
        )
    return found


def _value(profile: Profile, name: str) -> Measured | None:
    value: Any = profile
    for part in name.split("."):
        if value is None:
            return None
        value = value[int(part)] if part.isdigit() else getattr(value, part)
    if isinstance(value, int | float):
        return Measured(value=float(value), uncertainty=0.0)
    return value if isinstance(value, Measured) else None

"""Compares two profiles number by number with limits, to tell whether the microscope drifted."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import msgspec

from refocusd.errors import ConfigError, InputError
from refocusd.files import read_limited
from refocusd.profiles.conformity import SECTIONS
from refocusd.profiles.profile import Measured, Profile
from refocusd_calibration.profile.write import differences

#: A difference of fewer standard uncertainties is not a drift.
SIGMA = 2.0


class Limit(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Largest change of a number that is not a drift; the larger of the two limits applies.

    Parameters
    ----------
    percent : float
        Limit in percent of the first profile's value.
    absolute : float
        Limit in the number's own unit.
    """

    percent: float = 0.0
    absolute: float = 0.0

    def allowed(self, value: float) -> float:
        """The largest difference from `value` that is not a drift."""
        return max(abs(value) * self.percent / 100, self.absolute)


Limits = dict[str, Limit]

#: Changes that service engineers consider insignificant; `--limits FILE` overrides any of them.
DEFAULT_LIMITS: Limits = {
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
        Standard uncertainty of the difference; 0 if none is stated.
    allowed : float
        Largest difference that is not a drift.
    """

    name: str
    before: float
    after: float
    uncertainty: float
    allowed: float

    @property
    def drifted(self) -> bool:
        """Whether the change exceeds both the limit and its uncertainty."""
        moved = abs(self.after - self.before)
        return moved > self.allowed and moved > SIGMA * self.uncertainty

    def as_json(self) -> dict[str, Any]:
        """The difference as plain data."""
        return {**asdict(self), "drifted": self.drifted}


def compare_profiles(
    one: Profile, other: Profile, limits: Limits | None = None
) -> list[Difference]:
    """Compare the numbers that both profiles have.

    Parameters
    ----------
    one, other : Profile
        Before and after.
    limits : dict of str to Limit, optional
        Replace those of `DEFAULT_LIMITS` with the same names.

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
    allowed = {**DEFAULT_LIMITS, **(limits or {})}
    found = []
    for name, limit in allowed.items():
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


def load_limits(path: Path) -> Limits:
    """Read limits from a TOML file.

    One table for each number: ``["camera.gain_e_per_count"]`` with `percent`,
    `absolute`, or both.

    Raises
    ------
    ConfigError
        If it cannot be read, is not a file of limits, or names an unknown number.
    """
    try:
        limits = msgspec.toml.decode(read_limited(path, 1 << 20), type=dict[str, Limit])
    except OSError as error:
        raise ConfigError(f"the limits {path} cannot be read: {error.strerror}") from error
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise ConfigError(
            f"{path} does not hold limits ({error}): write tables such as "
            '["camera.gain_e_per_count"] with percent = 3'
        ) from error
    for name, limit in limits.items():
        if name not in DEFAULT_LIMITS:
            raise ConfigError(
                f"{path} limits {name!r}, which is not a number of a profile; these are: "
                f"{', '.join(DEFAULT_LIMITS)}"
            )
        if limit.percent < 0 or limit.absolute < 0:
            raise ConfigError(f"{path}: the limit of {name} is negative")
    return limits

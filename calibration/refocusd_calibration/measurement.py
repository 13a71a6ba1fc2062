"""The result of every measurement: a section of the profile, checks and notes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from refocusd.profiles.profile import Check
from refocusd_calibration.profile.write import Map, Section


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """The result of a measurement, with checks that say whether it is valid.

    Parameters
    ----------
    section : CameraSection, FocusSection or PsfSection
        The section for the profile.
    checks : tuple of Check
    notes : tuple of str
        Remarks that do not affect the checks: what was left out or could not be measured.
    maps : mapping of str to Map
        Maps to store beside the profile; a camera has ``offset``, ``variance``, ``gain`` and ``flat``, as
        far as there are enough frames.
    """

    section: Section
    checks: tuple[Check, ...]
    notes: tuple[str, ...] = ()
    maps: Mapping[str, Map] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        """Whether every check passed."""
        return all(check.passed for check in self.checks)


def check(name: str, passed: bool, detail: str, advice: str = "") -> Check:
    """One condition that a measurement must meet to be valid.

    Parameters
    ----------
    name : str
    passed : bool
        A numpy bool is converted to a plain one for profiles and JSON.
    detail : str
        What was found.
    advice : str
        What to do about it; added to the detail of a check that failed.
    """
    failed = not passed
    return Check(
        name=name, passed=not failed, detail=f"{detail}: {advice}" if failed and advice else detail
    )

"""The result of every measurement: a section of the profile, checks and notes."""

from __future__ import annotations

from dataclasses import dataclass

from refocusd.profiles.profile import CameraSection, Check, FocusSection, PsfSection


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """The result of a measurement, with checks that say whether it is valid.

    Parameters
    ----------
    section : CameraSection, FocusSection or PsfSection
        For the profile.
    checks : tuple of Check
    notes : tuple of str
        Remarks without influence on the checks: what was left out or could not be measured.
    """

    section: CameraSection | FocusSection | PsfSection
    checks: tuple[Check, ...]
    notes: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether every check passed."""
        return all(check.passed for check in self.checks)


def check(name: str, passed: bool, detail: str, advice: str = "") -> Check:
    """One condition that a measurement must meet to be believed.

    Parameters
    ----------
    name : str
    passed : bool
        A numpy bool becomes a plain one, which profiles and JSON can hold.
    detail : str
        What was found.
    advice : str
        What to do about it, added to the detail of a check that failed.
    """
    failed = not passed
    return Check(
        name=name, passed=not failed, detail=f"{detail}: {advice}" if failed and advice else detail
    )

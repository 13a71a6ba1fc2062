"""Input of an examination, and the findings of its checks."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from refocusd.config import Settings
from refocusd.errors import ConfigError
from refocusd.formats.disk_space import free_space_needed

_PLAN = re.compile(r"(\d{1,6})x(\d{1,6})x(\d{1,2}),(\d{1,12})", re.ASCII)


@dataclass(frozen=True, slots=True)
class Plan:
    """A planned acquisition.

    Parameters
    ----------
    width, height : int
        Size of a frame, in pixels.
    bits : int
        Bits of the camera, 1 to 16; 9 and more are stored in 16.
    frames : int
        Number of frames of all channels, planes, positions and times.
    """

    width: int
    height: int
    bits: int
    frames: int

    @property
    def frame_nbytes(self) -> int:
        """Bytes of one frame's pixels."""
        return self.width * self.height * (1 if self.bits <= 8 else 2)

    @property
    def nbytes(self) -> int:
        """Bytes needed on disk: for the raw dataset, and the refocused one of the same size."""
        return 2 * free_space_needed(self.frame_nbytes, self.frames)


def parse_plan(text: str) -> Plan:
    """Read ``WIDTHxHEIGHTxBITS,FRAMES``, e.g. ``2048x2048x16,1000``.

    Raises
    ------
    ConfigError
        If the text has another form, or a number is out of range.
    """
    match = _PLAN.fullmatch(text.strip().lower())
    if match is None:
        raise ConfigError(
            f"--plan {text!r}: write WIDTHxHEIGHTxBITS,FRAMES, for example 2048x2048x16,1000"
        )
    plan = Plan(*(int(number) for number in match.groups()))
    if not (plan.width and plan.height and plan.frames and 1 <= plan.bits <= 16):
        raise ConfigError(
            f"--plan {text!r}: width, height and frames are at least 1, bits between 1 and 16"
        )
    return plan


@dataclass(frozen=True, slots=True)
class Case:
    """Parameters of an examination.

    Parameters
    ----------
    settings : Settings
        The settings in force.
    folder : Path
        Where acquisitions are saved.
    plan : Plan, optional
        The acquisition that the disk must have room for.
    """

    settings: Settings
    folder: Path
    plan: Plan | None = None


Mark = Literal["OK", "!!", "--"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report.

    Parameters
    ----------
    mark : {"OK", "!!", "--"}
        Fine; not as it should be; does not apply here.
    name : str
        What was checked; empty for the name of the check.
    says : str
        What was found.
    advice : str
        What to do; empty if nothing needs to be done.
    blocks : bool
        Whether nothing can be refocused before this is fixed.
    """

    mark: Mark
    name: str
    says: str
    advice: str = ""
    blocks: bool = False


def fine(says: str, advice: str = "", *, name: str = "") -> Finding:
    """A finding that is as it should be."""
    return Finding("OK", name, says, advice)


def not_applicable(says: str, advice: str = "", *, name: str = "") -> Finding:
    """A finding about something that is not there, and not needed."""
    return Finding("--", name, says, advice)


def doubtful(says: str, advice: str, *, name: str = "") -> Finding:
    """A finding about something that works, but not as well as it could."""
    return Finding("!!", name, says, advice)


def broken(says: str, advice: str, *, name: str = "") -> Finding:
    """A finding about something that is needed, and does not work."""
    return Finding("!!", name, says, advice, blocks=True)

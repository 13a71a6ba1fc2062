"""What a check found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Mark = Literal["OK", "!!", "--"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report.

    Parameters
    ----------
    mark : {"OK", "!!", "--"}
        Fine; not as it should be; does not apply here.
    name : str
        What was looked at; empty for the name of the check.
    says : str
        What was found.
    advice : str
        What to do; empty where nothing is to be done.
    blocks : bool
        Nothing can be refocused before this is put right.
    """

    mark: Mark
    name: str
    says: str
    advice: str = ""
    blocks: bool = False


def fine(says: str, advice: str = "", *, name: str = "") -> Finding:
    """As it should be."""
    return Finding("OK", name, says, advice)


def not_applicable(says: str, advice: str = "", *, name: str = "") -> Finding:
    """Not there, and not needed."""
    return Finding("--", name, says, advice)


def doubtful(says: str, advice: str, *, name: str = "") -> Finding:
    """Works, but not as well as it could."""
    return Finding("!!", name, says, advice)


def broken(says: str, advice: str, *, name: str = "") -> Finding:
    """Needed, and does not work."""
    return Finding("!!", name, says, advice, blocks=True)

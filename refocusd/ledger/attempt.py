"""What a ledger holds, as plain data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

__all__ = ["WRITTEN", "AcquisitionNote", "Attempt", "Fate", "RunNote"]

#: States of frames whose pixels are in the refocused dataset.
WRITTEN = frozenset({"refocused", "passed_through"})


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt at one frame, ended.

    Parameters
    ----------
    run, acquisition, axes : str
        Together the frame's key; `axes` in canonical form.
    state : {"refocused", "passed_through", "skipped", "failed"}
    reason : str
        The rule, the error, or empty.
    live : bool
        While acquiring, not caught up from raw.
    latency_ms : float or None
        From the hook to the refocused frame on disk.
    engine_ms : float or None
        Time inside the engine.
    facts : dict
        What else was found out (focus scores, flux ratio, ...).
    checksum, raw_checksum : int or None
        64-bit XXH3 of the refocused and of the raw pixels' bytes; None if not known.
    """

    run: str
    acquisition: str
    axes: str
    state: str
    reason: str = ""
    live: bool = True
    latency_ms: float | None = None
    engine_ms: float | None = None
    facts: dict[str, Any] | None = None
    checksum: int | None = None
    raw_checksum: int | None = None
    #: When it ended, seconds since 1970; set by the ledger.
    at: float = 0.0


@dataclass(frozen=True, slots=True)
class Fate:
    """What the latest attempt at a frame came to: all that a reconciliation needs of it."""

    axes: str
    state: str
    reason: str = ""
    checksum: int | None = None
    raw_checksum: int | None = None


@dataclass(frozen=True, slots=True)
class RunNote:
    """What a ledger says of a run: version of refocusd; engine and settings as JSON."""

    version: str
    engine: str
    settings: str


@dataclass(frozen=True, slots=True)
class AcquisitionNote:
    """What a ledger says of an acquisition.

    Parameters
    ----------
    name, raw, output : str
        As they were when it was opened: the folders may have been moved since.
    closed : bool
        It is complete: every frame that went by had a final state.
    acquired : int or None
        Frames that went by; known once it is closed.
    """

    name: str
    raw: str
    output: str
    closed: bool
    acquired: int | None

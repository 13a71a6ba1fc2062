"""The contents of a ledger, as plain data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

#: States of frames whose pixels are in the refocused dataset.
WRITTEN = frozenset({"refocused", "passed_through"})
#: Possible verdicts on a frame, see `refocusd.engines.verdict`; frames of older versions have none.
VERDICTS = ("trusted", "doubtful", "untrusted", "passed_through")


@dataclass(frozen=True, slots=True)
class Attempt:
    """One finished attempt at refocusing one frame.

    Parameters
    ----------
    run, acquisition, axes : str
        Together they are the frame's key; `axes` in canonical form.
    state : {"refocused", "passed_through", "skipped", "failed"}
    reason : str
        The rule of a skipped frame, the error of a failed one, otherwise empty.
    live : bool
        Whether it was refocused during the acquisition, not caught up from raw.
    latency_ms : float or None
        Time from the hook to the refocused frame on disk, in ms.
    engine_ms : float or None
        Time inside the engine, in ms.
    facts : dict
        Further results (focus scores, flux ratio, ...).
    checksum, raw_checksum : int or None
        64-bit XXH3 of the bytes of the refocused and of the raw pixels; None if unknown.
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
    #: Time at which it ended, seconds since 1970; set by the ledger.
    at: float = 0.0


@dataclass(frozen=True, slots=True)
class Fate:
    """Outcome of the latest attempt at a frame, as far as a reconciliation needs it."""

    axes: str
    state: str
    reason: str = ""
    checksum: int | None = None
    raw_checksum: int | None = None


@dataclass(frozen=True, slots=True)
class AcquisitionNote:
    """An acquisition, as recorded in a ledger.

    Parameters
    ----------
    name, raw, output : str
        As they were when it was opened; the folders may have been moved since.
    closed : bool
        Whether it is complete: every acquired frame had a final state.
    acquired : int or None
        Number of acquired frames; known once it is closed.
    """

    name: str
    raw: str
    output: str
    closed: bool
    acquired: int | None

"""Moves the focus stage by the daemon's advice: only within the user's limits, and carefully.

Runs in `post_hardware_hook_fn`, in the acquisition engine's own thread, after the hardware of a
frame is set and before its exposure, so that no frame is exposed while the stage moves.  It never

- moves without `FocusLimits` in the script *and* `correct_focus` in the daemon;
- leaves the limits;
- moves in a z-series (which shows focus by itself) or in a hardware sequence;
- moves in an unknown direction, except for one bounded probe if that is allowed;
- raises.

If anything is odd, it stops for the rest of the acquisition: an error of the core, a stage that
does not arrive, a frame that is worse after a move (which is then undone, once), the stop file,
`halt`.  It then never moves the stage again; only the acquisition's own events do.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from refocusd.frame import canonical_axes
from refocusd.sources.focus_limits import FocusLimits
from refocusd.sources.once import Once
from refocusd.transport.messages import Advice, FocusAdvice

log = logging.getLogger(__name__)

Hook = Callable[..., Any]

#: Key in a frame's metadata for the stage position and its corrections.
METADATA_KEY = "RefocusdFocus"
#: Smaller moves are not made, and smaller differences are ignored, um.
LEAST_UM = 0.05
#: A correction ends within this fraction of the depth of field.
END_AT = 0.25
#: Advice with less confidence is ignored.
MIN_CONFIDENCE = 0.3
#: At most this many records wait for the metadata of their frames.
MAX_RECORDS = 1000


@dataclass(slots=True)
class _Field:
    """One position of the acquisition."""

    #: The acquisition's own stage position, and the correction added to it.
    base_um: float
    correction_um: float = 0.0
    correcting: bool = False
    probed: bool = False
    moved_at: float = -math.inf
    #: Before the last move, until that has been judged: the correction and the advice.
    before: tuple[float, FocusAdvice] | None = None


class _StopError(Exception):
    """Nothing may be moved any more; the text gives the reason."""


class FocusHook:
    """Corrects the focus during one acquisition.

    Parameters
    ----------
    limits : FocusLimits
    core : callable, optional
        Returns the running core; by default ``pycromanager.Core``.

    `advise` and `halt` may be called in any thread; the hook runs in the engine's.
    """

    def __init__(self, limits: FocusLimits, core: Callable[[], Any] | None = None) -> None:
        self.limits = limits
        #: Why the stage is not moved any more; empty while it may be.
        self.halted = ""
        #: Moves made so far.
        self.moves = 0
        self._make_core = core or _running_core
        self._core: Any = None
        self._fields: dict[str, _Field] = {}
        #: The newest advice by position, with the time it came.
        self._advice: dict[str, tuple[float, FocusAdvice]] = {}
        self._channel: str | None = None
        self._records: OrderedDict[str, dict[str, Any]] = OrderedDict()
        self._warn = Once(log)
        self._lock = threading.Lock()

    # -- from the daemon ----------------------------------------------------------------

    def advise(self, advice: Advice) -> None:
        """Take in the daemon's newest advice; each is considered once."""
        with self._lock:
            # Channels focus a little differently, so only the first one counts.
            self._channel = advice.channel if self._channel is None else self._channel
            if advice.channel == self._channel:
                self._advice[advice.position] = (time.monotonic(), advice.focus)

    def withdraw(self) -> None:
        """Discard all advice, because the daemon is gone."""
        with self._lock:
            self._advice.clear()

    def halt(self, reason: str) -> None:
        """Never move again in this acquisition."""
        if not self.halted:
            self.halted = reason
            log.error("focus is not corrected any more: %s", reason)

    # -- hooks --------------------------------------------------------------------------

    def around(self, own: Hook | None) -> Hook:
        """A `post_hardware_hook_fn` that runs the user's own first."""
        _repair_tags()

        def hook(event: Any) -> Any:
            event = event if own is None else own(event)
            # A user's hook may cancel the event; a hardware sequence is a list of events.
            if isinstance(event, dict) and event.get("axes"):
                self._on_event(event)
            return event

        return hook

    def note(self, metadata: Any) -> None:
        """Add the stage position and any move to a frame's metadata."""
        try:
            with self._lock:
                record = self._records.pop(canonical_axes(metadata["Axes"]), None)
            if record is not None:
                metadata[METADATA_KEY] = record
        except Exception as error:  # noqa: BLE001 (must not raise into the acquisition)
            self.halt(f"a frame's metadata cannot be completed: {error}")

    # -- the stage ----------------------------------------------------------------------

    def _on_event(self, event: Mapping[str, Any]) -> None:
        """Correct the focus before a frame is exposed, and keep a record for its metadata."""
        record: dict[str, Any] = {"moves": self.moves}
        key = ""
        try:
            key = canonical_axes(event["axes"])
            self._correct(event, record)
        except _StopError as stop:
            self.halt(str(stop))
        except Exception as error:  # noqa: BLE001 (must not raise into the acquisition)
            self.halt(f"{type(error).__name__}: {error}")
        if self.halted:
            record["halted"] = self.halted
        with self._lock:
            self._records[key] = record
            while len(self._records) > MAX_RECORDS:
                self._records.popitem(last=False)

    def _correct(self, event: Mapping[str, Any], record: dict[str, Any]) -> None:
        axes, limits = event["axes"], self.limits
        if limits.stop_file is not None and Path(limits.stop_file).exists():
            self.halt(f"{limits.stop_file} exists")
        if "z" in axes or self.halted:
            return
        self._core = self._core or self._make_core()
        here = float(self._core.get_position())
        record["stage_um"] = round(here, 4)
        position = str(axes.get("position", ""))
        field = self._field(position, event.get("z"), here)
        before = field.correction_um
        stop = self._decide(position, field)
        target = field.base_um + field.correction_um
        record["stage_um"] = round(self._go(here, target), 4)
        record["correction_um"] = round(field.correction_um, 4)
        if moved := field.correction_um - before:
            self.moves += 1
            record["moved_um"] = round(moved, 4)
            record["moves"] = self.moves
            log.info("focus: stage moved by %+.2f um to %.2f um", moved, target)
        if stop:
            raise _StopError(stop)

    def _field(self, position: str, z_um: float | None, here: float) -> _Field:
        """The state of this position, with the acquisition's own stage position up to date."""
        # If events name no z, nothing brings the stage back, so all positions share one state.
        field = self._fields.setdefault(position if z_um is not None else "", _Field(here))
        if z_um is not None:
            if abs(field.base_um - z_um) > LEAST_UM:
                # The acquisition itself has moved the stage: our last move cannot be judged.
                field.before = None
            field.base_um = float(z_um)
        elif abs(here - field.base_um - field.correction_um) > self.limits.arrive_um:
            # Somebody else has moved the stage: start again from there.
            self._fields[""] = field = _Field(here)
        return field

    def _go(self, here: float, target: float) -> float:
        """Move the stage, wait for it, and check its position; return that."""
        if abs(target - here) <= LEAST_UM:
            return here
        if not self.limits.low_um <= target <= self.limits.high_um:
            raise _StopError(f"{target:.2f} um is outside the limits")  # never: see `_within`
        core = self._core
        core.set_position(target)
        core.wait_for_device(core.get_focus_device())
        there = float(core.get_position())
        if not abs(there - target) <= self.limits.arrive_um:
            raise _StopError(
                f"the stage was sent to {target:.2f} um and is at {there:.2f} um: check it"
            )
        return there

    # -- the decision -------------------------------------------------------------------

    def _decide(self, position: str, field: _Field) -> str:
        """Set the field's correction; return why it must be the last one, or an empty text."""
        limits = self.limits
        if not limits.low_um <= field.base_um <= limits.high_um:
            self._warn(f"{field.base_um:.2f} um lies outside the focus limits: not corrected")
            field.correction_um = 0.0
            return ""
        with self._lock:
            came_at, advice = self._advice.pop(position, (0.0, None))
        if advice is None or time.monotonic() - came_at >= limits.max_age_s:
            return ""
        if not self._usable(advice, field):
            return ""
        if field.before is not None:
            correction, earlier = field.before
            field.before = None
            if _worse(advice, earlier):
                field.correction_um = correction
                return (
                    f"after a move the frames were {abs(advice.offset_um):.1f} um out of focus, "
                    f"before it {abs(earlier.offset_um):.1f} um; the move was undone"
                )
        if time.monotonic() - field.moved_at < limits.interval_s:
            return ""
        self._move(field, advice)
        return ""

    def _usable(self, advice: FocusAdvice, field: _Field) -> bool:
        """Whether the advice is for the present stage position, and based on enough frames."""
        target = field.base_um + field.correction_um
        return (
            advice.stage_um is not None
            and math.isfinite(advice.offset_um)
            and abs(advice.stage_um - target) <= self.limits.arrive_um
            and advice.estimates >= self.limits.estimates
            and advice.confidence >= MIN_CONFIDENCE
        )

    def _move(self, field: _Field, advice: FocusAdvice) -> None:
        size, limits = abs(advice.offset_um), self.limits
        depth = advice.depth_of_field_um
        if not field.correcting:
            field.correcting = size > max(limits.start_at * depth, advice.uncertainty_um)
        elif size <= END_AT * depth or (advice.in_focus and not advice.direction_known):
            field.correcting = False
        if not field.correcting:
            return
        before = field.correction_um
        if advice.direction_known:
            move = max(-limits.step_um, min(limits.step_um, advice.offset_um))
        elif limits.probe_um and not field.probed:
            field.probed = True
            # Towards the middle of the limits, where there is room.
            here = field.base_um + before
            move = math.copysign(limits.probe_um, (limits.low_um + limits.high_um) / 2 - here)
        else:
            return
        field.correction_um = self._within(field.base_um, before + move)
        if abs(field.correction_um - before) <= LEAST_UM:
            field.correction_um = before
            self._warn(f"focus is {size:.1f} um away, but a limit is reached")
            return
        field.moved_at = time.monotonic()
        # A probe is not judged, because it may well go in the wrong direction.
        judged = advice.direction_known and not advice.in_focus
        field.before = (before, advice) if judged else None

    def _within(self, base_um: float, correction_um: float) -> float:
        limits = self.limits
        bounded = max(-limits.total_um, min(limits.total_um, correction_um))
        return max(limits.low_um, min(limits.high_um, base_um + bounded)) - base_um


def _worse(now: FocusAdvice, before: FocusAdvice) -> bool:
    """Whether the distance grew by more than half of the joint uncertainty of both."""
    grown = abs(now.offset_um) - abs(before.offset_um)
    return grown > math.hypot(now.uncertainty_um, before.uncertainty_um) / 2


def _running_core() -> Any:
    from pycromanager import Core

    return Core()


def _repair_tags() -> None:
    """Let events with tags pass through hooks.

    pycromanager 1.0.2 calls `getTags` and `setTags` of its events, which have other names there, and
    aborts an acquisition that has both a hook and tags.
    """
    from pycromanager.acquisition.acq_eng_py.main.acquisition_event import AcquisitionEvent

    for wanted, there in (("getTags", "get_tags"), ("setTags", "set_tags")):
        if not hasattr(AcquisitionEvent, wanted) and hasattr(AcquisitionEvent, there):
            setattr(AcquisitionEvent, wanted, getattr(AcquisitionEvent, there))

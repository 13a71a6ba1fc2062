"""Which frames are measured for focus, and the advice that follows for each field.

An estimate takes a worker some milliseconds, so at most two are requested per second, from
the fields and channels in turn.  Each of them has a `FocusTracker`, which gets the answers.
Only the broker's thread uses this.
"""

from __future__ import annotations

import json
import logging
import math
import time
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

from refocusd.config import Settings
from refocusd.daemon.acquisitions.focus.tracker import FocusTracker
from refocusd.daemon.acquisitions.state import Acquisition
from refocusd.errors import ConfigError
from refocusd.formats.metadata import finite_number, json_object
from refocusd.formats.scale import z_position_um
from refocusd.imaging.defocus import (
    DEFAULT_OPTICS,
    DefocusEstimate,
    check_optics,
    depth_of_field_um,
    limit_um,
    optics_error,
    optics_of,
)
from refocusd.imaging.optics import Optics
from refocusd.profiles.applied import channel_name
from refocusd.profiles.microscope_metadata import STAGE_UM, number_within, pixel_um_of
from refocusd.transport import messages as wire
from refocusd.transport.records import FocusAdvice

log = logging.getLogger(__name__)

#: Shortest time between two estimates, of all fields together.
EVERY_S = 0.5
#: A field without a frame for this long gets no turn.
ACTIVE_S = 5.0
#: At most this many fields and channels are tracked; the one that was not seen for longest is forgotten.
MAX_FIELDS = 512
#: Shortest time between two log lines about a field: if the kind of its advice has not changed, and if it has.
LOG_SAME_S = 30.0
LOG_CHANGED_S = 3.0


class _Key(NamedTuple):
    """One field in one channel."""

    acquisition: str
    position: str
    channel: str


@dataclass(slots=True)
class _Field:
    """What is known about a field in one channel; times are `time.monotonic`."""

    seen_at: float = -math.inf
    asked_at: float = -math.inf
    tracker: FocusTracker | None = None
    logged_at: float = -math.inf
    #: The kind of advice that was logged last.
    logged: tuple[bool, ...] = ()
    #: Optics of the last estimate, and whether they were measured.
    optics: Optics = DEFAULT_OPTICS
    measured: bool = False


class FocusMonitor:
    """Requests estimates, and tracks the focus of every field.

    Parameters
    ----------
    settings : Settings
        `advise_focus` or `correct_focus` switches it on.
    every_s : float
        Shortest time between two estimates.
    """

    def __init__(self, settings: Settings, *, every_s: float = EVERY_S) -> None:
        self._on = settings.advise_focus or settings.correct_focus
        self._every_s = every_s
        self._fields: OrderedDict[_Key, _Field] = OrderedDict()
        self._asked_at = -math.inf
        self._complained = False

    def ask(self, acquisition: Acquisition, submit: wire.Submit) -> wire.FocusOptics | None:
        """The optics for an estimate of a frame's defocus; None if it is not to be estimated.

        They come from the calibration profile that applies to the frame; without a profile, they are
        the documented defaults, with the pixel size from the frame's metadata.
        """
        if not (self._on and submit.live):
            return None
        now = time.monotonic()
        key, field = self._field(acquisition.open, submit)
        self._fields.move_to_end(key)
        field.seen_at = now
        while len(self._fields) > MAX_FIELDS:
            self._fields.popitem(last=False)
        # Each of n active fields waits n times as long.
        active = sum(now - other.seen_at < ACTIVE_S for other in self._fields.values())
        if now - self._asked_at < self._every_s or now - field.asked_at < active * self._every_s:
            return None
        pixel_um = pixel_um_of(json_object(submit.metadata) or {})
        profile = acquisition.applied.profile_of(submit.axes, submit.metadata)
        try:
            # Advice moves a stage, so it rests only on profiles that a person has measured.
            if profile is not None and not profile.learned:
                optics, measured = optics_of(profile, pixel_um)
            else:
                optics = replace(DEFAULT_OPTICS, pixel_um=pixel_um or DEFAULT_OPTICS.pixel_um)
                measured = False
            check_optics(optics)
        except ConfigError as error:
            if not self._complained:
                log.warning("no advice on focus: %s", error)
            self._complained = True
            return None
        field.optics, field.measured = optics, measured
        self._asked_at = field.asked_at = now
        return wire.FocusOptics(**asdict(optics), measured=measured)

    def note(
        self, message: wire.Open, submit: wire.Submit, facts: wire.FrameFacts
    ) -> wire.Advice | None:
        """Take in a worker's estimate, and return the advice that follows, if any."""
        if not self._on or facts.defocus_um is None or facts.defocus_uncertainty_um is None:
            return None
        key, field = self._field(message, submit)
        if field.tracker is None:
            field.tracker = FocusTracker(depth_of_field_um(field.optics))
        estimate = DefocusEstimate(
            facts.defocus_um,
            facts.defocus_uncertainty_um,
            facts.defocus_confidence,
            optics_error(measured=field.measured),
            saturated=facts.defocus_um >= limit_um(field.optics) - 1e-6,
        )
        metadata = json_object(submit.metadata) or {}
        x, y = (
            number_within(metadata, (f"{axis}Position_um_Intended",), *STAGE_UM) for axis in "XY"
        )
        xy = None if x is None or y is None else (x, y)
        advice = field.tracker.add(submit.taken_ns / 1e9, stage_um(metadata), estimate, xy)
        if advice is None:
            return None
        self._log(message.name, key, field, advice)
        return wire.Advice(message.acquisition, key.position, key.channel, advice)

    def forget(self, acquisition: str) -> None:
        """Forget the fields of an acquisition that has ended."""
        for key in [key for key in self._fields if key.acquisition == acquisition]:
            del self._fields[key]

    def _field(self, message: wire.Open, submit: wire.Submit) -> tuple[_Key, _Field]:
        position = str(json.loads(submit.axes).get("position", ""))
        channel = channel_name(submit.axes, submit.metadata)
        key = _Key(message.acquisition, position, channel)
        return key, self._fields.setdefault(key, _Field())

    def _log(self, name: str, key: _Key, field: _Field, advice: FocusAdvice) -> None:
        now = time.monotonic()
        kind = (advice.in_focus, advice.direction_known, advice.beyond)
        if now - field.logged_at < (LOG_SAME_S if kind == field.logged else LOG_CHANGED_S):
            return
        field.logged_at, field.logged = now, kind
        where = " ".join(part for part in (key.position, key.channel) if part)
        log.info("%s%s: %s", name, f" ({where})" if where else "", advice.text)


def stage_um(metadata: Mapping[str, Any]) -> float | None:
    """Position of the focus stage, um: as our own hook read it, as intended, or as reported.

    ``Z-Position`` of the Java backend is out of date, so it is not used.
    """
    ours = metadata.get("RefocusdFocus")
    read = ours.get("stage_um") if isinstance(ours, dict) else None
    return finite_number(read, z_position_um(metadata))

"""Which frames are looked at for their focus, and what that says of each field.

An estimate costs a worker some milliseconds, so it is asked for twice a second at most, the
fields and channels in turn; what comes back goes to a `FocusTracker` for each of them.
Belongs to the broker's thread.
"""

from __future__ import annotations

import json
import logging
import math
import time
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from refocusd.config import Settings
from refocusd.daemon.acquisitions.focus_tracker import FocusTracker
from refocusd.daemon.acquisitions.state import Acquisition
from refocusd.errors import ConfigError
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
from refocusd.profiles.profile import Profile
from refocusd.transport import messages as wire
from refocusd.transport.records import FocusAdvice

__all__ = ["FocusMonitor"]

log = logging.getLogger(__name__)

#: Between two estimates, of all fields together.
EVERY_S = 0.5
#: A field that was not seen for so long waits for no turn.
ACTIVE_S = 5.0
#: Fields and channels that are followed at most; the one longest unseen is forgotten.
MAX_FIELDS = 512
#: Between two lines in the log about one field that say nothing new.
LOG_EVERY_S = 30.0


@dataclass(frozen=True, slots=True)
class _Key:
    """One field in one channel."""

    acquisition: str
    position: str
    channel: str


@dataclass(slots=True)
class _Field:
    seen_at: float = -math.inf
    asked_at: float = -math.inf
    depth_um: float = depth_of_field_um(DEFAULT_OPTICS)
    tracker: FocusTracker | None = None
    logged_at: float = -math.inf
    logged: str = ""
    #: Optics last used, and whether they were measured.
    optics: tuple[Optics, bool] = (DEFAULT_OPTICS, False)


class FocusMonitor:
    """Asks for estimates, and follows the focus of every field.

    Parameters
    ----------
    settings : Settings
        `advise_focus` or `correct_focus` turn it on.
    every_s : float
        Between two estimates.
    """

    def __init__(self, settings: Settings, *, every_s: float = EVERY_S) -> None:
        self.on = settings.advise_focus or settings.correct_focus
        self._every_s = every_s
        self._fields: OrderedDict[_Key, _Field] = OrderedDict()
        self._asked_at = -math.inf
        self._complained = False

    def ask(self, acquisition: Acquisition, submit: wire.Submit) -> wire.FocusOptics | None:
        """Whether a frame's defocus shall be estimated, and by which optics.

        Those of the calibration profile that applies to the frame; without one the documented
        defaults, with the pixel size that the frame names.
        """
        if not (self.on and submit.live):
            return None
        now = time.monotonic()
        key = _key(acquisition.open, submit.axes)
        known = self._fields.setdefault(key, _Field())
        self._fields.move_to_end(key)
        known.seen_at = now
        while len(self._fields) > MAX_FIELDS:
            self._fields.popitem(last=False)
        # In turn: each of n fields that come by waits n times as long.
        active = sum(1 for other in self._fields.values() if now - other.seen_at < ACTIVE_S)
        if now - self._asked_at < self._every_s or now - known.asked_at < active * self._every_s:
            return None
        try:
            profile = acquisition.applied.selection.of(key.channel)
            known.optics = optics, measured = _optics(profile, _metadata(submit))
            check_optics(optics)
        except ConfigError as error:
            if not self._complained:
                log.warning("no advice on focus: %s", error)
            self._complained = True
            return None
        self._asked_at = known.asked_at = now
        known.depth_um = depth_of_field_um(optics)
        return wire.FocusOptics(
            na=optics.na,
            wavelength_um=optics.wavelength_um,
            refractive_index=optics.refractive_index,
            pixel_um=optics.pixel_um,
            spherical_waves=optics.spherical_waves,
            measured=measured,
        )

    def note(
        self, open_: wire.Open, submit: wire.Submit, facts: wire.FrameFacts
    ) -> wire.Advice | None:
        """Take in what a worker found; the advice that follows, if there is one."""
        if not self.on or facts.defocus_um is None or facts.defocus_uncertainty_um is None:
            return None
        key = _key(open_, submit.axes)
        known = self._fields.setdefault(key, _Field())
        if known.tracker is None:
            known.tracker = FocusTracker(known.depth_um)
        metadata = _metadata(submit)
        optics, measured = known.optics
        estimate = DefocusEstimate(
            facts.defocus_um,
            facts.defocus_uncertainty_um,
            facts.defocus_confidence,
            optics_error(measured=measured),
            saturated=facts.defocus_um >= limit_um(optics) - 1e-6,
        )
        x, y = (number(metadata, f"{axis}Position_um_Intended") for axis in "XY")
        xy = None if x is None or y is None else (x, y)
        advice = known.tracker.add(submit.taken_ns / 1e9, stage_um(metadata), estimate, xy)
        if advice is None:
            return None
        self._log(open_.name, key, known, advice)
        return wire.Advice(open_.acquisition, key.position, key.channel, advice)

    def forget(self, acquisition: str) -> None:
        """An acquisition has ended."""
        for key in [key for key in self._fields if key.acquisition == acquisition]:
            del self._fields[key]

    def _log(self, name: str, key: _Key, known: _Field, advice: FocusAdvice) -> None:
        now = time.monotonic()
        # What is said anew is said at once, what only changes its numbers now and then.
        kind = f"{advice.in_focus}{advice.direction_known}{advice.beyond}"
        if now - known.logged_at < (LOG_EVERY_S / 10 if kind != known.logged else LOG_EVERY_S):
            return
        known.logged_at, known.logged = now, kind
        where = " ".join(part for part in (key.position, key.channel) if part)
        log.info("%s%s: %s", name, f" ({where})" if where else "", advice.text)


def _optics(profile: Profile | None, metadata: Mapping[str, Any]) -> tuple[Optics, bool]:
    pixel = number(metadata, "PixelSizeUm")
    pixel = pixel if pixel is not None and pixel > 0 else None
    if profile is not None:
        return optics_of(profile, pixel)
    default = DEFAULT_OPTICS
    return (default if pixel is None else replace(default, pixel_um=pixel)), False


def number(metadata: Mapping[str, Any], name: str) -> float | None:
    """A finite number of the metadata, which may have it as a text; None if it has none."""
    value = metadata.get(name)
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        found = float(value)
    except ValueError:
        return None
    return found if math.isfinite(found) else None


def stage_um(metadata: Mapping[str, Any]) -> float | None:
    """Where the focus stage stood: as our own hook saw it, else as it was meant to, else as told.

    (``Z-Position`` of the Java backend is stale, and not looked at.)
    """
    ours = metadata.get("RefocusdFocus")
    if isinstance(ours, dict) and (seen := number(ours, "stage_um")) is not None:
        return seen
    intended = number(metadata, "ZPosition_um_Intended")
    return intended if intended is not None else number(metadata, "ZPosition_um")


def _key(open_: wire.Open, axes: str) -> _Key:
    at = json.loads(axes)
    return _Key(open_.acquisition, str(at.get("position", "")), str(at.get("channel", "")))


def _metadata(submit: wire.Submit) -> Mapping[str, Any]:
    try:
        metadata = json.loads(submit.metadata or "{}")
    except ValueError:
        return {}
    return metadata if isinstance(metadata, dict) else {}

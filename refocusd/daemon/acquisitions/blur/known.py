"""What is known about a frame's blur before a worker sees the frame.

The blur follows from the calibration profile or the aperture, and the distance from focus (stated in the
settings, or derived from the stage position); otherwise from other positions of the acquisition, or from
frames of the same microscope in earlier sessions.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from refocusd.config import Settings
from refocusd.daemon.acquisitions.blur.memory import BlurMemory, Kind
from refocusd.daemon.acquisitions.blur.shared import SharedBlurs, surer
from refocusd.daemon.acquisitions.focus.monitor import stage_um
from refocusd.daemon.acquisitions.state import Acquisition
from refocusd.formats.metadata import json_object
from refocusd.formats.scale import numbered_z_um
from refocusd.imaging.known_blur import distance_from_focus, known_blur
from refocusd.profiles.applied import Applied, channel_name
from refocusd.profiles.microscope_metadata import camera_of, objective_of, pixel_um_of
from refocusd.transport.messages import FrameFacts, KnownBlur, Submit

log = logging.getLogger(__name__)

#: Name of the file, which is beside the ledgers.
MEMORY_FILE = "blurs.json"


class KnownBlurs:
    """Collects what is known about the blur of each frame.  Belongs to the broker's thread.

    Parameters
    ----------
    settings : Settings
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        path = Path(settings.ledgers, MEMORY_FILE)
        self._memory = BlurMemory(path) if settings.blur_memory else None
        self._said: set[tuple[str, Kind]] = set()
        self._shared = SharedBlurs()

    def of(self, acquisition: Acquisition, submit: Submit) -> KnownBlur | None:
        """The known blur of one frame; None if nothing is known."""
        applied, summary = acquisition.applied, acquisition.open.summary
        found = blur_by_microscope(self._settings, applied, summary, submit.axes, submit.metadata)
        found = surer(found, self._shared.of(acquisition.id, submit.axes))
        if self._memory is None or (kind := _kind(acquisition, submit)) is None:
            return found
        remembered = self._memory.of(kind)
        if remembered is None or (found and found.uncertainty < remembered.blur.uncertainty):
            return found
        if (said := (acquisition.id, kind)) not in self._said:
            self._said.add(said)
            log.info(
                "%s: the blur of %s begins with %.1f px, measured on %d frames until %s",
                acquisition.open.name,
                kind.channel or "frames",
                remembered.sigma_px,
                remembered.frames,
                remembered.date,
            )
        return KnownBlur(remembered.sigma_px, remembered.blur.uncertainty, "memory")

    def note(self, acquisition: Acquisition, submit: Submit, facts: FrameFacts) -> None:
        """Remember the blur that was measured in a frame."""
        if acquisition.open.preview or facts.verdict == "untrusted" or not facts.blur_px:
            return
        if facts.blur_source == "frame":
            self._shared.add(acquisition.id, submit.axes, facts.blur_px)
        if self._memory is None or facts.blur_source not in ("frame", "frames"):
            return
        if kind := _kind(acquisition, submit):
            uncertainty = facts.blur_uncertainty or 0.0
            self._memory.add(acquisition.id, kind, facts.blur_px, uncertainty)

    def end(self, acquisition: str) -> None:
        """Store the blurs of an acquisition that has ended."""
        self._shared.end(acquisition)
        if self._memory is not None:
            self._memory.end(acquisition)
        self._said = {said for said in self._said if said[0] != acquisition}


def blur_by_microscope(
    settings: Settings, applied: Applied, summary: str, axes: str, metadata: str
) -> KnownBlur | None:
    """The blur that follows from profile, aperture and distance from focus; None if too little is known.

    Parameters
    ----------
    settings : Settings
        `defocus_um` and `na` are used.
    applied : Applied
        The profiles that apply to the acquisition.
    summary, axes, metadata : str
        Summary metadata of the acquisition, axes and metadata of the frame, as JSON.
    """
    own, stated_um = applied.profile_of(axes, metadata), settings.defocus_um
    if own is None and not stated_um:
        return None
    whole, first = _summary(summary), applied.selection.metadata
    psf = applied.profile_of(axes, metadata, psf=True)
    # Outside the planes of a self-measured PSF, the profile's nominal aperture may still give a width.
    for profile in (psf,) if psf is own else (psf, own):
        # The number of a plane says nothing about the focus of another recording.
        planes = {} if profile and profile.learned and profile.learned.elsewhere else whole
        at_um = None if stated_um else stage_um(json_object(metadata) or {})
        # If files do not state it, planes are placed by their number, as in `calibrate`.
        counted = at_um is None
        at_um = numbered_z_um(json.loads(axes), planes) if counted else at_um
        # A profile that refocusd measured by itself, without stage positions, applies to its own
        # recording only, so that both count the planes alike.
        counted = counted and not (profile and profile.learned)
        distance = distance_from_focus(profile, at_um, stated_um, counted=counted)
        blur = known_blur(profile, first, distance, na=settings.na, summary=whole)
        if blur is not None:
            form = list(blur.shape.gains) if blur.shape else []
            return KnownBlur(blur.sigma_px, blur.uncertainty, blur.source, form)  # type: ignore[arg-type]
    return None


def _kind(acquisition: Acquisition, submit: Submit) -> Kind | None:
    """What a frame has in common with those of other sessions; None if its camera is unknown."""
    first = acquisition.applied.selection.metadata
    if not (camera := camera_of(first)):
        return None
    at, summary = json.loads(submit.axes), _summary(acquisition.open.summary)
    return Kind(
        camera,
        objective_of(first),
        channel_name(submit.axes, submit.metadata) or str(first.get("Channel") or ""),
        pixel_um_of(first, summary),
        f"{at['z']} of {summary.get('z-step_um', '?')} um" if "z" in at else "",
    )


@lru_cache(maxsize=64)
def _summary(text: str) -> Mapping[str, Any]:
    """The summary metadata of an acquisition; damaged ones are reported elsewhere."""
    return json_object(text) or {}

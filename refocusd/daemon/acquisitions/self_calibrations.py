"""Measures the PSF on an acquired z-stack, for the next acquisitions of the same microscope."""

from __future__ import annotations

import logging
import threading
from collections import Counter

from refocusd.config import Settings
from refocusd.daemon.acquisitions.state import Acquisition
from refocusd.processes.self_calibration import FEWEST_PLANES, SelfCalibrator
from refocusd.profiles.microscope_metadata import camera_of, pixel_um_of
from refocusd.transport.messages import Open

log = logging.getLogger(__name__)

#: The PSF cannot be measured on thick or moving specimens: after this many failures, stacks with the same
#: microscope settings are not tried again.
_MOST_FAILURES = 3
#: How long a stop waits for the end of a measurement that was killed, in s.
_STOP_S = 5.0


class SelfCalibrations:
    """Measures acquisitions with z-stacks, one at a time; acquisitions that end meanwhile are not measured.

    Parameters
    ----------
    settings : Settings
    """

    def __init__(self, settings: Settings) -> None:
        self._calibrator = SelfCalibrator(settings)
        self._failures: Counter[str] = Counter()
        self._thread: threading.Thread | None = None

    def ended(self, acquisition: Acquisition) -> None:
        """Measure an acquisition that has ended, unless its PSF is known; return at once."""
        about, known = acquisition.open, acquisition.applied.selection
        busy = self._thread is not None and self._thread.is_alive()
        told = any(profile.psf for profile in known.profiles)
        if busy or not self._calibrator.on or not about.raw or told:
            return
        # Without camera and pixel size, it is unknown which acquisitions are of the same microscope.
        if not (camera_of(known.metadata) and pixel_um_of(known.metadata)):
            return
        few = len(acquisition.planes) < FEWEST_PLANES
        if few or self._failures[about.first] >= _MOST_FAILURES:
            return
        self._thread = threading.Thread(
            target=self._measure, args=(about,), name="self-calibration", daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        """End a measurement in progress."""
        self._calibrator.stop()
        if self._thread is not None:
            self._thread.join(_STOP_S)

    def _measure(self, about: Open) -> None:
        try:
            found = self._calibrator.measure(about.raw, about.acquisition, elsewhere=True)
        except OSError as error:
            log.warning("%s: its PSF cannot be measured: %s", about.name, error)
            return
        for sentence in found.said:
            log.info("%s: %s", about.name, sentence)
        self._failures[about.first] += not found.profiles

"""Measures the PSF on z-stacks of recordings, by running ``refocusd calibrate auto`` in a child process.

Calibration is a separate package, which refocusd runs and never imports.
"""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import subprocess
import threading
from collections.abc import Sequence

import msgspec

from refocusd.config import Settings, environment_of
from refocusd.files import in_command
from refocusd.processes.child import Child

log = logging.getLogger(__name__)

#: A measurement is abandoned after this time.
LIMIT_S = 180.0
#: How long the process may take to end after it was asked to.
_STOP_S = 3.0
#: Fewest planes on which a PSF is measured.
FEWEST_PLANES = 8


class SelfCalibration(msgspec.Struct, frozen=True):
    """What was measured on a recording.

    Parameters
    ----------
    said : list of str
        The outcome for each channel, as one sentence.
    profiles : list of str
        Ids of the profiles that were created.
    """

    said: list[str] = []
    profiles: list[str] = []


class _Told(msgspec.Struct, frozen=True):
    """A line of `refocusd.cli.job`."""

    result: SelfCalibration | None = None


class SelfCalibrator:
    """Measures one recording at a time; `stop` ends it from another thread.

    Parameters
    ----------
    settings : Settings
        `self_calibrate` switches the measurements on.

    Attributes
    ----------
    on : bool
        Whether they are switched on, and calibration is installed.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        installed = importlib.util.find_spec("refocusd_calibration") is not None
        self.on = settings.self_calibrate and installed
        if settings.self_calibrate and not installed:
            log.info("no PSF is measured on z-stacks: refocusd's calibration is not installed")
        self._lock = threading.Lock()
        self._child: Child | None = None
        self._stopped = False

    def measure(self, recording: str, acquisition: str, *, elsewhere: bool) -> SelfCalibration:
        """Measure a recording; if this gives no profile, the result says why.

        Parameters
        ----------
        recording : str
            Its path.
        acquisition : str
            Its id.
        elsewhere : bool
            Whether the profile may apply to other acquisitions of this day.

        Raises
        ------
        OSError
            If no process can be started.
        """
        command = ["calibrate", "auto", recording, "--acquisition", acquisition]
        command += ["--elsewhere"] if elsewhere else []
        with self._lock:
            if self._stopped:
                return SelfCalibration()
            child = self._child = Child(
                ["-m", "refocusd.cli.job", *command],
                output=subprocess.PIPE,
                errors=subprocess.DEVNULL,
                # One core only: libraries would use all of them.
                environment=environment_of(self._settings)
                | {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
            )
        late = threading.Event()

        def give_up() -> None:
            late.set()
            child.process.kill()

        limit = threading.Timer(LIMIT_S, give_up)
        limit.daemon = True
        limit.start()
        found = SelfCalibration()
        try:
            for line in iter(child.read_line, b""):
                with contextlib.suppress(msgspec.MsgspecError):
                    found = msgspec.json.decode(line.lstrip(b"\x1e"), type=_Told).result or found
        finally:
            limit.cancel()
            status = child.stop(_STOP_S)
            with self._lock:
                self._child = None
        if found.said or found.profiles or self._stopped:
            return found
        return SelfCalibration(said=[_why_nothing(status, command, late=late.is_set())])

    def stop(self) -> None:
        """End the running measurement, and start no other."""
        with self._lock:
            self._stopped = True
            if self._child is not None:
                self._child.process.kill()


def _why_nothing(status: int, command: Sequence[str], *, late: bool) -> str:
    """Why the child process with this command returned nothing."""
    if late:
        return f"the PSF could not be measured within {LIMIT_S / 60:g} minutes"
    return (
        f"the measurement of the PSF failed (exit status {status}): `refocusd "
        f"{' '.join(map(in_command, command))}` says why"
    )

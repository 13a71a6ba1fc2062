"""The demo's microscope: a real Micro-Manager core whose camera sees the specimen.

Everything that moves or takes time is real: MMCore, its demo camera (snaps,
sequences, circular buffer, tags), its stages and its channel presets.  Only the
pixels are replaced (`specimen_camera`).

Observed with pycromanager 1.0.2 and pymmcore 12.5:

- The demo stage and the filter wheels refuse hardware sequences, so these run
  over time only.  Do not change that: with the stage's `UseSequences` on, the stage was
  at 4 um for all frames of 0, 4, 8 and 16 um when they were taken out of the buffer.
- Sequences keep up: 95 frames/s at 10 ms exposure (2 cores), and 600 frames at
  0.5 ms did not overflow the circular buffer.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

from refocusd.demo.headless import headless_core
from refocusd.demo.specimen import Specimen
from refocusd.demo.specimen_camera import CHANNEL_GROUP, SpecimenCamera
from refocusd.errors import ConfigError

#: One acquisition event, as pycromanager takes it.
Event = dict[str, Any]

#: Shortest time between two snapped time points.  The engine keeps whole
#: milliseconds, and would merge equal times into a hardware sequence.
_SHORTEST_INTERVAL_S = 0.002
#: Camera exposure at the start.
_EXPOSURE_MS = 10.0
#: MMCore's circular buffer, MiB: at 0.5 MiB per frame, it holds 256 frames if a sequence is faster
#: than its reader.
_BUFFER_MB = 128


class DemoMicroscope:
    """A microscope for pycromanager's `Acquisition`, in this process.

    A context manager; a process can have only one open at a time.
    While it is open, ``pycromanager.Core()`` and ``Acquisition(...)`` use this
    microscope: 16-bit frames of 512×512 px with 12-bit counts, 0.645 µm per pixel,
    stages `Z` and `XY`, channels of the group `Channel`.

    Parameters
    ----------
    specimen : Specimen, optional
        The specimen on the stage.
    seed : int
        Seed of the frames' noise; the n-th frame taken has the same noise each time.
    adapters : Path, optional
        Folder with Micro-Manager's device adapters and ``MMConfig_demo.cfg``,
        e.g. of an installed Micro-Manager; by default those of the package
        `mm-test-adapters`.

    Raises
    ------
    ConfigError
        On entering, if Micro-Manager's demo devices are not installed or do
        not load, or if a core is running in this process.  On leaving, if
        frames could not be shown (an unknown channel, a changed frame size).
    """

    def __init__(
        self,
        specimen: Specimen | None = None,
        *,
        seed: int = 0,
        adapters: Path | None = None,
    ) -> None:
        self.specimen = specimen or Specimen()
        self._seed = seed
        self._adapters = adapters
        self._core: Any = None
        self._camera: SpecimenCamera | None = None

    @property
    def core(self) -> Any:
        """The running core, as ``pycromanager.Core()`` returns it.

        Raises
        ------
        ConfigError
            If the microscope is not open.
        """
        if self._core is None:
            raise ConfigError("the demo microscope is not open: use it in a `with` statement")
        return self._core

    @property
    def frames(self) -> int:
        """Frames taken since the microscope was opened."""
        return self._camera.frames if self._camera is not None else 0

    def __enter__(self) -> Self:
        """Start the core, set it up and put the specimen under its camera."""
        with ExitStack() as stack:
            core = stack.enter_context(
                headless_core("MMConfig_demo.cfg", self._adapters, buffer_mb=_BUFFER_MB)
            )
            self._set_up(core)
            self._camera = SpecimenCamera(self.specimen, core, self._seed)
            self._core, self._stop = core, stack.pop_all().close
        return self

    def __exit__(self, *error: object) -> None:
        """Stop the core; raise if frames could not be shown."""
        core, self._core = self._core, None
        if core is not None:
            if core.is_sequence_running():
                core.stop_sequence_acquisition()
            self._stop()
        if self._camera is not None and error[0] is None:
            self._camera.check()

    def events_snapped(
        self, times: int, z_um: Sequence[float], channels: Sequence[str] = ("DAPI",)
    ) -> list[Event]:
        """Events of a time series of z-stacks whose frames are snapped one by one.

        Parameters
        ----------
        times : int
            Time points.
        z_um : sequence of float
            Stage positions in micrometres, all different.
        channels : sequence of str

        Returns
        -------
        list of dict
            In the order time, channel, z; axes `time`, `channel`, `z`.

        Raises
        ------
        ConfigError
            If a number makes no sense, or the specimen has no such channel.
        """
        # Neighbouring events differ in z or channel, which cannot be
        # sequenced here, or are kept apart by their times.
        return self._events(times, z_um, channels, "tcz", _SHORTEST_INTERVAL_S)

    def events_sequenced(
        self, times: int, z_um: Sequence[float], channels: Sequence[str] = ("DAPI",)
    ) -> list[Event]:
        """Events of one hardware-sequenced burst at each stage position and channel.

        Parameters
        ----------
        times : int
            Frames per burst, as fast as the exposure allows; at least 2.
        z_um : sequence of float
            Stage positions in micrometres, all different.
        channels : sequence of str

        Returns
        -------
        list of dict
            In the order channel, z, time; axes `time`, `channel`, `z`.

        Raises
        ------
        ConfigError
            If a number makes no sense, or the specimen has no such channel.
        """
        if times < 2:
            raise ConfigError(f"a hardware sequence needs at least 2 frames, not {times}")
        return self._events(times, z_um, channels, "czt", 0.0)

    def _events(
        self,
        times: int,
        z_um: Sequence[float],
        channels: Sequence[str],
        order: str,
        interval_s: float,
    ) -> list[Event]:
        from pycromanager import multi_d_acquisition_events

        positions = [float(z) for z in z_um]
        if times < 1 or not positions or not channels:
            raise ConfigError(
                f"{times} times, {len(positions)} z positions and {len(channels)} channels make "
                "no acquisition; give at least one of each"
            )
        if len(set(positions)) < len(positions) or len(set(channels)) < len(channels):
            raise ConfigError("z positions and channels must each differ from one another")
        for channel in channels:
            self.specimen.optics(channel)
        # pycromanager makes only equidistant stacks: it gets indices as positions,
        # which are then replaced.
        events: list[Event] = multi_d_acquisition_events(
            num_time_points=times,
            time_interval_s=interval_s,
            z_start=0,
            z_end=len(positions) - 1,
            z_step=1,
            channel_group=CHANNEL_GROUP,
            channels=list(channels),
            order=order,
        )
        for event in events:
            event["z"] = positions[event["axes"]["z"]]
            if "min_start_time" in event:
                event["min_start_time"] = float(event["min_start_time"])
        return events

    def _set_up(self, core: Any) -> None:
        for name, value in (
            ("PixelType", "16bit"),
            ("BitDepth", str(self.specimen.camera.bits)),
            # The camera's own picture is replaced, so let it cost no time.
            ("FastImage", "1"),
        ):
            core.set_property("Camera", name, value)
        core.set_config("Objective", "20X")
        core.set_pixel_size_um("Res20x", self.specimen.pixel_um)
        core.set_config(CHANNEL_GROUP, self.specimen.channels[0])
        core.set_exposure(_EXPOSURE_MS)
        core.wait_for_system()

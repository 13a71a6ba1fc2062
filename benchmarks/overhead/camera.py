"""Bursts of a real MMCore, whose demo camera takes almost no processor time."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self


@dataclass(frozen=True, slots=True)
class Burst:
    """One finished acquisition.

    Parameters
    ----------
    seconds : float
        From handing over the first event to the end of `await_completion`.
    cpu_s : float
        Processor time of this process (camera, engine, writer, hook) in that interval.
    raw : Path
        The raw dataset.
    """

    seconds: float
    cpu_s: float
    raw: Path


class BurstCamera:
    """MMCore's demo camera in this process, for hardware-sequenced bursts.

    Unlike the demo's microscope it shows the camera's own test image, drawn once
    (``FastImage``), so that the cost of making frames is not measured.

    Parameters
    ----------
    buffer_mib : int
        Size of MMCore's circular buffer.  It must hold a whole burst if the
        camera is faster than the acquisition.
    """

    def __init__(self, buffer_mib: int) -> None:
        self._buffer_mib = buffer_mib
        self._core: Any = None

    def __enter__(self) -> Self:
        from mm_test_adapters import device_adapter_path
        from pycromanager import Core, start_headless

        start_headless(
            mm_app_path=str(device_adapter_path()),
            config_file="MMConfig_demo.cfg",
            python_backend=True,
            buffer_size_mb=self._buffer_mib,
        )
        self._core = Core()
        for name, value in (("PixelType", "16bit"), ("BitDepth", "16"), ("FastImage", "1")):
            self._core.set_property("Camera", name, value)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        from pycromanager import stop_headless

        self._core = None
        stop_headless()

    def set_up(self, side_px: int, exposure_ms: float) -> None:
        """Set the camera to square frames of side `side_px`, one every `exposure_ms`."""
        for name in ("OnCameraCCDXSize", "OnCameraCCDYSize"):
            self._core.set_property("Camera", name, str(side_px))
        self._core.set_exposure(exposure_ms)
        self._core.wait_for_system()

    def burst(self, frames: int, arguments: Mapping[str, Any]) -> Burst:
        """Acquire one hardware sequence.

        Parameters
        ----------
        frames : int
        arguments : mapping
            Arguments of `pycromanager.Acquisition`, including hooks.

        Returns
        -------
        Burst
        """
        from pycromanager import Acquisition

        # The events differ only in their axes, so that the engine makes one sequence of them.
        events = [{"axes": {"time": index}} for index in range(frames)]
        acquisition = Acquisition(show_display=False, **arguments)
        begun, cpu_begun = time.perf_counter(), time.process_time()
        acquisition.acquire(events)
        acquisition.mark_finished()
        acquisition.await_completion()
        seconds, cpu_s = time.perf_counter() - begun, time.process_time() - cpu_begun
        dataset = acquisition.get_dataset()
        dataset.close()
        return Burst(seconds, cpu_s, Path(dataset.path))

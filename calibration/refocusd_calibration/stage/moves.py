"""Runs the moves of a measurement on the microscope, and verifies them.

A measurement is a list of `Move`: stage position, exposure, shutter and number of frames.  The list is
complete before anything moves, so that a dry run can print all moves, and the limits are checked for
all of them.  `run_series` then lets pycromanager's acquisition engine carry them out and returns the folder
of the recording, which is never deleted here.

Each event is passed to the engine separately, because the engine would merge frames at one position
into a hardware sequence, whose frames do not state the time and exposure of each.
After each move, stage position and exposure are read back in the engine's hook, because a stage that
stops short reports no error.
"""

from __future__ import annotations

import argparse
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

from refocusd.cli.console import progress
from refocusd.errors import ConfigError, InputError
from refocusd.frame import canonical_axes
from refocusd_calibration.stage.microscope import (
    microscope_core,
    quiet_stage,
    restored,
    strings,
)
from refocusd_calibration.stage.plan import Move, MoveLimits, check_axes, check_moves, frame_axes

#: A stage has arrived if its distance from the target is at most this many micrometres ...
ARRIVAL_UM = 0.02
#: ... or at most this share of the smallest step, whichever is more.
ARRIVAL_STEPS = 0.25


def run_series(
    moves: Sequence[Move],
    directory: str | Path,
    name: str,
    *,
    limits: MoveLimits,
    settle_ms: float = 50.0,
    core: Any = None,
    on_frame: Callable[[], None] | None = None,
) -> Path:
    """Run a series through pycromanager's acquisition engine and keep its recording.

    Afterwards, even after a failure, stage, exposure, shutter and channel are restored.

    Parameters
    ----------
    moves : sequence of Move
    directory, name : Path, str
        The recording is written to a new folder ``<directory>/<name>_N``.
    limits : MoveLimits
        Checked for the whole series before anything moves.
    settle_ms : float
        Time to wait after each move of stage or shutter.
    core : optional
        The core of a running microscope; by default the one that pycromanager finds.
    on_frame : callable, optional
        Called before each frame is taken.

    Returns
    -------
    Path
        Folder of the NDTiff dataset.

    Raises
    ------
    ConfigError
        If a move is outside the limits, or there is no microscope, focus stage,
        shutter or channel that it names.
    InputError
        If the stage does not arrive, the camera does not accept the exposure, frames are missing
        from the recording, or the series was interrupted (Ctrl-C).
    """
    check_moves(moves, limits)
    check_axes(moves)
    core = core if core is not None else microscope_core()
    _check_devices(core, moves)
    watch = _Watch(moves, settle_ms, _arrival_um(moves), on_frame)
    with restored(core), quiet_stage(core), _interruptible(watch):
        # The engine sets an exposure only if it differs from that of its last event,
        # which may belong to another acquisition.
        core.set_exposure(moves[0].exposure_ms)
        path = _acquire(core, moves, Path(directory), name, watch)
    if watch.failure:
        raise InputError(f"{watch.failure}; what was taken is kept in {path}")
    _check_whole(path, moves)
    return path


def run_shown(
    moves: Sequence[Move],
    folder: Path,
    name: str,
    limits: MoveLimits,
    arguments: argparse.Namespace,
    core: Any,
) -> Path:
    """Run a series with the flags of a measurement and a progress bar; see `run_series`."""
    with progress() as bar:
        task = bar.add_task(name, total=sum(move.frames for move in moves))
        return run_series(
            moves,
            folder,
            name,
            limits=limits,
            settle_ms=arguments.settle_ms,
            core=core,
            on_frame=lambda: bar.advance(task),
        )


@contextmanager
def _interruptible(watch: _Watch) -> Iterator[None]:
    """Let an interrupt cancel the remaining moves.

    As an exception, pycromanager would handle it only after carrying out all of them.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def cancel(_signal: int, _frame: object) -> None:
        watch.failure = watch.failure or "the series was interrupted"

    former = signal.signal(signal.SIGINT, cancel)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, former)


def _check_whole(path: Path, moves: Sequence[Move]) -> None:
    """Check for missing frames: if a device fails, the engine only prints a message and continues."""
    # Imported here so that `refocusd --help` stays fast.
    from refocusd.formats.open_dataset import open_dataset

    with open_dataset(path) as recording:
        taken = set(recording.axes_keys())
    for number, move in enumerate(moves, 1):
        if any(canonical_axes(axes) not in taken for axes in frame_axes(move)):
            where = "" if move.z_um is None else f" to z = {move.z_um:g} um"
            raise InputError(
                f"the microscope did not carry out move {number}{where}: see the messages of the "
                f"acquisition engine above, and Micro-Manager's log; what was taken is kept in {path}"
            )


def _arrival_um(moves: Sequence[Move]) -> float:
    """Largest distance from its target at which the stage may stop, um."""
    places = sorted({move.z_um for move in moves if move.z_um is not None})
    steps = [b - a for a, b in pairwise(places)]
    return max(ARRIVAL_UM, ARRIVAL_STEPS * min(steps, default=0.0))


def _check_devices(core: Any, moves: Sequence[Move]) -> None:
    if any(move.z_um is not None for move in moves) and not core.get_focus_device():
        raise ConfigError(
            "Micro-Manager has no focus stage: set the default focus device in its hardware "
            "configuration"
        )
    if any(move.shutter != "as is" for move in moves) and not core.get_shutter_device():
        raise ConfigError(
            "Micro-Manager has no shutter: set the default shutter in its hardware configuration, "
            "or block the light by hand and use --user-light"
        )
    channels = {move.channel for move in moves if move.channel is not None}
    if not channels:
        return
    group = core.get_channel_group()
    known = strings(core.get_available_configs(group)) if group else []
    for channel in sorted(channels):
        if channel not in known:
            raise ConfigError(
                f"there is no channel {channel!r}; Micro-Manager's channel group {group!r} has "
                f"{', '.join(known) or 'none'}"
            )


def _acquire(core: Any, moves: Sequence[Move], directory: Path, name: str, watch: _Watch) -> Path:
    # Seconds to import, and only needed with a microscope.
    from pycromanager import Acquisition

    directory.mkdir(parents=True, exist_ok=True)
    group = core.get_channel_group()
    acquisition = Acquisition(
        directory=str(directory),
        name=name,
        pre_hardware_hook_fn=watch.departs,
        post_hardware_hook_fn=watch.arrived,
        show_display=False,
    )
    dataset = acquisition.get_dataset()
    path = Path(dataset.path)
    try:
        with acquisition:
            for move in moves:
                for event in _events(move, group):
                    acquisition.acquire(event)
    except Exception as error:
        raise InputError(
            f"the microscope could not carry out move {watch.number + 1} or the next ({error}): see the "
            f"messages above and Micro-Manager's log; what was taken is kept in {path}"
        ) from error
    # ndstorage's dataset keeps the files open for reading.
    with suppress(Exception):
        dataset.close()
    return path


def _events(move: Move, group: str) -> Iterator[dict[str, Any]]:
    for axes in frame_axes(move):
        event: dict[str, Any] = {"axes": axes, "exposure": float(move.exposure_ms)}
        if move.z_um is not None:
            event["z"] = float(move.z_um)
        if move.channel is not None:
            event["config_group"] = [group, move.channel]
        yield event


class _Watch:
    """Runs in the engine's thread before each exposure: sets the shutter, waits, and reads back.

    It raises no error, because the engine would print a traceback and keep the event.  A
    failure is stored, and each later event is cancelled, before it moves anything, by returning None.
    """

    def __init__(
        self,
        moves: Sequence[Move],
        settle_ms: float,
        arrival_um: float,
        on_frame: Callable[[], None] | None,
    ) -> None:
        self.failure = ""
        # By axes: pycromanager 1.0.2's Python engine fails on events with tags.
        self._numbers = {
            canonical_axes(axes): number
            for number, move in enumerate(moves)
            for axes in frame_axes(move)
        }
        self._moves = moves
        self._settle_s = settle_ms / 1000
        self._arrival_um = arrival_um
        self._on_frame = on_frame
        self._last: int | None = None
        self.number = 0
        self._core: Any = None

    def departs(self, event: dict[str, Any]) -> dict[str, Any] | None:
        return None if self.failure else event

    def arrived(self, event: dict[str, Any]) -> dict[str, Any] | None:
        if self.failure:
            return None
        try:
            self._core = self._core or microscope_core()
            self.failure = self._check(event)
        except Exception as error:  # noqa: BLE001 - the engine would swallow it
            self.failure = f"the microscope failed at {event.get('axes')}: {error}"
        if self.failure:
            return None
        if self._on_frame is not None:
            self._on_frame()
        return event

    def _check(self, event: dict[str, Any]) -> str:
        number = self._numbers[canonical_axes(event["axes"])]
        self.number = number
        move, core = self._moves[number], self._core
        if number != self._last:
            if move.shutter != "as is":
                core.set_auto_shutter(False)
                core.set_shutter_open(move.shutter == "open")
                core.wait_for_device(core.get_shutter_device())
            time.sleep(self._settle_s)
            self._last = number
        if move.shutter != "as is" and bool(core.get_shutter_open()) != (move.shutter == "open"):
            return f"the shutter {core.get_shutter_device()!r} is not {move.shutter}"
        exposure = float(core.get_exposure())
        # Cameras round to a line time; a difference of a tenth is another exposure.
        if abs(exposure - move.exposure_ms) > 0.1 * move.exposure_ms:
            return (
                f"an exposure of {move.exposure_ms:g} ms was set, but the camera reports {exposure:g} ms: "
                "choose exposures that it supports"
            )
        if move.z_um is None:
            return ""
        z = float(core.get_position(core.get_focus_device()))
        if abs(z - move.z_um) > self._arrival_um:
            return (
                f"the focus stage {core.get_focus_device()!r} was sent to {move.z_um:.3f} um but "
                f"stopped at {z:.3f} um: check for a limit switch, a continuous-focus lock, or a "
                "step that is too small for the stage"
            )
        return ""

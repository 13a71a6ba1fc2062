"""The acquisitions of pymmcore-plus, which needs no Java.

An output beside its own writers::

    mmc.run_mda(sequence, output=["cells.ome.zarr", refocusd.MDAOutput("D:/refocused")])

or one line for all acquisitions of a core, whoever runs them::

    refocusd.attach_mda(mmc, output="D:/refocused")

Its runner signals each frame with its image, event and metadata in memory; these are copied into
a bounded buffer, and the runner continues.  Frames that do not fit while the daemon is busy are
recorded as skipped.
"""

from __future__ import annotations

import json
import logging
import math
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from refocusd.errors import ConfigError
from refocusd.formats.refocused_name import SUFFIX
from refocusd.frame import Axes, canonical_axes
from refocusd.sources.cameras import DistinctAxes
from refocusd.sources.feed import Feed
from refocusd.sources.once import Once
from refocusd.sources.output_folder import output_folder
from refocusd.transport.client import default_endpoint
from refocusd.transport.messages import Counts

log = logging.getLogger(__name__)

#: Axes as the rest of refocusd names them; others keep useq's names.
AXES = {"t": "time", "p": "position", "c": "channel", "z": "z", "g": "grid"}
#: Names in a frame's metadata: ours, and those of pymmcore-plus.
NAMES = (("PixelSizeUm", "pixel_size_um"), ("Exposure", "exposure_ms"), ("Camera", "camera_device"))
#: Reason in the ledger for an event of a sequence that has no frame.
NO_FRAME = "did not come: its event was skipped, or the acquisition or another output of it failed"
#: Action of an event that gives a frame.
IMAGE = "acquire_image"
#: Class of the thread in which outputs of ``run_mda`` are called.
RELAY = "MDARelayThread"
BUFFER_MIB = 256


def attach_mda(
    mmc: Any, output: str | Path, *, endpoint: str | None = None, buffer_mib: int = BUFFER_MIB
) -> MDAOutput:
    """Refocus what a pymmcore-plus core acquires from now on.

    Parameters
    ----------
    mmc : pymmcore_plus.CMMCorePlus
    output, endpoint, buffer_mib
        As in `MDAOutput`.

    Returns
    -------
    MDAOutput
        Use it to wait for the daemon or to detach; it need not be kept.

    Raises
    ------
    ConfigError
        If the core has no acquisition runner.
    """
    attached = MDAOutput(output, endpoint=endpoint, buffer_mib=buffer_mib)
    attached._connect(mmc)
    return attached


@dataclass(slots=True)
class _Run:
    """One acquisition of a runner."""

    feed: Feed
    sequence: Any
    #: Frames of one event: one per camera.
    cameras: int
    frames: int = 0
    canceled: bool = False
    #: Axes of the newest frame.
    newest: str = ""
    distinct: DistinctAxes = field(default_factory=DistinctAxes)

    def without_frame(self) -> list[str]:
        """Axes of the frames that did not come; of a canceled acquisition, only those before its last."""
        expected = _expected(self.sequence)
        # useq's sizes leave out the sequences that positions have of their own.
        nested = any(getattr(place, "sequence", None) for place in _positions(self.sequence))
        if not expected or (self.frames >= expected * self.cameras and not nested):
            return []
        order = list(self._keys())
        if self.canceled:
            order = order[: order.index(self.newest)] if self.newest in order else []
        return [key for key in order if key not in self.distinct]

    def _keys(self) -> Iterator[str]:
        """Axes of the frames of all events; plans of positions may use an index twice."""
        distinct = DistinctAxes()
        for number, event in enumerate(self.sequence):
            if getattr(getattr(event, "action", None), "type", IMAGE) != IMAGE:
                continue  # an autofocus has the index of the image after it
            axes = _axes(event, number)
            for camera in range(self.cameras):
                one = {**axes, "cam": camera} if self.cameras > 1 else axes
                yield canonical_axes(distinct.of(one))


class MDAOutput:
    """An output of pymmcore-plus's acquisitions that refocuses their frames.

    Give it to ``run_mda``, alone or beside one of its own writers.  Each acquisition gets its own
    dataset; they may run one after another or at the same time.

    Parameters
    ----------
    output : path
        Folder in which each acquisition gets its refocused dataset.
    endpoint : str, optional
        The daemon's address; by default ``REFOCUSD_ENDPOINT`` or ``tcp://127.0.0.1:8751``.
    buffer_mib : int
        Frames held while the daemon is busy, MiB; when it is full, the oldest
        are skipped.

    Examples
    --------
    >>> refocused = MDAOutput("refocused")
    >>> mmc.run_mda(sequence, output=["cells.ome.zarr", refocused]).join()  # doctest: +SKIP
    >>> refocused.wait()  # doctest: +SKIP
    """

    def __init__(
        self, output: str | Path, *, endpoint: str | None = None, buffer_mib: int = BUFFER_MIB
    ) -> None:
        self._output = Path(output).expanduser().absolute()
        self._endpoint = endpoint or default_endpoint()
        self._buffer_nbytes = buffer_mib << 20
        #: By the thread that sends their signals: the outputs of one run may still be called when the
        #: next has begun, and two cores may acquire at once.
        self._runs: dict[int | None, _Run] = {}
        self._last: Feed | None = None
        self._warn = Once(log, note=" (the acquisition is not affected)")
        self._lock = threading.Lock()
        self._connected: list[tuple[Any, Callable[..., None]]] = []

    # -- what the runner calls, by the names of its signals ---------------------------------

    def sequenceStarted(self, sequence: Any, meta: Any = None) -> None:  # noqa: N802
        """Begin an acquisition."""
        self._safely(lambda: self._started(sequence, meta))

    def frameReady(self, image: Any, event: Any = None, meta: Any = None) -> None:  # noqa: N802
        """Take one frame."""
        self._safely(lambda: self._frame(image, event, meta))

    def sequenceCanceled(self, sequence: Any = None) -> None:  # noqa: N802, ARG002
        """Note that the user has ended the acquisition: later frames are not missing."""
        if run := self._run():
            run.canceled = True

    def sequenceFinished(self, sequence: Any = None) -> None:  # noqa: N802, ARG002
        """End an acquisition."""
        self._safely(lambda: self._finished(self._run()))

    # -- what the user calls ----------------------------------------------------------------

    def detach(self) -> None:
        """Stop listening; for refocusd, a running acquisition ends here."""
        for signal, listener in self._connected:
            signal.disconnect(listener)
        self._connected.clear()
        for run in list(self._runs.values()):
            self._safely(lambda run=run: self._finished(run, whole=False))  # type: ignore[misc]

    def wait(self, timeout_s: float | None = None) -> Counts | None:
        """Wait until every frame of the last acquisition has a final state.

        Returns the daemon's counts; None if no daemon was there, it was not done in time, or
        nothing was acquired.
        """
        feed = self._last
        return None if feed is None else feed.wait(timeout_s)

    def _connect(self, mmc: Any) -> None:
        events = getattr(getattr(mmc, "mda", None), "events", None)
        listeners: dict[str, Callable[..., None]] = {
            "sequenceStarted": lambda *said: self.sequenceStarted(*said),
            "frameReady": lambda *said: self.frameReady(*said[:3]),
            "sequenceCanceled": lambda *said: self.sequenceCanceled(*said),
            "sequenceFinished": lambda *said: self.sequenceFinished(*said),
        }
        # Functions, because signals hold bound methods only weakly and would forget them.
        for name, listener in listeners.items():
            signal = getattr(events, name, None)
            if signal is None:
                raise ConfigError(
                    f"{type(mmc).__name__} has no mda.events.{name}: attach_mda takes a "
                    "CMMCorePlus of pymmcore-plus"
                )
            try:
                # psygnal stops at the first listener that raises, so ours come before the user's.
                signal.connect(listener, priority=1)
            except TypeError:  # a signal of Qt
                signal.connect(listener)
            self._connected.append((signal, listener))

    def _started(self, sequence: Any, meta: Any) -> None:
        thread = threading.current_thread()
        self._finished(self._runs.get(thread.ident))
        name = str((getattr(sequence, "metadata", None) or {}).get("name", "")) or "MDA"
        output = output_folder(self._output, name)
        feed = Feed(
            self._endpoint,
            output=str(output),
            expected=_expected(sequence),
            buffer_nbytes=self._buffer_nbytes,
        )
        summary = json.dumps(_summary(sequence, meta), default=str)
        feed.begin(output.name.replace(SUFFIX, ""), has_raw=False, summary=summary)
        run = _Run(feed, sequence, _cameras(meta))
        with self._lock:
            self._runs[thread.ident], self._last = run, feed
        if type(thread).__name__ == RELAY:
            # The thread can end before it has relayed the last signal, as when another output raises.
            def end() -> None:
                thread.join()
                self._safely(lambda: self._finished(run))

            threading.Thread(target=end, name="refocusd-mda-end", daemon=True).start()

    def _run(self) -> _Run | None:
        """The acquisition whose signals come in this thread; the only one, if there is one."""
        with self._lock:
            run = self._runs.get(threading.get_ident())
            return next(iter(self._runs.values())) if run is None and len(self._runs) == 1 else run

    def _frame(self, image: Any, event: Any, metadata: Any) -> None:
        taken_ns = time.perf_counter_ns()
        run = self._run()
        if run is not None:
            about = _metadata(event, metadata, run.frames)
            run.frames += 1
            about["Axes"] = self._unused(run, about["Axes"])
            run.newest = canonical_axes(about["Axes"])
            run.feed.take(image, about, taken_ns)

    def _unused(self, run: _Run, axes: Axes) -> Axes:
        """The axes, with a further one if an earlier frame of the acquisition had the same.

        Events may use an index twice, and there is no raw dataset that would keep the last.
        """
        chosen = run.distinct.of(axes)
        if chosen is not axes:
            self._warn(
                "the acquisition uses an index twice: frames after the first have an axis `repeat`"
            )
        return chosen

    def _finished(self, run: _Run | None, *, whole: bool = True) -> None:
        """End an acquisition, unless it has ended; not `whole` if more frames may be acquired."""
        with self._lock:
            there = next((thread for thread, each in self._runs.items() if each is run), None)
            self._runs.pop(there, None)
        if run is None or there is None:
            return
        try:
            if whole:
                run.feed.skip(run.without_frame(), NO_FRAME)
        finally:
            run.feed.end()

    def _safely(self, do: Callable[[], None]) -> None:
        """Log errors, which would end the user's acquisition if they were raised."""
        try:
            do()
        except Exception as error:  # noqa: BLE001
            self._warn(f"{type(error).__name__}: {error}")


def _summary(sequence: Any, meta: Any) -> dict[str, Any]:
    """Metadata of the whole acquisition, under Micro-Manager's names."""
    summary: dict[str, Any] = {"Source": "pymmcore-plus"}
    infos = meta.get("image_infos") if isinstance(meta, Mapping) else None
    if infos and (um := infos[0].get("pixel_size_um")):
        summary["PixelSize_um"] = um
    if step_um := getattr(getattr(sequence, "z_plan", None), "step", None):
        summary["z-step_um"] = step_um
    if channels := [channel.config for channel in getattr(sequence, "channels", None) or ()]:
        summary["ChNames"] = channels
    if hasattr(sequence, "model_dump"):
        summary["mda_sequence"] = sequence.model_dump(mode="json", exclude_unset=True)
    return summary


def _metadata(event: Any, said: Any, number: int) -> dict[str, Any]:
    metadata = dict(said) if isinstance(said, Mapping) else {}
    metadata.pop("mda_event", None)
    if hasattr(event, "model_dump"):
        metadata["mda_event"] = event.model_dump(mode="json", exclude_defaults=True)
    metadata["Axes"] = _axes(event, number)
    for ours, theirs in NAMES:
        if theirs in metadata:
            metadata.setdefault(ours, metadata[theirs])
    # The name from the position list or the plate, such as A1; the axis has only a number.
    if name := getattr(event, "pos_name", None):
        metadata.setdefault("PositionName", str(name))
    where = metadata.get("position")
    for axis, um in where.items() if isinstance(where, Mapping) else ():
        if axis in ("x", "y", "z") and um is not None:
            metadata.setdefault(f"{axis.upper()}PositionUm", um)
    return metadata


def _axes(event: Any, number: int) -> dict[str, int | str]:
    """The event's index, with channels by name; events without an index are numbered as times."""
    index = dict(getattr(event, "index", None) or {})
    if not index:
        return {"time": number}
    axes: dict[str, int | str] = {}
    for axis, value in index.items():
        axes[AXES.get(axis, str(axis))] = int(value)
    channel = getattr(getattr(event, "channel", None), "config", None)
    if "channel" in axes and channel:
        axes["channel"] = str(channel)
    return axes


def _cameras(meta: Any) -> int:
    """Number of frames of one event; those of a Multi Camera have an axis ``cam``."""
    infos = meta.get("image_infos") if isinstance(meta, Mapping) else None
    return int(infos[0].get("num_camera_adapter_channels") or 1) if infos else 1


def _positions(sequence: Any) -> Iterable[Any]:
    return getattr(sequence, "stage_positions", None) or ()


def _expected(sequence: Any) -> int:
    """Largest number of frames that will come; 0 if it is not known."""
    if type(sequence).__name__ == "GeneratorMDASequence":
        return 0  # wraps an iterator of events, and warns when it is asked for its sizes
    sizes = getattr(sequence, "sizes", None)
    # useq says 0 for the axes that a sequence does not have.
    lengths = [size for size in sizes.values() if size] if isinstance(sizes, Mapping) else []
    return math.prod(lengths) if lengths else 0

"""The acquisitions of pymmcore-plus, for those who left Java.

One line before the script's own::

    refocusd.attach_mda(mmc, output="D:/refocused")
    mmc.run_mda(sequence)

Its runner tells of each frame with its image, event and metadata in memory; they are copied
into a bounded buffer and the runner goes on.  It knows no raw dataset that could be caught up
from: what does not fit while the daemon is busy is skipped, by name.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from refocusd.errors import ConfigError
from refocusd.frame import Axes
from refocusd.sources.cameras import DistinctAxes
from refocusd.sources.feed import Feed
from refocusd.sources.once import Once
from refocusd.sources.output_folder import output_folder
from refocusd.transport.client import default_endpoint
from refocusd.transport.messages import Counts

__all__ = ["AttachedMDA", "attach_mda"]

log = logging.getLogger(__name__)

#: Axes as the rest of refocusd names them; others keep useq's names.
AXES = {"t": "time", "p": "position", "c": "channel", "z": "z", "g": "grid"}


def attach_mda(
    mmc: Any, output: str | Path, *, endpoint: str | None = None, buffer_mib: int = 256
) -> AttachedMDA:
    """Refocus what a pymmcore-plus core acquires from now on.

    Parameters
    ----------
    mmc : pymmcore_plus.CMMCorePlus
    output : path
        Folder in which each acquisition gets its refocused dataset.
    endpoint : str, optional
        The daemon's address; ``REFOCUSD_ENDPOINT`` or ``tcp://127.0.0.1:8751``.
    buffer_mib : int
        Frames held while the daemon is busy, MiB; when it is full the oldest
        are skipped.

    Returns
    -------
    AttachedMDA
        To wait for the daemon, and to detach; need not be kept.

    Raises
    ------
    ConfigError
        If the core has no acquisition runner.
    """
    attached = AttachedMDA(
        Path(output).expanduser().absolute(), endpoint or default_endpoint(), buffer_mib << 20
    )
    attached._connect(mmc)
    return attached


class AttachedMDA:
    """Listens to one runner; made by `attach_mda`."""

    def __init__(self, output: Path, endpoint: str, buffer_nbytes: int) -> None:
        self._output = output
        self._endpoint = endpoint
        self._buffer_nbytes = buffer_nbytes
        self._feed: Feed | None = None
        self._last: Feed | None = None
        self._frames = 0
        self._distinct = DistinctAxes()
        self._warn = Once(log, note=" (the acquisition is not affected)")
        self._lock = threading.Lock()
        self._connected: list[tuple[Any, Callable[..., None]]] = []

    def detach(self) -> None:
        """Listen no more; an acquisition that runs ends here for refocusd."""
        for signal, listener in self._connected:
            signal.disconnect(listener)
        self._connected.clear()
        self._safely(self._finished)

    def wait(self, timeout_s: float | None = None) -> Counts | None:
        """Wait until every frame of the last acquisition has a final state.

        Returns the daemon's counts; None if no daemon was there, it was not done in time, or
        nothing was acquired.
        """
        with self._lock:
            feed = self._feed or self._last
        return feed.wait(timeout_s) if feed is not None else None

    def _connect(self, mmc: Any) -> None:
        events = getattr(getattr(mmc, "mda", None), "events", None)
        listeners: dict[str, Callable[..., None]] = {
            "sequenceStarted": lambda *said: self._safely(lambda: self._started(*said)),
            "frameReady": lambda *said: self._safely(lambda: self._frame(*said)),
            "sequenceFinished": lambda *_: self._safely(self._finished),
        }
        # Functions of their own: bound methods would be held weakly, and forgotten.
        for name, listener in listeners.items():
            signal = getattr(events, name, None)
            if signal is None:
                raise ConfigError(
                    f"{type(mmc).__name__} has no mda.events.{name}: attach_mda takes a "
                    "CMMCorePlus of pymmcore-plus"
                )
            signal.connect(listener)
            self._connected.append((signal, listener))

    def _started(self, sequence: Any, *_: Any) -> None:
        self._finished()
        name = str((getattr(sequence, "metadata", None) or {}).get("name", "")) or "MDA"
        feed = Feed(
            self._endpoint,
            output=str(output_folder(self._output, name)),
            expected=_expected(sequence),
            buffer_nbytes=self._buffer_nbytes,
        )
        feed.begin(name, has_raw=False)
        with self._lock:
            self._feed, self._frames = feed, 0
            self._distinct = DistinctAxes()

    def _frame(self, image: Any, event: Any = None, metadata: Any = None, *_: Any) -> None:
        taken_ns = time.perf_counter_ns()
        feed = self._feed
        if feed is not None:
            about = _metadata(event, metadata, self._frames)
            self._frames += 1
            about["Axes"] = self._unused(about["Axes"])
            feed.take(image, about, taken_ns)

    def _unused(self, axes: Axes) -> Axes:
        """The axes, with one more where an earlier frame of the acquisition has had them.

        Events may use an index twice, and there is no raw dataset that would keep the last.
        """
        chosen = self._distinct.of(axes)
        if chosen is not axes:
            self._warn(
                "the acquisition uses an index twice: frames after the first have an axis `repeat`"
            )
        return chosen

    def _finished(self) -> None:
        with self._lock:
            feed, self._feed = self._feed, None
            self._last = feed or self._last
        if feed is not None:
            feed.end()

    def _safely(self, do: Callable[[], None]) -> None:
        """What goes wrong here is logged: raised, it would end the user's acquisition."""
        try:
            do()
        except Exception as error:  # noqa: BLE001
            self._warn(f"{type(error).__name__}: {error}")


def _metadata(event: Any, said: Any, number: int) -> dict[str, Any]:
    metadata = dict(said) if isinstance(said, Mapping) else {}
    metadata.pop("mda_event", None)
    if hasattr(event, "model_dump"):
        metadata["mda_event"] = event.model_dump(mode="json", exclude_defaults=True)
    metadata["Axes"] = _axes(event, number)
    for ours, theirs in (("PixelSizeUm", "pixel_size_um"), ("Exposure", "exposure_ms")):
        if theirs in metadata:
            metadata.setdefault(ours, metadata[theirs])
    return metadata


def _axes(event: Any, number: int) -> dict[str, int | str]:
    """The event's index, channels by name; events without an index are counted."""
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


def _expected(sequence: Any) -> int:
    """Frames that will come at most; 0 where that is not known."""
    if type(sequence).__name__ == "GeneratorMDASequence":
        return 0  # stands for an iterator of events, and warns when it is asked
    sizes = getattr(sequence, "sizes", None)
    return math.prod(sizes.values()) if isinstance(sizes, Mapping) and sizes else 0

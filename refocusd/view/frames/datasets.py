"""Any frame of the datasets that the daemon names, read from disk when asked for.

Only an acquisition's id comes from a request, never a path.
"""

from __future__ import annotations

import json
import threading
import time
from collections import OrderedDict
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from refocusd.datasets.run_folder import trust_maps_of
from refocusd.errors import InputError
from refocusd.formats.dataset import Dataset
from refocusd.formats.open_dataset import open_dataset
from refocusd.frame import AxisValue, Frame, Pixels
from refocusd.imaging.trust_map import pixels_per_cell
from refocusd.transport.messages import AcquisitionStatus
from refocusd.view.state.view_state import ViewState

#: At most this many datasets stay open, and this many pairs and bytes of pairs in memory.
MAX_OPEN, MAX_PAIRS, MAX_PAIR_BYTES = 8, 8, 128 << 20
#: Shortest time between two looks for new frames in a dataset.
REFRESH_S = 0.3
#: At most this many values of an axis are offered to a page.
MAX_AXIS_VALUES = 5000


@dataclass(frozen=True, slots=True, eq=False)
class FramePair:
    """One frame before and after, in counts.

    Parameters
    ----------
    acquisition : AcquisitionStatus
    key : str
        Canonical axes.
    frames : mapping of str to ndarray, shape (height, width)
        ``raw`` and ``refocused``: those that are on disk, at least one.
    metadata : mapping
        Metadata of the raw frame, or of the refocused one if raw is not on disk.
    made_by : mapping
        The `refocusd` object of the refocused frame's metadata.
    trust : bytes
        Its trust map, row by row; empty if none is on disk.
    """

    acquisition: AcquisitionStatus
    key: str
    frames: Mapping[str, Pixels]
    metadata: Mapping[str, Any]
    made_by: Mapping[str, Any]
    trust: bytes = b""

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width, in pixels."""
        height, width = next(iter(self.frames.values())).shape
        return height, width


@dataclass(slots=True)
class _AxisValues:
    """The values of each axis of one growing dataset; parses each key only once."""

    frames: int = 0
    found: dict[str, dict[AxisValue, None]] = field(default_factory=dict)

    def take(self, keys: list[str]) -> None:
        """Add the keys that follow those added before."""
        if len(keys) < self.frames:
            self.frames = 0
            self.found.clear()
        for key in keys[self.frames :]:
            for name, value in json.loads(key).items():
                self.found.setdefault(name, {})[value] = None
        self.frames = len(keys)

    def sorted(self) -> dict[str, list[AxisValue]]:
        """The values of each axis, numbers before names: at most the last `MAX_AXIS_VALUES`."""
        return {
            name: sorted(values, key=_rank)[-MAX_AXIS_VALUES:]
            for name, values in self.found.items()
        }


def _rank(value: AxisValue) -> tuple[bool, int, str]:
    return isinstance(value, str), value if isinstance(value, int) else 0, str(value)


@dataclass(slots=True)
class _Open:
    """A dataset in use, and its reader once it could be opened."""

    path: Path
    reader: Dataset | None = None
    looked_at: float = 0.0
    axes: _AxisValues = field(default_factory=_AxisValues)

    def current(self) -> Dataset | None:
        """The reader, up to date with the disk; None if there is no dataset (yet)."""
        now = time.monotonic()
        if now - self.looked_at < REFRESH_S:
            return self.reader
        self.looked_at = now
        try:
            if self.reader is not None:
                self.reader.refresh()
        except (InputError, OSError):
            self.forget()  # deleted, moved or written again
        if self.reader is None:
            with suppress(InputError, OSError):
                self.reader = open_dataset(self.path)
        return self.reader

    def forget(self) -> None:
        """Close the files."""
        if self.reader is not None:
            self.reader.close()
            self.reader = None


class Datasets:
    """Reads frames; several threads may use it, and take turns.

    Parameters
    ----------
    state : ViewState
        Its status names the acquisitions and their folders.
    """

    def __init__(self, state: ViewState) -> None:
        self._state = state
        self._lock = threading.Lock()
        self._open: OrderedDict[Path, _Open] = OrderedDict()
        self._pairs: OrderedDict[tuple[str, str], FramePair] = OrderedDict()

    def _find(self, acquisition: str) -> AcquisitionStatus:
        """The acquisition with that id; if it is empty, the newest.

        Raises
        ------
        InputError
            If the daemon names no such acquisition.
        """
        status = self._state.last_status
        details = status.details if status is not None else []
        for detail in reversed(details):
            if acquisition in ("", detail.id):
                return detail
        raise InputError(
            f"the daemon has no acquisition {acquisition!r} (any more)"
            if acquisition
            else "there has been no acquisition yet"
        )

    def axes(self, acquisition: str) -> tuple[AcquisitionStatus, int, dict[str, list[AxisValue]]]:
        """An acquisition, the number of its frames on disk, and the sorted values of each axis.

        Raises
        ------
        InputError
            If there is no such acquisition.
        """
        detail = self._find(acquisition)
        with self._lock:
            for folder in filter(None, (detail.raw, detail.output)):
                dataset = self._dataset(Path(folder))
                if (reader := dataset.current()) is not None:
                    dataset.axes.take(reader.axes_keys())
                    return detail, dataset.axes.frames, dataset.axes.sorted()
            return detail, 0, {}

    def pair(self, acquisition: str, key: str) -> FramePair:
        """One frame before and after.

        Parameters
        ----------
        acquisition : str
            Its id; empty for the newest.
        key : str
            Canonical axes.

        Raises
        ------
        InputError
            If neither the raw nor the refocused frame is on disk.
        """
        detail = self._find(acquisition)
        with self._lock:
            cached = self._pairs.get((detail.id, key))
            if cached is not None:
                self._pairs.move_to_end((detail.id, key))
                return cached
            folders = {"raw": detail.raw, "refocused": detail.output}
            read = {name: self._read(Path(f), key) for name, f in folders.items() if f}
            frames = {name: frame for name, frame in read.items() if frame is not None}
            if not frames:
                raise InputError(f"frame {key} of {detail.name} is not on disk (yet)")
            maps = self._read(trust_maps_of(Path(detail.output)), key) if detail.output else None
            first, refocused = next(iter(frames.values())), frames.get("refocused")
            made_by = refocused.metadata.get("refocusd") if refocused is not None else None
            pair = FramePair(
                detail,
                key,
                {name: frame.pixels for name, frame in frames.items()},
                first.metadata,
                made_by if isinstance(made_by, dict) else {},
                _cells(first.pixels.shape, maps),
            )
            if len(frames) == len(folders):
                # A pending frame is not kept, because its refocused frame will come.
                self._keep(pair)
            return pair

    def close(self) -> None:
        """Close all files."""
        with self._lock:
            for dataset in self._open.values():
                dataset.forget()
            self._open.clear()
            self._pairs.clear()

    def _keep(self, pair: FramePair) -> None:
        self._pairs[pair.acquisition.id, pair.key] = pair
        while len(self._pairs) > MAX_PAIRS or (
            len(self._pairs) > 1 and sum(map(_nbytes, self._pairs.values())) > MAX_PAIR_BYTES
        ):
            self._pairs.popitem(last=False)

    def _dataset(self, path: Path) -> _Open:
        dataset = self._open.setdefault(path, _Open(path))
        self._open.move_to_end(path)
        while len(self._open) > MAX_OPEN:
            self._open.popitem(last=False)[1].forget()
        return dataset

    def _read(self, path: Path, key: str) -> Frame | None:
        reader = self._dataset(path).current()
        if reader is None or key not in reader:
            return None
        try:
            return reader.read(key)
        finally:
            # While a file is open, its owner cannot move or delete it on Windows.
            with suppress(OSError):
                reader.close()


def _cells(shape: tuple[int, ...], maps: Frame | None) -> bytes:
    """The trust map of a frame of this shape, one byte per cell; empty if there is none."""
    step = pixels_per_cell(shape)
    return maps.pixels[::step, ::step].tobytes() if maps is not None else b""


def _nbytes(pair: FramePair) -> int:
    return sum(pixels.nbytes for pixels in pair.frames.values())

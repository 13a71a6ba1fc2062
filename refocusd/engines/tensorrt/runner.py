"""One frame through a network on the card: counts go in, counts come out.

Rows travel through two pinned buffers each way: while the card copies one, the processor
fills or empties the other.  A tile is computed as soon as its rows have arrived, and rows
travel back as soon as every tile that writes them is done.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from refocusd.engines.tensorrt.device import Device
from refocusd.engines.tensorrt.kernels import kernel_name
from refocusd.engines.tiling import Tile
from refocusd.errors import EngineError
from refocusd.frame import Pixels
from refocusd.imaging.normalise import CountsRange

__all__ = ["BatchShape", "FrameRunner", "Network", "Session", "needed_bytes"]

#: Of each of the pinned buffers.
CHUNK_BYTES = 4 << 20
#: Pixels cut, pixels that are not finite.
TALLY_BYTES = 8
#: Frame shapes that stay ready.
MAX_READY = 4

BatchShape = tuple[int, int, int, int]


class Session(Protocol):
    """A network ready for one shape; belongs to one thread."""

    #: Memory of the card that it works in.
    scratch_bytes: int

    def bind(self, raw: int, refocused: int, scratch: int) -> None:
        """Say where on the card the batch, the answers and the memory to work in are."""

    def enqueue(self, stream: int) -> None:
        """Run the network on the stream."""

    def can_be_captured(self, stream: int) -> bool:
        """Whether a CUDA graph can record `enqueue`."""


class Network(Protocol):
    """A compiled network."""

    def session(self, shape: BatchShape) -> Session:
        """Make the network ready for batches of one shape."""


def needed_bytes(session: Session, frame: tuple[int, int], itemsize: int, shape: BatchShape) -> int:
    """Memory of the card that a frame takes in a session for batches of `shape`."""
    tiles = 2 * 4 * shape[0] * shape[2] * shape[3]
    return session.scratch_bytes + tiles + 2 * frame[0] * frame[1] * itemsize + TALLY_BYTES


class FrameRunner:
    """Takes frames through a network.

    Parameters
    ----------
    device : Device
    network : Network
    limit_bytes : int
        Memory of the card that all shapes that stay ready take together.
    """

    def __init__(self, device: Device, network: Network, limit_bytes: int) -> None:
        self._device = device
        self._network = network
        self._limit_bytes = limit_bytes
        self._ready: dict[tuple[object, ...], _Ready] = {}
        self._upload = device.stream()
        self._compute = device.stream()
        self._download = device.stream()
        self._pinned = [device.pinned(CHUNK_BYTES) for _ in range(4)]
        self._copied = [device.event() for _ in range(4)]
        self._batches: list[tuple[Any, Any, Any]] = []  # network begun, ended, batch done

    def run(
        self, raw: Pixels, out: Pixels, counts: CountsRange, plan: Sequence[Tile], batch: int
    ) -> tuple[float, int]:
        """Refocus `raw` into `out`.

        Parameters
        ----------
        raw, out : ndarray of uint8 or uint16, shape (height, width)
        counts : CountsRange
        plan : sequence of Tile
            Of one shape, row by row.
        batch : int
            Tiles at once.

        Returns
        -------
        (float, int)
            Time in the network, ms, and pixels cut at the ends of the counts scale.

        Raises
        ------
        MemoryError
            If the card's memory ran out.
        EngineError
            If pixels are not finite, or the card failed.
        """
        device = self._device
        ready = self._prepare(raw, plan[0].shape, min(batch, len(plan)))
        device.zero(ready.tally, TALLY_BYTES, self._compute)
        finished: list[int] = []  # rows that are done after each batch
        sent = chunk = 0
        for index, first in enumerate(range(0, len(plan), ready.shape[0])):
            tiles = plan[first : first + ready.shape[0]]
            needed = max(tile.read[0].stop for tile in tiles)
            while sent < needed:
                sent = self._send(raw, ready, sent, chunk % 2, fresh=chunk < 2)
                device.wait(self._compute, self._copied[chunk % 2])
                chunk += 1
            self._compute_batch(ready, tiles, raw, counts, index)
            after = first + len(tiles)
            finished.append(plan[after].write[0].start if after < len(plan) else raw.shape[0])
        self._fetch(out, ready, finished)
        clipped, broken = self._tally(ready)
        if broken:
            raise EngineError(
                "the network returned pixels that are not finite; set precision to f32, or use "
                "another model"
            )
        times = self._batches[: len(finished)]
        return sum(device.elapsed_ms(begun, ended) for begun, ended, _ in times), clipped

    def forget(self) -> None:
        """Free what was made ready; the next frame makes its own."""
        for ready in self._ready.values():
            ready.close()
        self._ready = {}

    def close(self) -> None:
        """Free everything but the device."""
        self.forget()
        for memory in self._pinned:
            self._device.free_pinned(memory)
        self._pinned = []

    # -- the frame's way -----------------------------------------------------------------

    def _prepare(self, raw: Pixels, tile: tuple[int, int], batch: int) -> _Ready:
        shape = (batch, 1, *tile)
        key = (raw.shape, raw.dtype.str, shape)
        ready = self._ready.pop(key, None)
        if ready is None:
            session = self._network.session(shape)
            nbytes = needed_bytes(session, raw.shape, raw.itemsize, shape)
            while self._ready and (
                len(self._ready) >= MAX_READY
                or nbytes + sum(other.nbytes for other in self._ready.values()) > self._limit_bytes
            ):
                self._ready.pop(next(iter(self._ready))).close()
            ready = _Ready(self._device, session, raw, shape)
        self._ready[key] = ready  # last: used latest
        return ready

    def _send(self, raw: Pixels, ready: _Ready, start: int, half: int, *, fresh: bool) -> int:
        """Copy some rows to the card; returns up to which."""
        device = self._device
        memory, stop = self._chunk(raw, start, half)
        if not fresh:
            device.finish(self._copied[half])
        np.copyto(memory.view(raw.dtype).reshape(stop - start, -1), raw[start:stop])
        device.upload(ready.raw + start * ready.row_bytes, memory, self._upload)
        device.record(self._copied[half], self._upload)
        return stop

    def _compute_batch(
        self, ready: _Ready, tiles: Sequence[Tile], raw: Pixels, counts: CountsRange, index: int
    ) -> None:
        device, stream = self._device, self._compute
        if index == len(self._batches):
            self._batches.append((device.event(), device.event(), device.event()))
        begun, ended, done = self._batches[index]
        for place, tile in enumerate(tiles):
            ready.normalise(place, tile, raw, counts, stream)
        device.record(begun, stream)
        # A batch that is not full computes what an earlier one left, too.
        ready.infer(stream)
        device.record(ended, stream)
        for place, tile in enumerate(tiles):
            ready.restore(place, tile, raw, counts, stream)
        device.record(done, stream)

    def _fetch(self, out: Pixels, ready: _Ready, finished: Sequence[int]) -> None:
        """Copy rows back from the card as they are done."""
        device = self._device
        pending: list[tuple[int, int, NDArray[np.uint8]]] = []

        def empty() -> None:
            first, last, memory = pending.pop(0)
            device.finish(self._copied[2 + first // self._rows(out) % 2])
            np.copyto(out[first:last], memory.view(out.dtype).reshape(last - first, -1))

        start = batch = 0
        while start < out.shape[0]:
            half = start // self._rows(out) % 2
            memory, stop = self._chunk(out, start, 2 + half)
            while finished[batch] < stop:
                batch += 1
            device.wait(self._download, self._batches[batch][2])
            if len(pending) == 2:
                empty()
            device.download(memory, ready.refocused + start * ready.row_bytes, self._download)
            device.record(self._copied[2 + half], self._download)
            pending.append((start, stop, memory))
            start = stop
        while pending:
            empty()

    def _tally(self, ready: _Ready) -> tuple[int, int]:
        memory = self._pinned[2][:TALLY_BYTES]
        self._device.download(memory, ready.tally, self._download)
        self._device.record(self._copied[2], self._download)
        self._device.finish(self._copied[2])
        clipped, broken = memory.view(np.uint32)
        return int(clipped), int(broken)

    def _rows(self, frame: Pixels) -> int:
        """Rows that travel at once."""
        return int(max(CHUNK_BYTES // (frame.shape[1] * frame.itemsize), 1))

    def _chunk(self, frame: Pixels, start: int, which: int) -> tuple[NDArray[np.uint8], int]:
        stop = min(start + self._rows(frame), frame.shape[0])
        nbytes = (stop - start) * frame.shape[1] * frame.itemsize
        if nbytes > self._pinned[which].nbytes:
            raise EngineError(f"rows of {frame.shape[1]} px are longer than any camera's")
        return self._pinned[which][:nbytes], stop


class _Ready:
    """Everything on the card for frames of one shape, cut into tiles of one shape."""

    def __init__(self, device: Device, session: Session, raw: Pixels, shape: BatchShape) -> None:
        self.shape = shape
        self.row_bytes = raw.shape[1] * raw.itemsize
        self.nbytes = needed_bytes(session, raw.shape, raw.itemsize, shape)
        self._device, self._session = device, session
        self._graph: Any = None
        self._warm = False
        self._pointers: list[int] = []
        tile_bytes = 4 * shape[0] * shape[2] * shape[3]
        try:
            self.raw, self.refocused, self._seen, self._answers, self._scratch, self.tally = (
                self._malloc(nbytes)
                for nbytes in (
                    *(raw.nbytes, raw.nbytes),
                    *(tile_bytes, tile_bytes),
                    *(max(session.scratch_bytes, 1), TALLY_BYTES),
                )
            )
            session.bind(self._seen, self._answers, self._scratch)
        except BaseException:
            self.close()
            raise

    def _malloc(self, nbytes: int) -> int:
        self._pointers.append(self._device.malloc(nbytes))
        return self._pointers[-1]

    def normalise(
        self, place: int, tile: Tile, raw: Pixels, counts: CountsRange, stream: int
    ) -> None:
        """Fill one place of the batch."""
        _, _, height, width = self.shape
        rows, columns = tile.read
        self._device.launch(
            kernel_name("normalise", raw.itemsize),
            (height, width),
            (
                *_pointer(self.raw),
                *_ints(raw.shape[1], rows.start, columns.start),
                *_ints(rows.stop - rows.start, columns.stop - columns.start),
                *_floats(counts.offset, 1.0 / counts.scale),
                *_pointer(self._seen + 4 * place * height * width),
                *_ints(height, width),
            ),
            stream,
        )

    def infer(self, stream: int) -> None:
        """Run the network; from the second time on as a graph, which costs one call."""
        if self._graph is not None:
            self._device.replay(self._graph, stream)
            return
        # The first run compiles and allocates, which no graph can record.
        if self._warm and self._session.can_be_captured(stream):
            self._graph = self._device.capture(lambda: self._session.enqueue(stream), stream)
            self._device.replay(self._graph, stream)
            return
        self._session.enqueue(stream)
        self._warm = True

    def restore(
        self, place: int, tile: Tile, raw: Pixels, counts: CountsRange, stream: int
    ) -> None:
        """Write what one place of the batch answers for."""
        _, _, height, width = self.shape
        (top, left), (rows, columns) = tile.crop, tile.write
        size = (rows.stop - rows.start, columns.stop - columns.start)
        self._device.launch(
            kernel_name("restore", raw.itemsize),
            size,
            (
                *_pointer(self._answers + 4 * place * height * width),
                *_ints(width, top.start, left.start),
                *_pointer(self.refocused),
                *_ints(raw.shape[1], rows.start, columns.start, *size),
                *_floats(counts.offset, counts.scale),
                *_pointer(self.tally),
            ),
            stream,
        )

    def close(self) -> None:
        """Free the memory on the card."""
        if self._graph is not None:
            self._device.free_graph(self._graph)
            self._graph = None
        for pointer in self._pointers:
            self._device.free(pointer)
        self._pointers = []


def _pointer(value: int) -> tuple[tuple[int, type[Any]]]:
    return ((value, ctypes.c_void_p),)


def _ints(*values: int) -> tuple[tuple[int, type[Any]], ...]:
    return tuple((value, ctypes.c_int) for value in values)


def _floats(*values: float) -> tuple[tuple[float, type[Any]], ...]:
    return tuple((value, ctypes.c_float) for value in values)

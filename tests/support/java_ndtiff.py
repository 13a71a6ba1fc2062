"""Growing datasets, written byte for byte as Micro-Manager's Java classes write them.

===================  ==========================================================
`JavaNDTiff`         NDStorage's ``NDTiffWriter``, ``IndexWriter``: index of 25 MiB of zeros
                     and stacks of 4 GiB of zeros beforehand (sparse), image before entry,
                     both cut at the end
`JavaStack`          ``MultipageTiffWriter``: one pre-sized file a position, entry of the index
                     map before the image, OME-XML at the end
===================  ==========================================================

Run as a program, it writes a dataset at a given rate until killed, and reports each frame on disk:
``python java_ndtiff.py KIND FOLDER FRAMES SIDE FPS [--no-finish]``.
"""

from __future__ import annotations

import argparse
import io
import json
import struct
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

if sys.platform == "win32":
    import ctypes
    import msvcrt
    from ctypes import wintypes

PRESIZED_INDEX = 25 << 20
MAX_FILE = 4 << 30
SUMMARY = {"PixelSize_um": 0.65, "Prefix": "run", "ChNames": ["DAPI"], "z-step_um": 2.0}
_PADDING = 5_000_000


def frame_of(number: int, side: int, dtype: Any = np.uint16) -> NDArray[Any]:
    """A frame that differs from all others."""
    rng = np.random.default_rng(number)
    return rng.integers(1, np.iinfo(dtype).max, (side, side), dtype=dtype)


def _presized(path: Path, nbytes: int) -> io.FileIO:
    file = io.FileIO(path, "w+")
    if sys.platform == "win32":  # there `truncate` writes all the zeros; Java does not
        file.seek(nbytes)
        ctypes.WinDLL("kernel32").SetEndOfFile(wintypes.HANDLE(msvcrt.get_osfhandle(file.fileno())))
        file.seek(0)
    else:
        file.truncate(nbytes)
    return file


def _entry(tag: int, kind: int, count: int, value: int) -> bytes:
    if kind == 3 and count == 1:
        return struct.pack("<HHIHH", tag, kind, count, value, 0)
    return struct.pack("<HHII", tag, kind, count, value)


class JavaNDTiff:
    """An NDTiff 3 dataset as the Java writer writes it.

    Parameters
    ----------
    folder : Path
        Created here.
    prefix : str
    summary : mapping
    frames_per_file : int
        Frames after which the writer begins another stack, in place of 4 GiB; 0 for 4 GiB.
    encoding : str
        The platform's: ``cp1252`` on a western Windows before Java 18.
    """

    def __init__(
        self,
        folder: Path,
        prefix: str = "run",
        summary: Mapping[str, Any] = SUMMARY,
        frames_per_file: int = 0,
        encoding: str = "utf-8",
    ) -> None:
        folder.mkdir(parents=True)
        self._encoding = encoding
        self.folder = folder
        self._base = f"{prefix}_NDTiffStack"
        self._summary = json.dumps(dict(summary), ensure_ascii=False).encode(encoding)
        self._per_file = frames_per_file
        self._files = self._in_file = 0
        # ResolutionLevel creates the index before there is a stack.
        self._index = _presized(folder / "NDTiff.index", PRESIZED_INDEX)
        self._file: io.FileIO | None = None

    def put(
        self, axes: Mapping[str, Any], pixels: NDArray[Any], metadata: Mapping[str, Any]
    ) -> None:
        """Write one frame, then its entry."""
        self.put_entry(*self.put_image(axes, pixels, metadata))

    def put_image(
        self,
        axes: Mapping[str, Any],
        pixels: NDArray[Any],
        metadata: Mapping[str, Any],
        *,
        cut: int = 0,
    ) -> tuple[bytes, bytes, tuple[int, ...]]:
        """Write one frame, less its last `cut` bytes, without its entry, which is returned."""
        text = json.dumps(dict(metadata), ensure_ascii=False).encode(self._encoding)
        full = self._per_file and self._in_file == self._per_file
        if self._file is None or full or self._file.tell() + pixels.nbytes + _PADDING >= MAX_FILE:
            self._new_file()
        file = self._file
        assert file is not None
        if file.tell() % 2:
            file.seek(1, io.SEEK_CUR)
        rgb = pixels.ndim == 3
        height, width = pixels.shape[:2]
        depth = 8 * pixels.itemsize
        start = file.tell()
        self._pointer_at = start + 2 + 13 * 12
        bits_at = self._pointer_at + 4
        x_at = bits_at + (6 if rgb else 0)
        pixels_at = x_at + 16
        text_at = pixels_at + pixels.nbytes
        following = text_at + len(text)
        following += following % 2
        samples = 3 if rgb else 1
        ifd = struct.pack("<H", 13) + b"".join(
            [
                _entry(256, 4, 1, width),
                _entry(257, 4, 1, height),
                _entry(258, 3, samples, bits_at if rgb else depth),
                _entry(259, 3, 1, 1),
                _entry(262, 3, 1, 2 if rgb else 1),
                _entry(273, 4, 1, pixels_at),
                _entry(277, 3, 1, samples),
                _entry(278, 3, 1, height),
                _entry(279, 4, 1, pixels.nbytes),
                _entry(282, 5, 1, x_at),
                _entry(283, 5, 1, x_at + 8),
                _entry(296, 3, 1, 3),
                _entry(51123, 2, len(text), text_at),
            ]
        )
        ifd += struct.pack("<I", following) + (struct.pack("<3H", 8, 8, 8) if rgb else b"")
        ifd += struct.pack("<4I", 1, 1, 1, 1)
        data = ifd + pixels.tobytes() + text
        file.write(data[: len(data) - cut])
        self._in_file += 1
        kind = 2 if rgb else {8: 0, 16: 1}[depth]
        name = self._name().encode()
        place = (pixels_at, width, height, kind, 0, text_at, len(text), 0)
        text_of_axes = json.dumps(dict(sorted(axes.items())), ensure_ascii=False)
        return text_of_axes.encode(self._encoding), name, place

    def put_entry(self, axes: bytes, name: bytes, place: tuple[int, ...]) -> None:
        """Write an index entry, as `IndexEntryData.asByteBuffer` does."""
        record = struct.pack("<I", len(axes)) + axes + struct.pack("<I", len(name)) + name
        self._index.write(record + struct.pack("<8I", *place))

    def finish(self, *, stacks: bool = True) -> None:
        """End the chain of images; truncate the index and, with `stacks`, the stacks."""
        if stacks:
            self._finish_file()
        self._index.truncate(self._index.tell())
        self._index.close()

    def abandon(self) -> None:
        """Close the files as a killed process leaves them."""
        for file in (self._file, self._index):
            if file is not None:
                file.close()

    def _name(self) -> str:
        return f"{self._base}.tif" if self._files == 1 else f"{self._base}_{self._files - 1}.tif"

    def _new_file(self) -> None:
        self._finish_file()
        self._files += 1
        self._in_file = 0
        self._file = _presized(self.folder / self._name(), MAX_FILE)
        first = 28 + len(self._summary)
        head = struct.pack(
            "<2sHIIIIII",
            b"II",
            42,
            first + first % 2,
            483729,
            3,
            3,
            2355492,
            len(self._summary),
        )
        self._file.write(head + self._summary)

    def _finish_file(self) -> None:
        if self._file is not None and not self._file.closed:
            end = self._file.tell()
            self._file.seek(self._pointer_at)
            self._file.write(bytes(4))
            self._file.truncate(end)
            self._file.close()


class JavaStack:
    """The file of one position in an image-stack dataset, as `MultipageTiffWriter` writes it.

    Parameters
    ----------
    path : Path
        ``run_MMStack_Pos0.ome.tif``.
    summary : mapping
        With ``Frames``, ``Slices``, ``Channels`` and ``Positions`` as intended.
    side : int
    frames : int
        Intended number; determines the size of the file.
    """

    def __init__(self, path: Path, summary: Mapping[str, Any], side: int, frames: int) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        text = json.dumps(dict(summary)).encode()
        nbytes = side * side * 2
        self._most = min(MAX_FILE // nbytes, 1000)
        size = min(MAX_FILE, len(text) + 2_000_000 + frames * (nbytes + 2000))
        self._file = _presized(path, size)
        map_at = 40 + len(text)
        space = 8 + 20 * self._most
        head = struct.pack(
            "<2sH9I", b"II", 42, map_at + space, 54773648, map_at, 0, 0, 0, 0, 2355492, len(text)
        )
        self._file.write(head + text + struct.pack("<II", 3453623, self._most) + bytes(space - 8))
        self._map_at = self._entries_at = map_at + 8
        self._pointer_at = self._description_at = 0

    def put(
        self,
        place: tuple[int, int, int, int],
        pixels: NDArray[Any],
        metadata: Mapping[str, Any],
        *,
        cut: int = 0,
    ) -> None:
        """Write one frame; `place` is its channel, z, time and position."""
        text = json.dumps(dict(metadata)).encode() + b"\0"
        start = self._file.tell()
        self._write_at(self._map_at, struct.pack("<5I", *place, start))
        self._map_at += 20
        first = not self._description_at
        count = 17 if first else 13
        self._pointer_at = start + 2 + 12 * count
        pixels_at = self._pointer_at + 4
        x_at = pixels_at + pixels.nbytes
        text_at = x_at + 16
        entries = [
            _entry(256, 4, 1, pixels.shape[1]),
            _entry(257, 4, 1, pixels.shape[0]),
            _entry(258, 3, 1, 8 * pixels.itemsize),
            _entry(259, 3, 1, 1),
            _entry(262, 3, 1, 1),
        ]
        if first:
            self._description_at = start + 2 + 12 * len(entries)
            entries += [_entry(270, 2, 0, 0), _entry(270, 2, 0, 0)]
        entries += [
            _entry(273, 4, 1, pixels_at),
            _entry(277, 3, 1, 1),
            _entry(278, 3, 1, pixels.shape[0]),
            _entry(279, 4, 1, pixels.nbytes),
            _entry(282, 5, 1, x_at),
            _entry(283, 5, 1, x_at + 8),
            _entry(296, 3, 1, 3),
        ]
        if first:
            entries += [_entry(50838, 4, 0, 0), _entry(50839, 1, 0, 0)]
        entries.append(_entry(51123, 2, len(text), text_at))
        data = struct.pack("<H", count) + b"".join(entries)
        data += struct.pack("<I", text_at + len(text)) + pixels.tobytes()
        data += struct.pack("<4I", 1, 1, 1, 1) + text
        self._file.write(data[: len(data) - cut])

    def finish(self) -> None:
        """End the chain of images, write number of entries and OME-XML, truncate the file."""
        self._write_at(self._pointer_at, bytes(4))
        count = (self._map_at - self._entries_at) // 20
        self._write_at(self._entries_at - 4, struct.pack("<I", count))
        xml = b"<OME/>\0"
        end = self._file.tell()
        self._file.write(xml)
        self._write_at(self._description_at + 4, struct.pack("<II", len(xml), end))
        self._file.truncate(end + len(xml) + 8)
        self._file.close()

    def abandon(self) -> None:
        """Close the file as a killed process leaves it."""
        self._file.close()

    def _write_at(self, offset: int, data: bytes) -> None:
        before = self._file.tell()
        self._file.seek(offset)
        self._file.write(data)
        self._file.seek(before)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", choices=("ndtiff", "stack"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("frames", type=int)
    parser.add_argument("side", type=int)
    parser.add_argument("fps", type=float)
    parser.add_argument("--no-finish", action="store_true", help="wait to be killed instead")
    parser.add_argument("--per-file", type=int, default=0)
    parser.add_argument("--distinct", type=int, default=1 << 30, help="make so many frames only")
    parser.add_argument("--hold", type=int, help="wait for a line of input before this frame")
    parser.add_argument("--times", type=Path, help="write when each frame was on disk, as JSON")
    arguments = parser.parse_args()
    frames, side = arguments.frames, arguments.side
    made = [frame_of(n, side) for n in range(min(arguments.distinct, frames))]
    if arguments.kind == "ndtiff":
        dataset = JavaNDTiff(arguments.folder, frames_per_file=arguments.per_file)
    else:
        summary = {**SUMMARY, "Frames": frames, "Slices": 1, "Channels": 1, "Positions": 1}
        path = arguments.folder / "run_MMStack_Pos0.ome.tif"
        stack = JavaStack(path, summary, side, frames)
    begun = time.perf_counter()
    times: dict[int, int] = {}
    for n in range(frames):
        if (left := begun + n / arguments.fps - time.perf_counter()) > 0:
            time.sleep(left)
        if n == arguments.hold:
            sys.stdin.readline()
        pixels = made[n % len(made)]
        if arguments.kind == "ndtiff":
            axes = {"time": n, "channel": "DAPI"}
            dataset.put(axes, pixels, {"Axes": axes, "ElapsedTime-ms": 10 * n})
        else:
            said = {"FrameIndex": n, "SliceIndex": 0, "ChannelIndex": 0, "PositionIndex": 0}
            stack.put((0, 0, n, 0), pixels, {**said, "ElapsedTime-ms": 10 * n})
        times[n] = time.perf_counter_ns()
        sys.stdout.write(f"{n}\n")
        sys.stdout.flush()
    if arguments.times:
        arguments.times.write_text(json.dumps(times), encoding="utf-8")
    if arguments.no_finish:
        sys.stdin.read()  # until we are killed
    (dataset if arguments.kind == "ndtiff" else stack).finish()


if __name__ == "__main__":
    main()

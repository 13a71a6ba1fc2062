"""A writing process is killed at random moments, and nothing that it had written is lost."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from killed_writer import write_until_killed
from ndtiff_sinks import (
    assert_readers_find,
    assert_same,
    numbered_frame,
    read_by_ndstorage,
    read_by_tifffile,
    write_all,
)

from refocusd.formats.ndtiff.writer import NDTiffSink
from refocusd.frame import Axes, Frame

#: Writes frames of given numbers in a given order, and reports each on its standard output.
WRITER = """
import sys
import threading
from pathlib import Path

import numpy as np

from refocusd.formats.ndtiff.writer import NDTiffSink

path, height, width, limit, seed = Path(sys.argv[1]), *map(int, sys.argv[2:])
rows, columns = np.indices((height, width), dtype=np.uint32)
base = rows * 131 + columns * 17
start = NDTiffSink.append if (path / "NDTiff.index").exists() else NDTiffSink.create
with start(path, max_file_bytes=limit) as sink:
    missing = set(range(2000)) - {int(line) for line in sys.stdin.read().split()}
    for number in np.random.default_rng(seed).permutation(sorted(missing)).tolist()[:150]:
        pixels = (base + number * 7919).astype(np.uint16)
        axes = {"time": number, "channel": "φ-actin 蛍光"}
        sink.write(pixels, axes, {"Number": number, "Note": "µ" * (number % 50)})
        print(number, flush=True)
    threading.Event().wait()  # for its end
"""


def frame_of(number: int, shape: tuple[int, int]) -> Frame:
    """The frame to which the writer above gives this number."""
    axes: Axes = {"time": number, "channel": "φ-actin 蛍光"}
    metadata = {"Number": number, "Note": "µ" * (number % 50)}
    return Frame(numbered_frame(number, shape).pixels, axes, metadata)


@pytest.mark.parametrize(
    ("shape", "limit", "seed"),
    [
        pytest.param((16, 20), 2**32, 1, id="small frames"),
        pytest.param((512, 640), 2**32, 2, id="large frames"),
        pytest.param((64, 64), 30_000, 3, id="three frames a file"),
    ],
)
def test_a_killed_writer_loses_at_most_the_frame_in_flight(
    tmp_path: Path, shape: tuple[int, int], limit: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    path = tmp_path / "d"
    done: set[int] = set()
    for _ in range(8):
        reported = write_until_killed(WRITER, (path, *shape, limit), done, rng)
        assert reported
        found = read_by_ndstorage(path)
        numbers = {frame.metadata["Number"] for frame in found.values()}
        assert numbers >= done | reported
        assert len(numbers - done - reported) <= 1  # written, but killed before it was reported
        for frame in found.values():
            assert_same(frame, frame_of(frame.metadata["Number"], shape))
        pages = read_by_tifffile(path)
        for pixels, metadata in pages:
            np.testing.assert_array_equal(pixels, frame_of(metadata["Number"], shape).pixels)
        assert {metadata["Number"] for _, metadata in pages} >= numbers
        assert len(pages) - len(numbers) in (0, 1)  # in the chain, but not yet in the index
        done = numbers
    with NDTiffSink.append(path, max_file_bytes=limit) as sink:
        write_all(sink, [frame_of(5000, shape)])
    assert_readers_find(path, [frame_of(number, shape) for number in [*done, 5000]])

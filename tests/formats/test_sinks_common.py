"""What every sink promises, tested for both formats and read back by refocusd itself."""

from __future__ import annotations

import gc
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import tracemalloc
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from killed_writer import write_until_killed
from ndtiff_sinks import SUMMARY, assert_same, numbered_frame, refusal, write_all

from refocusd.errors import ConfigError, InputError, OutputError
from refocusd.formats.ndtiff.writer import NDTiffSink
from refocusd.formats.ome_zarr.writer import OmeZarrSink
from refocusd.formats.open_dataset import open_dataset
from refocusd.formats.open_sink import SinkKind, append_sink, create_sink
from refocusd.frame import Axes, Frame, canonical_axes

KINDS: tuple[SinkKind, ...] = ("ndtiff", "ome-zarr")


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> SinkKind:
    """Format of the dataset."""
    chosen: SinkKind = request.param
    return chosen


def found_in(path: Path) -> dict[str, Frame]:
    """All frames of a dataset by key."""
    with open_dataset(path) as reader:
        assert len(reader) == len(reader.axes_keys())
        return {key: reader.read(key) for key in reader.axes_keys()}


def assert_holds(path: Path, frames: Iterable[Frame]) -> None:
    """Assert that the dataset has exactly these frames, pixel by pixel, with their metadata."""
    expected = {frame.key: frame for frame in frames}
    found = found_in(path)
    assert found.keys() == expected.keys()
    for key, frame in expected.items():
        assert_same(found[key], frame)


def content(path: Path) -> dict[str, bytes]:
    """Contents of every file of a dataset, except the writer's own notes."""
    return {
        name.relative_to(path).as_posix(): name.read_bytes()
        for name in path.rglob("*")
        if name.is_file() and name.name != "frames.lock"
    }


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("shape", [(24, 36), (17, 19)])
def test_frames_may_come_in_any_order(
    tmp_path: Path, kind: SinkKind, dtype: Any, shape: tuple[int, int]
) -> None:
    order = np.random.default_rng(1).permutation(30).tolist()
    frames = [numbered_frame(number, shape, dtype) for number in order]
    with create_sink(kind, tmp_path / "d", SUMMARY) as sink:
        write_all(sink, frames)
        assert all(frame.key in sink for frame in frames)
        assert canonical_axes({"time": 99}) not in sink
        assert_holds(sink.path, frames)
    assert_holds(tmp_path / "d", frames)
    with open_dataset(tmp_path / "d") as reader:
        assert reader.axes_keys() == [frame.key for frame in frames]
        assert {key: reader.summary[key] for key in SUMMARY} == SUMMARY
        assert frames[3].key in reader
        assert str(reader.format_of(frames[3].key)) == f"{shape[1]}×{shape[0]} px {dtype.__name__}"


AXES = st.fixed_dictionaries(
    {},
    optional={
        "time": st.integers(0, 40),
        "z": st.integers(-5, 5),
        "channel": st.sampled_from(["DAPI", "φ-actin 蛍光", "a/b", "..", ""]),
        "position": st.integers(0, 3),
        "site": st.sampled_from(["A1", "A2"]),
        "row": st.integers(-1, 1),
    },
).filter(bool)


@settings(max_examples=40, deadline=None)
@given(
    several=st.lists(AXES, min_size=1, max_size=25, unique_by=canonical_axes),
    restarts=st.sets(st.integers(0, 24)),
    kind=st.sampled_from(KINDS),
)
def test_any_axes_are_kept_as_they_came(
    several: list[dict[str, Any]], restarts: set[int], kind: SinkKind
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "d"
        frames = [
            Frame(numbered_frame(number, (16, 17)).pixels, axes, {"Number": number})
            for number, axes in enumerate(several)
        ]
        sink = create_sink(kind, path)
        for number, frame in enumerate(frames):
            if number in restarts:
                sink.close()
                sink = append_sink(path)
            assert frame.key not in sink
            write_all(sink, [frame])
        sink.close()
        assert_holds(path, frames)


#: Whatever pycromanager accepts as axes: mixed types along an axis, huge, empty, any text.
ODD_VALUES = st.one_of(
    st.integers(-3, 3),
    st.sampled_from([2**63, -(2**70), "", "0", "DAPI", "\ud800", "a" * 300]),
    st.text(max_size=6),
)
ODD_AXES = st.dictionaries(
    st.one_of(st.sampled_from(["time", "z", "channel", "position"]), st.text(max_size=5)),
    ODD_VALUES,
    max_size=4,
)


@settings(max_examples=60, deadline=None)
@given(
    several=st.lists(ODD_AXES, min_size=1, max_size=10, unique_by=canonical_axes),
    kind=st.sampled_from(KINDS),
)
def test_odd_axes_are_kept_or_refused_frame_by_frame(
    several: list[dict[str, Any]], kind: SinkKind
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "d"
        kept: list[Frame] = []
        refused: list[str] = []
        with create_sink(kind, path) as sink:
            for number, axes in enumerate(several):
                frame = Frame(numbered_frame(number, (16, 17)).pixels, axes, {"Number": number})
                try:
                    write_all(sink, [frame])
                    kept.append(frame)
                except OutputError as error:
                    refused.append(str(error))
                assert (frame.key in sink) == (frame is kept[-1] if kept else False)
        append_sink(path).close()
        assert_holds(path, kept)
        # NDTiff's readers sort the values of an axis, and its records have a maximum length.
        assert not refused or kind == "ndtiff"
        assert all("use one of them throughout" in why or "shorten" in why for why in refused)


def test_numpy_numbers_in_axes_and_metadata_become_plain(tmp_path: Path, kind: SinkKind) -> None:
    metadata = {"Exposure": np.float32(0.5), "ROI": np.arange(4), "Binning": np.int64(2)}
    pixels = numbered_frame(0, (64, 64)).pixels[::2, 1::2]
    with create_sink(kind, tmp_path / "d") as sink:
        sink.write(pixels, {"z": np.int64(3)}, metadata)  # type: ignore[dict-item]
        sink.write(pixels, {"z": 4}, {})
    plain = {"Exposure": 0.5, "ROI": [0, 1, 2, 3], "Binning": 2}
    assert_holds(tmp_path / "d", [Frame(pixels, {"z": 3}, plain), Frame(pixels, {"z": 4}, {})])


def test_metadata_that_are_hardly_json_come_back(tmp_path: Path, kind: SinkKind) -> None:
    frame = numbered_frame(0)
    metadata = {"NaN": float("inf"), "Big": 2**70, "Half": "\ud800", "Line": "a\nb", "Deep": [[{}]]}
    with create_sink(kind, tmp_path / "d", metadata) as sink:
        sink.write(frame.pixels, frame.axes, metadata)
    with append_sink(tmp_path / "d") as sink:
        assert frame.key in sink
    assert_holds(tmp_path / "d", [Frame(frame.pixels, frame.axes, metadata)])


def test_a_closed_dataset_is_continued(tmp_path: Path, kind: SinkKind) -> None:
    frames = [numbered_frame(number) for number in range(20)]
    path = tmp_path / "d"
    create_sink(kind, path, SUMMARY).close()
    assert_holds(path, [])
    for part in (frames[:1], frames[1:1], frames[1:12], frames[12:]):
        with append_sink(path) as sink:
            write_all(sink, part)
    sink.close()
    assert_holds(path, frames)
    with append_sink(path) as sink:
        assert all(frame.key in sink for frame in frames)


# What is refused


def test_a_frame_that_does_not_fit_the_dataset_is_refused(tmp_path: Path, kind: SinkKind) -> None:
    path = tmp_path / "d"
    good = numbered_frame(0)
    other_shape, other_type = numbered_frame(1, (40, 32)), numbered_frame(1, dtype=np.uint8)
    refused: list[tuple[Any, Any, Any, str]] = [
        (good.pixels, good.axes, {}, "already.*--output"),
        (other_shape.pixels, {"time": 1}, {}, "32×40 px uint16.*36×24 px uint16"),
        (other_type.pixels, {"time": 1}, {}, "36×24 px uint8.*36×24 px uint16"),
        (good.pixels, {"time": 1}, {"When": object()}, "no JSON form"),
    ]
    with create_sink(kind, path) as sink:
        write_all(sink, [good])
        before = content(path)
    with append_sink(path) as sink:
        for pixels, axes, metadata, message in refused:
            with pytest.raises(OutputError, match=message):
                sink.write(pixels, axes, metadata)
        with pytest.raises(InputError, match="float64"):
            sink.write(good.pixels.astype(float), {"time": 1}, {})
        with pytest.raises(InputError, match="axis 'time'"):
            sink.write(good.pixels, {"time": 1.5}, {})  # type: ignore[dict-item]
    with pytest.raises(OutputError, match="closed"):
        sink.write(good.pixels, {"time": 1}, {})
    assert content(path) == before
    assert_holds(path, [good])


def test_existing_output_is_not_overwritten(tmp_path: Path, kind: SinkKind) -> None:
    path = tmp_path / "d"
    with create_sink(kind, path) as sink:
        write_all(sink, [numbered_frame(0)])
    (tmp_path / "file").write_text("mine", encoding="utf-8")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "zarr.json").write_text("mine", encoding="utf-8")
    before = content(tmp_path)
    for other in KINDS:
        for taken in ("d", "file", "folder"):
            with pytest.raises(OutputError, match=r"exists already.*--output"):
                create_sink(other, tmp_path / taken)
        with pytest.raises(OutputError, match="starting a dataset"):
            create_sink(other, tmp_path / "file" / "d")
    assert content(tmp_path) == before


def test_an_empty_folder_is_taken(tmp_path: Path, kind: SinkKind) -> None:
    (tmp_path / "d").mkdir()
    with create_sink(kind, tmp_path / "d") as sink:
        write_all(sink, [numbered_frame(0)])
    assert_holds(tmp_path / "d", [numbered_frame(0)])


def test_nothing_is_appended_where_no_dataset_is(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    for sink in (append_sink, NDTiffSink.append, OmeZarrSink.append):
        for name in ("nowhere", "folder"):
            with pytest.raises(OutputError, match="refocused dataset, or start a new one"):
                sink(tmp_path / name)
    for name in ("nowhere", "folder"):
        with pytest.raises(InputError, match="give the folder of a dataset"):
            open_dataset(tmp_path / name)
    with pytest.raises(ConfigError, match=r"'hdf5'.*ndtiff or ome-zarr"):
        create_sink("hdf5", tmp_path / "d")  # type: ignore[arg-type]


def test_a_summary_without_json_form_is_refused_before_anything_is_made(
    tmp_path: Path, kind: SinkKind
) -> None:
    with pytest.raises(OutputError, match="summary metadata"):
        create_sink(kind, tmp_path / "d", {"when": object()})
    assert not (tmp_path / "d").exists()


def test_a_second_writer_is_kept_out(tmp_path: Path, kind: SinkKind) -> None:
    path = tmp_path / "d"
    code = f"from refocusd.formats.open_sink import append_sink; append_sink({str(path)!r}).close()"
    with create_sink(kind, path) as sink:
        write_all(sink, [numbered_frame(0)])
        with pytest.raises(OutputError, match="another process"):
            append_sink(path)
        other = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=False
        )
        assert other.returncode != 0
        assert "another process" in other.stderr
        write_all(sink, [numbered_frame(1)])
    subprocess.run([sys.executable, "-c", code], check=True)
    assert_holds(path, [numbered_frame(0), numbered_frame(1)])


# A disk that is full, or may not be written


@pytest.mark.skipif(sys.platform == "win32", reason="RLIMIT_FSIZE is POSIX")
@pytest.mark.parametrize("room", [0, 1, 100, 178, 2000])
def test_a_frame_that_the_disk_refuses_is_undone(tmp_path: Path, kind: SinkKind, room: int) -> None:
    """A limit on file length stops the longest file anywhere within a frame."""
    import resource

    path = tmp_path / "d"
    frames = [
        Frame(frame.pixels, frame.axes, {**frame.metadata, "Long": "x" * 2500})
        for frame in (numbered_frame(number, (40, 50)) for number in range(8))
    ]
    with create_sink(kind, path, SUMMARY) as sink:
        write_all(sink, frames[:5])
        before = content(path)
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        limit = max(map(len, before.values())) + room
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
        try:
            with pytest.raises(OutputError, match="the disk is full"):
                write_all(sink, frames[6:7])
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert frames[6].key not in sink
        assert content(path) == before
        assert_holds(path, frames[:5])
        write_all(sink, frames[5:])
    assert_holds(path, frames)


@pytest.mark.parametrize("shape", [(100, 120), (16, 20)])
def test_a_full_disk_stops_writing_until_there_is_room(
    small_disk: Path, kind: SinkKind, shape: tuple[int, int]
) -> None:
    path = small_disk / "d"
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(700_000))
    frames = [
        Frame(frame.pixels, {**frame.axes, "position": number % 2}, frame.metadata)
        for number, frame in ((n, numbered_frame(n, shape)) for n in range(400))
    ]
    written = 0
    with create_sink(kind, path, SUMMARY) as sink:
        while not (said := refusal(sink, frames[written])):
            written += 1
        assert "the disk is full: free some space" in said
        assert written > 3
        before = content(path)
        for _ in range(3):
            assert "the disk is full" in refusal(sink, frames[written])
            assert content(path) == before
        assert_holds(path, frames[:written])
        ballast.unlink()
        write_all(sink, frames[written : written + 8])
    assert_holds(path, frames[: written + 8])


def test_a_folder_that_may_not_be_written_is_one_clear_error(
    small_disk: Path, kind: SinkKind
) -> None:
    with create_sink(kind, small_disk / "d", SUMMARY) as sink:
        write_all(sink, [numbered_frame(0)])
    before = content(small_disk)
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(OutputError, match=r"not permitted.*permissions"):
        append_sink(small_disk / "d")
    with pytest.raises(OutputError, match=r"not permitted.*permissions"):
        create_sink(kind, small_disk / "e")
    assert_holds(small_disk / "d", [numbered_frame(0)])
    assert content(small_disk) == before


@pytest.mark.skipif(sys.platform == "win32", reason="chmod does not take writing away on Windows")
def test_a_folder_without_permission_is_one_clear_error(tmp_path: Path, kind: SinkKind) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine").chmod(0o500)
    if os.access(tmp_path / "mine", os.W_OK):
        pytest.skip("this user may write everywhere")
    with pytest.raises(OutputError, match=r"not permitted.*permissions"):
        create_sink(kind, tmp_path / "mine" / "d")


# Many frames


def test_memory_stays_flat_over_many_frames(tmp_path: Path, kind: SinkKind) -> None:
    pixels = numbered_frame(0, (16, 16)).pixels
    with create_sink(kind, tmp_path / "d") as sink:
        for number in range(200):
            sink.write(pixels, {"time": number // 8, "z": number % 8}, {"Number": number})
        tracemalloc.start()
        try:
            for number in range(200, 3000):
                sink.write(pixels, {"time": number // 8, "z": number % 8}, {"Number": number})
            gc.collect()
            snapshot = tracemalloc.take_snapshot()
        finally:
            tracemalloc.stop()
    # pathlib interns names, and the interpreter may enlarge its table of them at this moment.
    kept = snapshot.filter_traces([tracemalloc.Filter(False, pathlib.__file__)])
    grown = sum(trace.size for trace in kept.traces)
    assert grown < 350_000  # the pixels alone are 1.4 MB; keys wait in a set of at most 4096
    with open_dataset(tmp_path / "d") as reader:
        assert len(reader) == 3000
        assert reader.metadata({"time": 374, "z": 7}) == {"Number": 2999}


# A writer that is killed

#: Writes frames of given numbers in a given order, and reports each on its standard output.
WRITER = """
import sys
import threading
from pathlib import Path

import numpy as np

from refocusd.formats.open_sink import append_sink
from refocusd.formats.open_sink import create_sink

kind, path, height, width, seed = sys.argv[1], Path(sys.argv[2]), *map(int, sys.argv[3:])
rows, columns = np.indices((height, width), dtype=np.uint32)
base = rows * 131 + columns * 17
with append_sink(path) if path.exists() else create_sink(kind, path) as sink:
    missing = set(range(2000)) - {int(line) for line in sys.stdin.read().split()}
    for number in np.random.default_rng(seed).permutation(sorted(missing)).tolist()[:150]:
        pixels = (base + number * 7919).astype(np.uint16)
        axes = {"time": number // 4, "channel": "φ-actin 蛍光", "position": number % 4}
        sink.write(pixels, axes, {"Number": number, "Note": "µ" * (number % 50)})
        print(number, flush=True)
    threading.Event().wait()  # for its end
"""


def frame_of(number: int, shape: tuple[int, int]) -> Frame:
    """The frame to which the writer above gives this number."""
    axes: Axes = {"time": number // 4, "channel": "φ-actin 蛍光", "position": number % 4}
    metadata = {"Number": number, "Note": "µ" * (number % 50)}
    return Frame(numbered_frame(number, shape).pixels, axes, metadata)


@pytest.mark.parametrize(
    ("shape", "seed"),
    [pytest.param((16, 20), 1, id="small frames"), pytest.param((512, 640), 2, id="large frames")],
)
def test_a_killed_writer_loses_at_most_the_frame_in_flight(
    tmp_path: Path, kind: SinkKind, shape: tuple[int, int], seed: int
) -> None:
    rng = np.random.default_rng(seed)
    path = tmp_path / "d"
    done: set[int] = set()
    for _ in range(6):
        reported = write_until_killed(WRITER, (kind, path, *shape), done, rng)
        assert reported
        found = found_in(path)
        numbers = {frame.metadata["Number"] for frame in found.values()}
        assert numbers >= done | reported
        assert len(numbers - done - reported) <= 1  # written, but killed before it was reported
        for frame in found.values():
            assert_same(frame, frame_of(frame.metadata["Number"], shape))
        done = numbers
    with append_sink(path) as sink:
        write_all(sink, [frame_of(5000, shape)])
    assert_holds(path, [frame_of(number, shape) for number in [*done, 5000]])


def test_a_writer_killed_at_its_start_leaves_nothing_in_the_way(
    tmp_path: Path, kind: SinkKind
) -> None:
    path = tmp_path / "d"
    code = (
        "import os, signal, sys; from pathlib import Path; from refocusd.formats.open_sink import create_sink\n"
        "import threading; threading.Timer(float(sys.argv[3]), os._exit, [9]).start()\n"
        "create_sink(sys.argv[1], Path(sys.argv[2])); os._exit(0)"
    )
    for delay in (0.0, 0.0001, 0.0005, 0.002):
        subprocess.run([sys.executable, "-c", code, kind, str(path), str(delay)], check=False)
        try:
            sink = append_sink(path)
        except OutputError:
            sink = create_sink(kind, path)
        with sink:
            write_all(sink, [numbered_frame(0)])
        assert_holds(path, [numbered_frame(0)])
        assert json.dumps(sorted(content(path)))  # the next round starts again
        path.rename(tmp_path / f"done {delay}")

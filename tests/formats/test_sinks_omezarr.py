"""The OME-Zarr sink, read back by zarr and held against OME-Zarr 0.5 by yaozarrs."""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from killed_writer import write_until_killed
from test_sinks import SUMMARY, numbered_frame, write_all
from test_sinks_common import WRITER, assert_holds, content, frame_of

from refocusd.errors import InputError, OutputError
from refocusd.formats.ome_zarr.contents import Slots
from refocusd.formats.ome_zarr.reader import OmeZarrReader
from refocusd.formats.ome_zarr.writer import OmeZarrSink
from refocusd.formats.open_dataset import open_dataset
from refocusd.frame import Axes, AxisValue, Frame

zarr = pytest.importorskip("zarr", reason="the extra `zarr` is not installed")
yaozarrs = pytest.importorskip("yaozarrs", reason="yaozarrs is not installed")


def assert_valid(path: Path) -> None:
    """The folder, and each image in it, is OME-Zarr 0.5 to the letter."""
    yaozarrs.validate_zarr_store(str(path))
    for place in path.glob("[0-9]*/zarr.json"):
        yaozarrs.validate_zarr_store(str(place.parent))


def images(path: Path) -> list[Any]:
    """Arrays of the images, as a viewer finds them from the root."""
    root = zarr.open_group(path, mode="r", zarr_format=3)
    ome = root.attrs["ome"]
    assert ome["version"] == "0.5"
    if "multiscales" in ome:
        return [root[ome["multiscales"][0]["datasets"][0]["path"]]]
    assert ome["bioformats2raw.layout"] == 3
    return [
        root[f"{name}/{root[name].attrs['ome']['multiscales'][0]['datasets'][0]['path']}"]
        for name in root["OME"].attrs["ome"]["series"]
    ]


def ome(path: Path) -> Any:
    """OME metadata of a group."""
    return json.loads((path / "zarr.json").read_text(encoding="utf-8"))["attributes"]["ome"]


def small(number: int, axes: Axes, **metadata: Any) -> Frame:
    return Frame(numbered_frame(number, (16, 20)).pixels, axes, metadata)


def dataset(path: Path, frames: Iterable[Frame], summary: Any = None) -> Path:
    with OmeZarrSink.create(path, summary) as sink:
        write_all(sink, frames)
    return path


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_the_folder_is_one_image_with_t_c_z_y_x(tmp_path: Path, dtype: Any) -> None:
    frames = [numbered_frame(number, dtype=dtype) for number in (20, 3, 4, 11)]
    path = tmp_path / "d"
    with OmeZarrSink.create(path, SUMMARY) as sink:
        for number, frame in enumerate(frames):
            write_all(sink, [frame])
            assert_valid(path)
            assert_holds(path, frames[: number + 1])
    (array,) = images(path)
    assert array.shape == (4, 2, 3, 24, 36)
    assert array.dtype == dtype
    assert array.chunks == (1, 1, 1, 24, 36)
    assert array.compressors == ()
    assert array.metadata.dimension_names == ("t", "c", "z", "y", "x")
    expected = np.zeros(array.shape, dtype)
    for frame in frames:
        channel = ("DAPI", "φ-actin 蛍光").index(str(frame.axes["channel"]))
        expected[int(frame.axes["time"]), channel, int(frame.axes["z"])] = frame.pixels
    np.testing.assert_array_equal(array[:], expected)


def test_the_metadata_tell_sizes_and_channels(tmp_path: Path) -> None:
    summary = {"PixelSize_um": 9, "z-step_um": 2.5, "Interval_ms": 500}
    frames = [
        small(1, {"time": 0, "z": 1, "channel": "GFP"}, PixelSizeUm=0.645),
        small(2, {"time": 1, "z": 0, "channel": "DAPI"}, PixelSizeUm=0.645),
    ]
    path = dataset(tmp_path / "d", frames, summary)
    for group in (path, path / "0"):
        (multiscale,) = ome(group)["multiscales"]
        assert multiscale["axes"] == [
            {"name": "t", "type": "time", "unit": "second"},
            {"name": "c", "type": "channel"},
            {"name": "z", "type": "space", "unit": "micrometer"},
            {"name": "y", "type": "space", "unit": "micrometer"},
            {"name": "x", "type": "space", "unit": "micrometer"},
        ]
        (level,) = multiscale["datasets"]
        assert level["coordinateTransformations"] == [
            {"type": "scale", "scale": [0.5, 1.0, 2.5, 0.645, 0.645]}
        ]
        channels = ome(group)["omero"]["channels"]
        assert [channel["label"] for channel in channels] == ["GFP", "DAPI"]
        for channel, frame in zip(channels, frames, strict=True):
            window = channel["window"]
            assert (window["min"], window["max"]) == (0, 65535)
            assert window["start"] == pytest.approx(np.percentile(frame.pixels, 1))
            assert window["end"] == pytest.approx(np.percentile(frame.pixels, 99.9))


@pytest.mark.parametrize(
    ("summary", "metadata"),
    [({}, {}), ({"PixelSize_um": 0, "z-step_um": "?"}, {"PixelSizeUm": float("nan")})],
)
def test_sizes_that_nobody_told_have_no_unit(
    tmp_path: Path, summary: dict[str, Any], metadata: dict[str, Any]
) -> None:
    path = dataset(tmp_path / "d", [small(0, {"z": 0}, **metadata)], summary)
    (multiscale,) = ome(path)["multiscales"]
    assert not any("unit" in axis for axis in multiscale["axes"])
    assert multiscale["datasets"][0]["coordinateTransformations"][0]["scale"] == [1] * 5
    assert_valid(path)


def test_numbered_channels_have_the_names_of_the_summary(tmp_path: Path) -> None:
    frames = [small(0, {"channel": 2}), small(1, {"channel": 0}), small(2, {"channel": 3})]
    path = dataset(tmp_path / "d", frames, {"ChNames": ["DAPI", "GFP", "Cy5"]})
    labels = [channel["label"] for channel in ome(path)["omero"]["channels"]]
    assert labels == ["DAPI", "GFP", "Cy5", "channel 3"]
    assert images(path)[0].shape[:3] == (1, 4, 1)
    assert_valid(path)


def test_thousands_of_channels_are_no_channels(tmp_path: Path) -> None:
    path = dataset(tmp_path / "d", [small(0, {"channel": 5}), small(1, {"channel": 4000})])
    assert "omero" not in ome(path)
    assert images(path)[0].shape[:3] == (1, 4001, 1)
    assert_valid(path)


def test_each_position_is_an_image(tmp_path: Path) -> None:
    """And so is each combination of axes that OME-Zarr has no dimension for."""
    frames = [
        small(number, {"time": number % 4, "position": number // 4 % 3, "angle": number // 12 * 90})
        for number in range(24)
    ]
    order = np.random.default_rng(2).permutation(24).tolist()
    path = tmp_path / "d"
    with OmeZarrSink.create(path, SUMMARY) as sink:
        for count, number in enumerate(order):
            write_all(sink, [frames[number]])
            if count < 6:
                assert_valid(path)
    assert_valid(path)
    assert_holds(path, frames)
    arrays = images(path)
    assert len(arrays) == 6
    told = [
        json.loads((path / str(n) / "zarr.json").read_bytes())["attributes"]["refocusd"]["axes"]
        for n in range(6)
    ]
    assert ome(path / "0")["multiscales"][0]["name"].startswith("angle ")
    for frame in frames:
        image = told.index({name: frame.axes[name] for name in ("angle", "position")})
        np.testing.assert_array_equal(arrays[image][frame.axes["time"], 0, 0], frame.pixels)


def test_frames_with_and_without_an_axis_do_not_share_a_place(tmp_path: Path) -> None:
    several: list[Axes] = [
        {"time": 1},
        {"time": 1, "z": 0},
        {"time": 1, "z": -3},
        {"time": 1, "z": "top"},
        {"time": 1, "z": 2},
        {"time": 10**12, "z": 2},
        {"channel": "a"},
        {"position": 0},
        {"position": "0"},
    ]
    frames = [small(number, axes, Number=number) for number, axes in enumerate(several)]
    path = dataset(tmp_path / "d", frames)
    assert_holds(path, frames)
    assert_valid(path)
    assert len(images(path)) == 3
    assert images(path)[0].shape[:3] == (4, 2, 5)


def test_a_number_has_its_own_place_as_long_as_that_is_free() -> None:
    slots = Slots()
    places: dict[AxisValue | None, int] = {}
    for value in (5, "a", 0, None, 6, 7, -1, 2**40, "a", 3):
        slots.add(value, places.setdefault(value, slots.place(value)))
        assert slots.place(value) == places[value]
    assert places == {5: 5, "a": 6, 0: 0, None: 7, 6: 8, 7: 9, -1: 10, 2**40: 11, 3: 3}
    assert [slots.value(place) for place in (5, 6, 7, 10, 1)] == [5, "a", None, -1, 1]


def test_absent_frames_are_told_from_black_ones(tmp_path: Path) -> None:
    black = Frame(np.zeros((16, 20), np.uint16), {"time": 0}, {})
    path = dataset(tmp_path / "d", [black, small(1, {"time": 3})])
    (array,) = images(path)
    assert not array[:3].any()
    assert array[3].any()
    assert_holds(path, [black, small(1, {"time": 3})])
    assert array.nchunks_initialized == 2


def test_zarr_finds_nothing_strange_among_the_members(tmp_path: Path) -> None:
    """It warns of files that it does not know beside arrays and groups."""
    path = dataset(tmp_path / "d", [small(0, {"position": 0}), small(1, {"position": 1})])
    root = zarr.open_group(path, mode="r")
    assert {name for name, _ in root.members()} == {"0", "1", "OME", "refocusd"}


def test_a_reader_finds_whole_frames_while_others_are_written(tmp_path: Path) -> None:
    path = tmp_path / "d"
    stages: set[int] = set()
    more = threading.Semaphore(30)

    def read_until_five_stages_were_seen() -> None:
        reader = OmeZarrReader(path)
        while len(stages) < 5:
            (array,) = images(path)
            fresh = reader.refresh()
            assert_valid(path)
            for key in reader.axes_keys():
                found = reader.read(key)
                np.testing.assert_array_equal(
                    found.pixels, numbered_frame(found.metadata["Number"]).pixels
                )
            for time in range(array.shape[0]):
                expected = numbered_frame(time).pixels
                np.testing.assert_array_equal(array[time, 0, 0], expected)
            assert set(fresh) <= set(reader.axes_keys())
            stages.add(len(reader))
            more.release(30)

    def write(sink: OmeZarrSink, number: int) -> None:
        sink.write(numbered_frame(number).pixels, {"time": number}, {"Number": number})

    with OmeZarrSink.create(path, SUMMARY) as sink, ThreadPoolExecutor(1) as pool:
        write(sink, 0)
        reading = pool.submit(read_until_five_stages_were_seen)
        number = 0
        while not reading.done():
            if more.acquire(timeout=0.1):
                number += 1
                write(sink, number)
        reading.result()
    assert len(stages) == 5


def test_two_planes_of_a_stack_tell_their_distance(tmp_path: Path) -> None:
    """Pycromanager names no z step in the summary, but where the stage was for each frame."""
    frames = [
        small(n, {"time": n // 3, "z": n % 3}, ZPosition_um_Intended=0.5 * (n % 3) + 100 * (n // 3))
        for n in range(6)
    ]
    # The stage drifts from time to time: only planes of one time are compared.
    path = dataset(tmp_path / "d", [frames[0], frames[4]])
    (told,) = ome(path)["multiscales"]
    assert told["axes"][2] == {"name": "z", "type": "space"}
    for more in ([frames[5], frames[3]], [frames[1]]):
        with OmeZarrSink.append(path) as sink:
            write_all(sink, more)
        (told,) = ome(path)["multiscales"]
        assert told["axes"][2] == {"name": "z", "type": "space", "unit": "micrometer"}
        assert told["datasets"][0]["coordinateTransformations"][0]["scale"][2] == 0.5
    assert_valid(path)


# A crash at any moment


def in_order_of_writing(name: str) -> tuple[int, str]:
    """Place of a file in the order in which one frame changes them."""
    order = ("/c/", "0/zarr.json", "/zarr.json", "OME/zarr.json", "zarr.json", "frames.jsonl")
    if "/c/" in name:
        return 0, name
    if name.count("/") == 2:
        return 1, name
    if name == "OME/zarr.json":
        return 3, name
    if name == "zarr.json":
        return 4, name
    assert any(name.endswith(part) for part in order)
    return (5 if name.endswith("frames.jsonl") else 2), name


@pytest.mark.parametrize(
    "last",
    [
        pytest.param({"time": 0, "z": 1, "channel": "a", "position": 0}, id="an array grows"),
        pytest.param({"time": 0, "z": 0, "channel": "b", "position": 0}, id="a channel comes"),
        pytest.param({"time": 0, "z": 0, "channel": "a", "position": 1}, id="an image comes"),
    ],
)
@pytest.mark.parametrize("earlier", [0, 1, 3])
def test_no_frame_is_lost_to_a_crash_at_any_file(tmp_path: Path, earlier: int, last: Axes) -> None:
    """What was written before stays; the frame of the crash is there whole, or can be written."""
    path = tmp_path / "d"
    frames = [
        small(n, {"time": n, "z": 0, "channel": "a", "position": 0}) for n in range(5, 5 + earlier)
    ]
    frame = small(99, last, Note="x" * 200)
    with OmeZarrSink.create(path, SUMMARY) as sink:
        write_all(sink, frames)
        before = content(path)
        write_all(sink, [frame])
    after = content(path)
    changed = sorted((n for n in after if after[n] != before.get(n)), key=in_order_of_writing)
    assert changed[0].endswith("/0/0")
    assert changed[-1] == "refocusd/frames.jsonl"
    lock = (path / "refocusd" / "frames.lock").read_bytes()
    for number, name in enumerate(changed):
        state = {**before, **{done: after[done] for done in changed[:number]}}
        torn = [after[name][: len(after[name]) // 2], after[name][:-1]]
        for partial in [None, b"", *torn]:
            if partial is not None:
                is_list = name == "refocusd/frames.jsonl"
                if is_list and len(partial) < len(before[name]):
                    continue
                state[name if is_list else name + ".part"] = partial
            shutil.rmtree(path)
            for place, data in state.items():
                (path / place).parent.mkdir(parents=True, exist_ok=True)
                (path / place).write_bytes(data)
            (path / "refocusd" / "frames.lock").write_bytes(lock)
            assert_holds(path, frames)
            if frames:
                assert_valid(path)
            with OmeZarrSink.append(path) as sink:
                assert all(old.key in sink for old in frames)
                assert frame.key not in sink
                assert content(path) == before
                write_all(sink, [frame])
            assert_holds(path, [*frames, frame])
            assert content(path) == after
            assert_valid(path)


#: Appends a frame, and is killed by the system at the first file that exceeds a length.
KILLED_AT_A_LENGTH = """
import json, resource, signal, sys
from pathlib import Path

import numpy as np

from refocusd.formats.ome_zarr.writer import OmeZarrSink

signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
sink = OmeZarrSink.append(Path(sys.argv[1]))
pixels = np.load(sys.argv[2])
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]),) * 2)
sink.write(pixels, json.loads(sys.argv[4]), {"Note": "x" * 3000})
"""


@pytest.mark.skipif(sys.platform == "win32", reason="RLIMIT_FSIZE is POSIX")
@pytest.mark.parametrize("killed_at", ["the pixels", "the list"])
def test_pixels_come_first_and_the_list_comes_last(tmp_path: Path, killed_at: str) -> None:
    """The order on which the test above relies."""
    path = dataset(tmp_path / "d", [small(0, {"time": 0, "position": 0}, Note="x" * 3000)])
    before = content(path)
    frame = small(1, {"time": 3, "position": 1, "channel": "b"}, Note="x" * 3000)
    np.save(tmp_path / "pixels.npy", frame.pixels)
    limit = 300 if killed_at == "the pixels" else len(before["refocusd/frames.jsonl"]) + 10
    arguments = [path, tmp_path / "pixels.npy", limit, json.dumps(dict(frame.axes))]
    killed = subprocess.run(
        [sys.executable, "-c", KILLED_AT_A_LENGTH, *map(str, arguments)],
        capture_output=True,
        check=False,
    )
    assert killed.returncode == -signal.SIGXFSZ
    left = content(path)
    with OmeZarrSink.append(path) as sink:
        assert frame.key not in sink
        assert content(path) == before
        write_all(sink, [frame])
    whole = content(path)
    changed = {name for name in left if left[name] != before.get(name)}
    if killed_at == "the pixels":
        (begun,) = changed
        assert begun.endswith("/c/3/0/0/0/0.part")
    else:
        assert changed == {name for name in whole if whole[name] != before.get(name)}
        assert all(left[name] == whole[name] for name in changed - {"refocusd/frames.jsonl"})
    assert_holds(path, [small(0, {"time": 0, "position": 0}, Note="x" * 3000), frame])


def test_a_killed_writer_leaves_a_valid_store(tmp_path: Path) -> None:
    rng = np.random.default_rng(7)
    path = tmp_path / "d"
    done: set[int] = set()
    for _ in range(4):
        done |= write_until_killed(WRITER, ("ome-zarr", path, 64, 64), done, rng)
        assert_valid(path)
        reader = open_dataset(path)
        done |= {reader.metadata(key)["Number"] for key in reader.axes_keys()}
        arrays = images(path)
        told = [ome(path / str(n))["multiscales"][0]["name"] for n in range(len(arrays))]
        for number in done:
            frame = frame_of(number, (64, 64))
            array = arrays[told.index(f"position {frame.axes['position']}")]
            np.testing.assert_array_equal(array[frame.axes["time"], 0, 0], frame.pixels)


def test_a_start_that_was_killed_is_started_again(tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    OmeZarrSink.create(whole, SUMMARY).close()
    steps = ("frames.lock", "zarr.json.part", "refocusd/zarr.json", "zarr.json")
    for count in range(len(steps)):
        path = tmp_path / str(count)
        (path / "refocusd").mkdir(parents=True)
        for name in steps[:count]:
            inner = (
                path / "refocusd" / name
                if name.startswith(("frames", "zarr.json."))
                else path / name
            )
            inner.write_bytes(b"")
        with pytest.raises(OutputError, match="no dataset to append to"):
            OmeZarrSink.append(path)
        with OmeZarrSink.create(path, SUMMARY) as sink:
            write_all(sink, [numbered_frame(0)])
        assert_holds(path, [numbered_frame(0)])
        assert_valid(path)


def test_a_frame_that_a_power_failure_took_can_be_written_again(tmp_path: Path) -> None:
    """The list may reach the disk before pixels and documents, and end in zeros."""
    frames = [small(n, {"time": n // 2, "position": n % 2}, Number=n) for n in range(8)]
    path = dataset(tmp_path / "d", frames)
    before = content(path)
    (path / "1/0/c/3/0/0/0/0").write_bytes(b"")
    (path / "0/0/c/3/0/0/0/0").unlink()
    for name in ("zarr.json", "0/zarr.json", "1/0/zarr.json", "OME/zarr.json"):
        (path / name).write_bytes(b"")
    with (path / "refocusd" / "frames.jsonl").open("ab") as file:
        file.write(bytes(5000))
    with pytest.raises(InputError, match=r"damaged or incomplete: 0/0/c/3/0/0/0/0 is missing"):
        open_dataset(path).read({"time": 3, "position": 0})
    with pytest.raises(InputError, match=r"has 0 bytes instead of 640"):
        open_dataset(path).read({"time": 3, "position": 1})
    with OmeZarrSink.append(path) as sink:
        assert [frame.key in sink for frame in frames] == [True] * 6 + [False] * 2
        write_all(sink, frames[6:])
    assert_holds(path, frames)
    assert_valid(path)
    for image, number in ((0, 6), (1, 7)):
        np.testing.assert_array_equal(images(path)[image][3, 0, 0], frames[number].pixels)
    with OmeZarrSink.append(path) as sink:
        assert all(frame.key in sink for frame in frames)
    same = {name for name, data in content(path).items() if before[name] == data}
    assert set(before) - same == {"0/zarr.json", "refocusd/frames.jsonl"}  # its window is lost


# What is refused


def test_a_damaged_list_is_not_cut(tmp_path: Path) -> None:
    """Appending behind a hole in the list would lose the frames behind it."""
    path = dataset(tmp_path / "d", [small(n, {"time": n}) for n in range(20)])
    frames = path / "refocusd" / "frames.jsonl"
    whole = frames.read_bytes()
    lines = whole.splitlines(keepends=True)
    another = b"".join([lines[0], lines[1].replace(b"uint16", b"uint8"), *lines[2:]])
    elsewhere = b"".join([lines[0], lines[1].replace(b'"image": 0', b'"image": 7'), *lines[2:]])
    torn = whole[:300] + b"\xff" * 50 + whole[350:]
    for bad in (torn, another, elsewhere, whole[:300] + whole[350:]):
        frames.write_bytes(bad)
        with pytest.raises(OutputError, match=r"frames\.jsonl is damaged at byte \d+.*from a copy"):
            OmeZarrSink.append(path)
        assert frames.read_bytes() == bad
    frames.write_bytes(torn)
    with pytest.raises(InputError, match=r"illegible at byte \d+"):
        OmeZarrReader(path)
    frames.write_bytes(whole)
    OmeZarrSink.append(path).close()


@pytest.mark.parametrize(
    "line",
    [
        b'{"axes": {"z": 0}, "image": -1, "at": [0,0,0], "shape": [16,20], "dtype": "uint16", "metadata": {}}',
        b'{"axes": {"z": 0}, "image": 0, "at": [0,0,-2], "shape": [16,20], "dtype": "uint16", "metadata": {}}',
        b'{"axes": {"z": 0}, "image": "../..", "at": [0,0,0], "shape": [16,20], "dtype": "uint16", "metadata": {}}',
        b'{"axes": {"z": 0}, "image": 0, "at": [0,0,0], "shape": [16,20], "dtype": "float64", "metadata": {}}',
        b'{"axes": {"z": 1.5}, "image": 0, "at": [0,0,0], "shape": [16,20], "dtype": "uint8", "metadata": {}}',
        b"[" * 100_000,
        b'{"axes": {"z": NaN}, "image": 0, "at": [0,0,0], "shape": [16,20], "dtype": "uint8", "metadata": {}}',
        b'{"axes": {"z": 0}, "image": 0, "at": [0,0,0], "shape": [16,20], "dtype": "uint8"}',
        b"{}",
        b"",
    ],
)
def test_a_line_that_makes_no_sense_is_no_frame(tmp_path: Path, line: bytes) -> None:
    path = dataset(tmp_path / "d", [small(0, {"time": 0})])
    with (path / "refocusd" / "frames.jsonl").open("ab") as file:
        file.write(line + b"\n")
    assert_holds(path, [small(0, {"time": 0})])


def test_the_reader_says_what_is_wrong(tmp_path: Path) -> None:
    path = dataset(tmp_path / "d", [small(0, {"time": 0})], {"Prefix": "a"})
    reader = open_dataset(path)
    with pytest.raises(InputError, match=r"no frame \{\"time\":7\}"):
        reader.read({"time": 7})
    with pytest.raises(InputError, match="above the limit of 100 bytes"):
        OmeZarrReader(path, max_frame_bytes=100)
    line = path / "refocusd" / "frames.jsonl"
    text = line.read_bytes()
    line.write_bytes(text.replace(b'"metadata": {}', b'"metadata": []'))
    with pytest.raises(InputError, match=r"metadata of frame .* no JSON object"):
        reader.read({"time": 0})
    line.write_bytes(b"x" + text)
    with pytest.raises(InputError, match="has changed where"):
        reader.read({"time": 0})
    line.unlink()
    with pytest.raises(InputError, match="cannot be read"):
        reader.refresh()
    (path / "refocusd" / "zarr.json").write_text("{}", encoding="utf-8")
    with pytest.raises(InputError, match="summary metadata cannot be read"):
        assert reader.summary
    reader.close()
    reader.close()


def test_nothing_is_appended_to_a_dataset_of_others(tmp_path: Path) -> None:
    path = dataset(tmp_path / "d", [small(0, {"time": 0})])
    own = path / "refocusd" / "zarr.json"
    text = own.read_text(encoding="utf-8")
    own.write_text(text.replace('"sink_format": 1', '"sink_format": 2'), encoding="utf-8")
    before = content(path)
    with pytest.raises(OutputError, match="was not written by this version"):
        OmeZarrSink.append(path)
    assert content(path) == before
    for broken in ("", "[]", '{"attributes": 3}'):
        own.write_text(broken, encoding="utf-8")
        with pytest.raises(OutputError, match=r"cannot be continued.*restore it"):
            OmeZarrSink.append(path)
    own.unlink()
    with pytest.raises(OutputError, match=r"cannot be continued.*restore it"):
        OmeZarrSink.append(path)


@pytest.mark.skipif(sys.platform == "win32", reason="RLIMIT_FSIZE is POSIX")
@pytest.mark.parametrize("limit", [100, 500, 800, 1300])
@pytest.mark.parametrize("axes", [{"time": 1}, {"channel": "b"}, {"position": 1}])
def test_whatever_file_the_disk_refuses_nothing_is_changed(
    tmp_path: Path, limit: int, axes: Axes
) -> None:
    """Pixels, the array's document, the image's and the root's are refused in turn."""
    import resource

    path = tmp_path / "d"
    with OmeZarrSink.create(path) as sink:
        write_all(sink, [small(0, {"time": 0, "channel": "a"})])
        before = content(path)
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
        try:
            with contextlib.suppress(OutputError):
                write_all(sink, [small(1, {"time": 0, "channel": "a", **axes}, Note="x" * 1500)])
                pytest.fail("the list has no room for that")
            # What cannot be taken back for want of room is taken back later.
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        write_all(sink, [small(2, {"time": 0, "channel": "c"})])
    assert_holds(
        path, [small(0, {"time": 0, "channel": "a"}), small(2, {"time": 0, "channel": "c"})]
    )
    assert_valid(path)
    assert len(images(path)) == 1
    assert images(path)[0].shape[:3] == (1, 2, 1)
    assert len(before) == len(content(path)) - 1


def test_a_dataset_is_written_without_the_zarr_library(tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['zarr'] = None\n"
        "from pathlib import Path; import numpy as np\n"
        "from refocusd.formats.open_sink import create_sink\n"
        "with create_sink('ome-zarr', Path(sys.argv[1])) as sink:\n"
        "    sink.write(np.full((16, 20), 7, np.uint16), {'time': 0}, {})\n"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "d")], check=True)
    assert_valid(tmp_path / "d")
    (array,) = images(tmp_path / "d")
    assert (array[:] == 7).all()


def test_the_models_are_imported_only_when_they_are_used() -> None:
    code = "import sys, refocusd.formats.open_sink, refocusd.formats.open_dataset; print('pydantic' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"

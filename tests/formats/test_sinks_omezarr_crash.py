"""The OME-Zarr sink after crashes, on damaged stores and on full disks."""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from killed_writer import write_until_killed
from ndtiff_sinks import SUMMARY, numbered_frame, write_all
from ome_zarr_sinks import assert_valid, dataset, images, ome, small
from test_sinks_common import WRITER, assert_holds, content, frame_of

from refocusd.errors import InputError, OutputError
from refocusd.formats.ome_zarr.reader import OmeZarrReader
from refocusd.formats.ome_zarr.writer import OmeZarrSink
from refocusd.formats.open_dataset import open_dataset
from refocusd.frame import Axes


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
    """Earlier frames stay; the frame of the crash is complete, or can be written again."""
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


#: Appends a frame, and the system kills it at the first file that exceeds a length.
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


@pytest.mark.skipif(sys.platform == "win32", reason="RLIMIT_FSIZE is POSIX")
@pytest.mark.parametrize("limit", [100, 500, 800, 1300])
@pytest.mark.parametrize("axes", [{"time": 1}, {"channel": "b"}, {"position": 1}])
def test_whatever_file_the_disk_refuses_nothing_is_changed(
    tmp_path: Path, limit: int, axes: Axes
) -> None:
    """The pixels and the documents of array, image and root are refused in turn."""
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
            # What cannot be undone for lack of room is undone later.
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

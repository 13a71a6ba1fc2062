"""NDTiff datasets: finished, growing, killed, and not to be trusted."""

from __future__ import annotations

import shutil
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from recordings_on_disk import (
    assert_reads,
    by_z,
    frames,
    nth,
    record,
    write_ndtiff,
    write_z_dataset,
)

from refocusd.errors import InputError
from refocusd.formats.ndtiff.reader import NDTiffReader
from refocusd.formats.open_dataset import open_dataset
from refocusd.frame import canonical_axes

pytestmark = pytest.mark.fast


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_an_ndtiff_dataset_reads_as_it_was_written(tmp_path: Path, dtype: type) -> None:
    """8-bit frames too, whose directory wrongly says 16 bits."""
    stack = frames(2, 3, dtype=dtype)
    planes = [
        ({"channel": name, "z": z, "time": 4}, stack[c, z], {"ElapsedTime-ms": 7.5, "Camera": "a"})
        for c, name in enumerate(("DAPI", "Cy5"))
        for z in range(3)
    ]
    folder = write_ndtiff(tmp_path / "raw" / "run_1", planes)
    expected = {canonical_axes(axes): pixels for axes, pixels, _ in planes}
    for path in (folder, folder.parent, folder / "NDTiff.index", folder / "NDTiffStack.tif"):
        with open_dataset(path) as recording:
            plan = recording.plan()
            assert recording.name == "run_1"
            assert plan.pixel_um == pytest.approx(0.65)
            assert recording.summary == {"PixelSize_um": 0.65}
            assert set(plan.elapsed_ms) == {7.5}
            assert [canonical_axes(axes) for axes in plan.axes] == list(expected)
            assert nth(recording, 0).metadata["Camera"] == "a"
            assert_reads(recording, expected)


def test_a_hardware_sequence_has_the_times_of_the_camera(tmp_path: Path) -> None:
    folder = write_ndtiff(
        tmp_path / "run",
        [
            (
                {"time": t},
                frames(1)[0],
                {"ElapsedTime-ms": 3.0, "TimeReceivedByCore": f"2026-01-31 23:59:59.{t}50000"},
            )
            for t in range(3)
        ],
    )
    with open_dataset(folder) as recording:
        assert recording.plan().elapsed_ms == pytest.approx((0.0, 100.0, 200.0))


def test_a_dataset_is_followed_while_it_is_written(tmp_path: Path) -> None:
    """As Micro-Manager writes it: into an index of zeros that is cut at the end."""
    stack = frames(5)
    folder = write_z_dataset(tmp_path / "run", stack)
    index = (folder / "NDTiff.index").read_bytes()
    ends = [end for end in range(len(index) + 1) if index[end : end + 4] == index[:4]][1:]
    ends.append(len(index))

    def written(count: int, torn: int = 0) -> None:
        (folder / "NDTiff.index").write_bytes(
            index[: (ends[count - 1] if count else 0) + torn].ljust(9000, b"\0")
        )

    written(0)
    reader = NDTiffReader(folder)
    assert reader.axes_keys() == []
    assert reader.summary == {}
    for count in range(1, 6):
        for torn in range(0, 55 if count < 5 else 1, 3):
            # A record that is caught half-written is not there yet.
            written(count, torn)
            fresh = reader.refresh()
            assert fresh == ([f'{{"z":{count - 1}}}'] if torn == 0 else [])
    (folder / "NDTiff.index").write_bytes(index)
    assert reader.refresh() == []
    assert len(reader) == 5
    for z, plane in enumerate(stack):
        np.testing.assert_array_equal(reader.read({"z": z}).pixels, plane)
        np.testing.assert_array_equal(reader.read(f'{{"z":{z}}}').pixels, plane)
    assert reader.summary == {"PixelSize_um": 0.65}
    with pytest.raises(InputError, match="not in its index"):
        reader.read({"z": 7})
    reader.close()


def test_a_dataset_is_followed_from_another_process(tmp_path: Path) -> None:
    script = (
        "import sys, numpy as np\n"
        "from ndstorage import NDTiffDataset\n"
        "d = NDTiffDataset(sys.argv[1], name=None, writable=True)\n"
        "d.initialize({})\n"
        "for t in range(200):\n"
        "    d.put_image({'time': t}, np.full((64, 64), t, np.uint16), {'t': t})\n"
        "    d._index_file.flush()\n"
        "    print(t, flush=True)\n"
        "d.finish()\n"
    )
    folder = tmp_path / "run"
    with subprocess.Popen(
        [sys.executable, "-c", script, str(folder)], stdout=subprocess.PIPE
    ) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline().strip() == b"0"
        reader = NDTiffReader(folder)
        followed = reader.axes_keys()
        for line in writer.stdout:
            followed += reader.refresh()
            # What the writer has said is there, can be read.
            assert len(followed) > int(line)
            frame = reader.read(followed[-1])
            assert (frame.pixels == frame.axes["time"]).all()
            assert frame.metadata == {"t": frame.axes["time"]}
    assert writer.returncode == 0
    assert followed == [f'{{"time":{t}}}' for t in range(200)]
    reader.close()


def test_frames_whose_pixels_are_not_on_disk_are_named_and_left_out(tmp_path: Path) -> None:
    stack = frames(5)
    folder = write_z_dataset(tmp_path / "run", stack)
    tiff = folder / "NDTiffStack.tif"
    whole = tiff.read_bytes()
    tiff.write_bytes(whole[: len(whole) // 2])
    reader = NDTiffReader(folder)
    assert 0 < len(reader) < 5
    assert len(reader) + len(reader.missing_keys()) == 5
    with pytest.raises(InputError, match="not written yet"):
        reader.read({"z": 4})
    with open_dataset(folder) as recording:
        assert len(recording.missing_keys()) == len(reader.missing_keys())
        assert_reads(recording, by_z(stack[: len(reader)]))
    tiff.write_bytes(whole)
    assert len(reader.refresh()) == 5 - len(recording)
    np.testing.assert_array_equal(reader.read({"z": 4}).pixels, stack[4])
    reader.close()


def test_a_truncated_index_reads_up_to_its_last_whole_record(tmp_path: Path) -> None:
    stack = frames(4)
    folder = write_z_dataset(tmp_path / "run", stack)
    index = (folder / "NDTiff.index").read_bytes()
    for cut in range(len(index) - 1, len(index) * 3 // 4, -1):
        (folder / "NDTiff.index").write_bytes(index[:cut])
        with open_dataset(folder) as recording:
            assert len(recording) == 3
            assert_reads(recording, by_z(stack[:3]))
            assert "ends within a record: frames after it are left out" in recording.source
    (folder / "NDTiff.index").write_bytes(index + bytes(4096))
    with open_dataset(folder) as recording:
        assert recording.source == "NDTiff's index"


def test_a_killed_writer_leaves_its_flushed_frames_readable(tmp_path: Path) -> None:
    script = (
        "import os, signal, sys, numpy as np\n"
        "from ndstorage import NDTiffDataset\n"
        "d = NDTiffDataset(sys.argv[1], name=None, writable=True)\n"
        "d.initialize({})\n"
        "for t in range(8):\n"
        "    d.put_image({'time': t}, np.full((32, 48), t, np.uint16), {'t': t})\n"
        "    if t < 6: d._index_file.flush()\n"
        "os._exit(9)\n"
    )
    folder = tmp_path / "run"
    done = subprocess.run([sys.executable, "-c", script, str(folder)], check=False, timeout=60)
    assert done.returncode == 9
    with open_dataset(folder) as recording:
        assert len(recording) == 6
        for t in range(6):
            assert (nth(recording, t).pixels == t).all()
            assert nth(recording, t).metadata["t"] == t


def test_a_frame_written_twice_counts_once_with_its_last_pixels(tmp_path: Path) -> None:
    stack = frames(3)
    folder = write_ndtiff(
        tmp_path / "run", [({"z": z}, plane, {}) for z, plane in zip((0, 1, 0), stack, strict=True)]
    )
    reader = NDTiffReader(folder)
    assert reader.axes_keys() == ['{"z":0}', '{"z":1}']
    np.testing.assert_array_equal(reader.read({"z": 0}).pixels, stack[2])
    reader.close()


def test_a_dataset_of_several_files_reads_as_one(tmp_path: Path) -> None:
    stack = frames(4)
    folder = write_z_dataset(tmp_path / "run", stack[:2])
    other = write_z_dataset(tmp_path / "other", stack[2:])
    shutil.copy(other / "NDTiffStack.tif", folder / "NDTiffStack_1.tif")
    index = (other / "NDTiff.index").read_bytes()
    for old, new in ((b'"z": 1', b'"z": 3'), (b'"z": 0', b'"z": 2')):
        index = index.replace(old, new)
    name = b"NDTiffStack.tif"
    longer = b"NDTiffStack_1.tif"
    index = index.replace(
        struct.pack("<I", len(name)) + name, struct.pack("<I", len(longer)) + longer
    )
    with (folder / "NDTiff.index").open("ab") as file:
        file.write(index)
    with open_dataset(folder) as recording:
        assert_reads(recording, by_z(stack))


@pytest.mark.parametrize(
    ("name", "place", "message"),
    [
        ("../secret.tif", (0, 32, 24, 1, 0, 0, 9, 0), "no file of the dataset"),
        ("/etc/passwd", (0, 32, 24, 1, 0, 0, 9, 0), "no file of the dataset"),
        ("C:\\x.tif", (0, 32, 24, 1, 0, 0, 9, 0), "no file of the dataset"),
        ("..", (0, 32, 24, 1, 0, 0, 9, 0), "no file of the dataset"),
        ("a.tif", (0, 32, 24, 2, 0, 0, 9, 0), "is RGB"),
        ("a.tif", (0, 32, 24, 9, 0, 0, 9, 0), "of type 9"),
        ("a.tif", (0, 70000, 70000, 1, 0, 0, 9, 0), "up to 1073741824 bytes"),
        ("a.tif", (0, 8, 24, 1, 0, 0, 9, 0), "sides from 16 px"),
        ("a.tif", (0, 32, 24, 1, 0, 0, 1 << 30, 0), "metadata of 1073741824 bytes"),
    ],
)
def test_an_index_that_cannot_be_trusted_is_an_error(
    tmp_path: Path, name: str, place: tuple[int, ...], message: str
) -> None:
    (tmp_path / "secret.tif").write_bytes(b"x" * 9000)
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "NDTiff.index").write_bytes(record({"z": 0}, name, place))
    with pytest.raises(InputError, match=message):
        open_dataset(folder)

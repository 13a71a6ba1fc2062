"""The OME-Zarr sink, read back by zarr and validated against OME-Zarr 0.5 by yaozarrs."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ndtiff_sinks import SUMMARY, numbered_frame, write_all
from ome_zarr_sinks import assert_valid, dataset, images, ome, small, zarr
from test_sinks_common import assert_holds, content

from refocusd.errors import InputError, OutputError
from refocusd.formats.ome_zarr.contents import Slots
from refocusd.formats.ome_zarr.reader import OmeZarrReader
from refocusd.formats.ome_zarr.writer import OmeZarrSink
from refocusd.formats.open_dataset import open_dataset
from refocusd.frame import Axes, AxisValue, Frame


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
def test_sizes_that_nobody_stated_have_no_unit(
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
    """So is each combination of axes for which OME-Zarr has no dimension."""
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


def test_absent_frames_are_distinguished_from_black_ones(tmp_path: Path) -> None:
    black = Frame(np.zeros((16, 20), np.uint16), {"time": 0}, {})
    path = dataset(tmp_path / "d", [black, small(1, {"time": 3})])
    (array,) = images(path)
    assert not array[:3].any()
    assert array[3].any()
    assert_holds(path, [black, small(1, {"time": 3})])
    assert array.nchunks_initialized == 2


def test_zarr_finds_nothing_strange_among_the_members(tmp_path: Path) -> None:
    """It warns of unknown files beside arrays and groups."""
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
    """Pycromanager states no z step in the summary, but the stage position of each frame."""
    frames = [
        small(n, {"time": n // 3, "z": n % 3}, ZPosition_um_Intended=0.5 * (n % 3) + 100 * (n // 3))
        for n in range(6)
    ]
    # The stage drifts between time points: only planes of one time point are compared.
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

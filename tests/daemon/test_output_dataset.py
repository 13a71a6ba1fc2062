"""An output that is opened again: whose frames it holds, and their earlier outcomes."""

from __future__ import annotations

import json
import shutil
import uuid
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import tifffile
import zarr
from broker_model import ENGINE, FACTS
from live import quick_settings
from refusals import refusal

from refocusd.config import Settings
from refocusd.daemon.output.dataset import OutputDataset
from refocusd.daemon.output.jobs import OpenOutput, RecordFrames, WriteFrame
from refocusd.daemon.output.trust_maps import PARTS, TrustMaps
from refocusd.datasets.identity import FrameMark, Recording
from refocusd.datasets.run_folder import LEDGER_COPY, trust_maps_of
from refocusd.errors import OutputError
from refocusd.formats.open_dataset import open_dataset
from refocusd.formats.open_sink import SinkKind
from refocusd.frame import checksum
from refocusd.imaging.trust_map import pixels_per_cell, trust_shape
from refocusd.ledger import Ledger, ledger_path
from refocusd.profiles.applied import Applied
from refocusd.transport import messages as wire
from refocusd.transport.ring import Slot

SIDE = 256
RUN = "r" * 16
MAPS = np.random.default_rng(0).integers(0, 101, (2, SIDE // 16, SIDE // 16), dtype=np.uint8)
FRAME = np.arange(SIDE * SIDE, dtype=np.uint16).reshape(SIDE, SIDE)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return quick_settings(tmp_path)


@pytest.fixture
def message(tmp_path: Path) -> wire.Open:
    """The announcement of a hook, which has no fingerprint yet."""
    raw = str(tmp_path / "cells_1")
    return wire.Open(str(uuid.uuid4()), "cells_1", SIDE, SIDE, "uint16", raw, "", "{}")


def opened(settings: Settings, message: wire.Open) -> OutputDataset:
    return OutputDataset.open(settings, OpenOutput(message, RUN, ENGINE, Applied()))


def write(output: OutputDataset, time: int) -> object:
    """Write a frame as the writer does; returns the earlier state that it replaces."""
    submit = wire.Submit(
        *(output.message.acquisition, f'{{"time":{time}}}', Slot(4096, FRAME.nbytes)),
        checksum(FRAME),
        "{}",
        0,
    )
    job = WriteFrame(1, submit, checksum(FRAME), FACTS, ENGINE, None)
    output.write(FRAME, job, *job.outcome)
    return output.record_written(job, *job.outcome).replaces


def record(output: OutputDataset, state: str, *times: int) -> tuple[int, int, int]:
    """Record frames without pixels; how many are new, replace a failure, had this state before."""
    axes = tuple(f'{{"time":{time}}}' for time in times)
    said = output.record(
        RecordFrames(output.message.acquisition, axes, state, "why")  # type: ignore[arg-type]
    )
    return len(said.axes), said.replaced if said.replaces else 0, said.known


def of_frame(message: wire.Open, pixels: np.ndarray) -> wire.Open:
    """The same announcement with the fingerprint of a first frame."""
    mark = FrameMark(SIDE, SIDE, "uint16", f"{checksum(pixels):016x}")
    recording = msgspec.json.encode(Recording(frames={'{"time":0}': mark})).decode()
    return msgspec.structs.replace(message, recording=recording)


def write_map(
    output: OutputDataset,
    time: int,
    cells: bytes,
    maps: TrustMaps | None = None,
    z: int | None = None,
) -> None:
    axes = f'{{"channel":"DAPI","time":{time}' + ("}" if z is None else f',"z":{z}}}')
    about = {"PixelSizeUm": 0.5} | ({} if z is None else {"ZPositionUm": 10 + 1.5 * z})
    submit = wire.Submit(
        *(output.message.acquisition, axes, Slot(4096, 1), 1), json.dumps(about), 0
    )
    (maps or output.trust_maps).write(WriteFrame(1, submit, 1, FACTS, ENGINE, None, cells))


@pytest.mark.parametrize("sink", ["ndtiff", "ome-zarr"])
def test_trust_maps_lie_in_the_output_and_common_readers_read_them(
    tmp_path: Path, message: wire.Open, sink: SinkKind
) -> None:
    settings = quick_settings(tmp_path, sink=sink)
    for time in (0, 1):  # the second time in the output as opened again
        output = opened(settings, message)
        write_map(output, time, MAPS[time].tobytes())
        write_map(output, time, MAPS[time].tobytes())  # sent twice, written once
        output.close(None)
    place = trust_maps_of(output.sink.path)
    if sink == "ndtiff":
        assert place == output.sink.path / "trust"
        found = tifffile.imread(place / "NDTiffStack.tif")
        np.testing.assert_array_equal(found, MAPS)
        import ndstorage

        frame = ndstorage.Dataset(str(place)).read_image(channel="DAPI", time=1)
        np.testing.assert_array_equal(frame, MAPS[1])
    else:
        assert place == output.sink.path / "refocusd" / "trust"
        store: Any = zarr.open_group(str(output.sink.path / "refocusd"), mode="r")
        np.testing.assert_array_equal(store["trust/0/0"][:, 0, 0], MAPS)
        (image,) = store["trust"].attrs["ome"]["multiscales"]
        (level,) = image["datasets"]
        assert level["coordinateTransformations"][0]["scale"][-2:] == [8.0, 8.0]
    with open_dataset(place) as maps:
        assert maps.summary["refocusd"]["trust_map"]["as_acquired"] == 255
    with open_dataset(output.sink.path) as frames:
        assert not list(frames.axes_keys())


def test_trust_maps_have_the_distance_of_planes_that_the_stage_tells(
    tmp_path: Path, message: wire.Open
) -> None:
    output = opened(quick_settings(tmp_path, sink="ome-zarr"), message)
    for z in range(2):
        write_map(output, 0, MAPS[0].tobytes(), z=z)
    output.close(None)
    store: Any = zarr.open_group(str(trust_maps_of(output.sink.path)), mode="r")
    (level,) = store.attrs["ome"]["multiscales"][0]["datasets"]
    assert level["coordinateTransformations"][0]["scale"][2] == 1.5


@pytest.mark.parametrize("sink", ["ndtiff", "ome-zarr"])
@pytest.mark.parametrize(("side", "repeats"), [(40, 8), (130, 2)])
def test_small_frames_have_trust_maps_with_several_pixels_a_cell(
    tmp_path: Path, message: wire.Open, sink: SinkKind, side: int, repeats: int
) -> None:
    small = msgspec.structs.replace(message, height=side, width=2 * side)
    output = opened(quick_settings(tmp_path, sink=sink), small)
    cells = np.random.default_rng(0).integers(0, 101, trust_shape((side, 2 * side)), dtype=np.uint8)
    write_map(output, 0, cells.tobytes())
    output.close(None)
    with open_dataset(trust_maps_of(output.sink.path)) as maps:
        [key] = maps.axes_keys()
        stored = maps.read(key)
        about = maps.summary["refocusd"]["trust_map"]
    assert about["pixels_per_cell"] == repeats == pixels_per_cell((side, 2 * side))
    assert min(stored.pixels.shape) >= 16
    np.testing.assert_array_equal(stored.pixels[::repeats, ::repeats], cells)
    assert stored.metadata["PixelSizeUm"] == 0.5 * 16 / repeats


@pytest.mark.parametrize("sink", ["ndtiff", "ome-zarr"])
def test_maps_that_jobs_left_are_taken_in_once_no_job_writes_them(
    tmp_path: Path, message: wire.Open, sink: SinkKind
) -> None:
    settings = quick_settings(tmp_path, sink=sink)
    output = opened(settings, message)
    place = trust_maps_of(output.sink.path)
    job = TrustMaps.of_position(output.sink.path, "A/1/0", {}, (SIDE, SIDE), enabled=True)
    write_map(output, 0, MAPS[0].tobytes(), job)
    output.close(None)
    assert not place.exists()
    job.close()
    output = opened(settings, message)
    write_map(output, 1, MAPS[1].tobytes())
    output.close(None)
    with open_dataset(place) as maps:
        found = {json.loads(key)["time"]: maps.read(key) for key in maps.axes_keys()}
    assert sorted(found) == [0, 1]
    for time, frame in found.items():
        np.testing.assert_array_equal(frame.pixels, MAPS[time])
        assert frame.metadata["PixelSizeUm"] == 8.0
        assert frame.metadata["refocusd"]["verdict"] == FACTS.verdict
    assert not place.with_name(PARTS).exists()


def test_maps_that_another_program_holds_cost_no_others(
    settings: Settings, message: wire.Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = opened(settings, message)
    for time, position in enumerate(("A/1/0", "A/2/0")):
        job = TrustMaps.of_position(output.sink.path, position, {}, (SIDE, SIDE), enabled=True)
        write_map(output, time, MAPS[time].tobytes(), job)
        job.close()

    def refused(path: Path, ignore_errors: bool = False) -> None:
        if not ignore_errors:
            raise refusal()

    with monkeypatch.context() as held:
        held.setattr(shutil, "rmtree", refused)
        output.close(None)
    with open_dataset(trust_maps_of(output.sink.path)) as maps:
        assert len(maps.axes_keys()) == 2
    opened(settings, message).close(None)
    assert not trust_maps_of(output.sink.path).with_name(PARTS).exists()


def test_a_map_that_cannot_be_written_costs_no_frame(
    settings: Settings, message: wire.Open, caplog: pytest.LogCaptureFixture
) -> None:
    output = opened(settings, message)
    (output.sink.path / "trust").write_text("in the way")
    write_map(output, 0, MAPS[0].tobytes())
    write_map(output, 1, MAPS[0].tobytes())
    write(output, 0)
    output.close(None)
    assert caplog.text.count("no more trust maps are written") == 1
    with open_dataset(output.sink.path) as frames:
        assert len(frames.axes_keys()) == 1


def test_no_map_is_written_where_the_setting_says_so(tmp_path: Path, message: wire.Open) -> None:
    output = opened(quick_settings(tmp_path, trust_map=False), message)
    write_map(output, 0, MAPS[0].tobytes())
    output.close(None)
    assert not trust_maps_of(output.sink.path).exists()


def test_a_recording_made_again_under_its_name_is_not_added_to_the_output(
    settings: Settings, message: wire.Open, tmp_path: Path
) -> None:
    """The daemon died before the output had a copy of the ledger; the next one has a follower."""
    output = opened(settings, message)
    write(output, 0)
    output.sink.close()
    output.ledger.close()
    assert not list(tmp_path.glob(f"**/{LEDGER_COPY}"))
    with pytest.raises(OutputError, match=r"another recording.*frame .*move .* away"):
        opened(settings, of_frame(message, FRAME + 1))
    again = opened(settings, of_frame(message, FRAME))
    assert again.before == {"refocused": 1}
    again.close(None)


def test_what_became_of_frames_before_is_known_when_they_come_again(
    settings: Settings, message: wire.Open
) -> None:
    output = opened(settings, message)
    assert record(output, "failed", 0, 1) == (2, 0, 0)
    assert record(output, "skipped", 2) == (1, 0, 0)
    output.close(None)
    output = opened(settings, message)
    assert output.before == {"failed": 2, "skipped": 1}
    assert write(output, 0) == "failed"
    assert write(output, 2) == "skipped"
    assert record(output, "skipped", 0, 1, 2) == (1, 1, 2)
    assert record(output, "skipped", 1) == (0, 0, 1)
    output.close(3)
    with Ledger(ledger_path(settings.ledgers, message.acquisition), read_only=True) as ledger:
        states = [ledger.state_of(RUN, message.acquisition, f'{{"time":{n}}}') for n in range(3)]
    assert states == ["refocused", "skipped", "refocused"]


def test_nothing_is_kept_in_memory_of_frames_that_are_skipped(
    settings: Settings, message: wire.Open
) -> None:
    """A channel that is not refocused has as many frames as the others."""
    output = opened(settings, message)
    held = {name: _size(getattr(output, name)) for name in OutputDataset.__slots__}
    for first in range(0, 2000, 500):
        assert record(output, "skipped", *range(first, first + 500))[0] == 500
    assert {name: _size(getattr(output, name)) for name in OutputDataset.__slots__} == held
    output.close(None)


def _size(value: object) -> int:
    return len(value) if isinstance(value, (set, dict, list, tuple)) else 0


def test_a_folder_that_was_begun_is_moved_aside_only_if_nothing_else_is_in_it(
    settings: Settings, message: wire.Open, tmp_path: Path
) -> None:
    """The daemon was killed while creating the folder; then somebody put a file there."""
    opened(settings, message).close(None)
    folder = tmp_path / "cells_1_refocused"
    for path in folder.iterdir():
        if path.name != "NDTiffStack.tif.part":
            path.unlink()
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(OutputError, match=r"notes\.txt in it does not come from refocusd"):
        opened(settings, message)
    (folder / "notes.txt").unlink()
    opened(settings, message).close(None)
    assert list(tmp_path.glob("cells_1_refocused.incomplete-*/NDTiffStack.tif.part"))

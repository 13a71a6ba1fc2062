"""Refocused stores with raw's layout are written frame by frame, continued and read back."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import zarr
from plates_on_disk import FIELDS, write_image, write_plate

from refocusd.errors import InputError, OutputError
from refocusd.formats.ome_zarr.mirror import image as mirror_image
from refocusd.formats.ome_zarr.mirror.image import MirrorImage, reduced
from refocusd.formats.ome_zarr.mirror.layout import list_path, put_like
from refocusd.formats.ome_zarr.mirror.reader import MirrorReader
from refocusd.formats.ome_zarr.mirror.writer import MirrorSink
from refocusd.formats.open_dataset import open_dataset
from refocusd.formats.open_sink import append_sink, create_sink, sink_kind
from refocusd.formats.sink import Sink

yaozarrs = pytest.importorskip("yaozarrs", reason="yaozarrs is not installed")


def fill(sink: Sink, raw: Path, keys: slice = slice(None)) -> int:
    """Write frames of a raw store unchanged; returns their number."""
    with open_dataset(raw) as dataset:
        chosen = dataset.axes_keys()[keys]
        for key in chosen:
            frame = dataset.read(key)
            sink.write(frame.pixels, frame.axes, {**frame.metadata, "refocusd": {"note": "π"}})
    return len(chosen)


def started(raw: Path, out: Path) -> Sink:
    with open_dataset(raw) as dataset:
        return create_sink("ndtiff", out, dataset.summary)


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_a_plate_is_valid_from_its_first_frame_to_its_last(tmp_path: Path, version: str) -> None:
    raw, out = tmp_path / "plate.zarr", tmp_path / "plate_refocused.zarr"
    pixels = write_plate(raw, version=version)
    with started(raw, out) as sink:
        assert isinstance(sink, MirrorSink)
        assert sink_kind(out) == "ome-zarr"
        yaozarrs.validate_zarr_store(str(out))
        assert fill(sink, raw) == 36
        with pytest.raises(OutputError, match="frames are never overwritten"):
            fill(sink, raw, slice(3, 4))
    yaozarrs.validate_zarr_store(str(out))
    for field in FIELDS:
        for level in ("0", "1"):
            before, after = (
                zarr.open_array(raw / field / level),
                zarr.open_array(out / field / level),
            )
            assert (after.shape, after.metadata.zarr_format) == (
                before.shape,
                before.metadata.zarr_format,
            )
        np.testing.assert_array_equal(zarr.open_array(out / field / "0")[:], pixels[field])
        attributes = dict(zarr.open_group(out / field, mode="r").attrs)
        assert attributes == dict(zarr.open_group(raw / field, mode="r").attrs)
    with open_dataset(out) as dataset:
        assert isinstance(dataset, MirrorReader)
        assert len(dataset) == 36
        frame = dataset.read({"position": "B/03/0", "time": 1, "channel": "GFP", "z": 2})
        np.testing.assert_array_equal(frame.pixels, pixels["B/03/0"][1, 1, 2])
        assert frame.metadata["refocusd"] == {"note": "π"}


def test_what_a_killed_writer_left_is_continued(tmp_path: Path) -> None:
    raw, out = tmp_path / "plate.zarr", tmp_path / "plate_refocused.zarr"
    write_plate(raw, levels=1)
    with started(raw, out) as sink:
        fill(sink, raw, slice(0, 14))
    # Killed while it wrote a line; earlier, a power cut lost the pixels of a frame.
    place = list_path(out, "A/1/1")
    place.write_bytes(place.read_bytes() + b'{"axes": {"position"')
    (out / "A" / "1" / "0" / "0" / "c" / "0" / "0" / "0" / "0" / "0").unlink()
    with append_sink(out) as sink:
        assert sink.summary["OmeZarrStore"] == str(raw)
        lost = json.loads('{"position":"A/1/0","time":0,"channel":"DAPI","z":0}')
        with open_dataset(raw) as dataset:
            sink.write(dataset.read(lost).pixels, lost, {})
        fill(sink, raw, slice(14, None))
    with open_dataset(out) as dataset:
        assert len(dataset) == 36
        assert len(set(dataset.axes_keys())) == 36


def test_one_writer_for_a_store_and_one_for_each_image(tmp_path: Path) -> None:
    raw, out = tmp_path / "plate.zarr", tmp_path / "plate_refocused.zarr"
    write_plate(raw, levels=1)
    with started(raw, out):
        with pytest.raises(OutputError, match="being written by another process"):
            append_sink(out)
        # The jobs of a cluster write images while the store is held for them.
        with (
            MirrorImage(out, "A/1/0"),
            MirrorImage(out, "A/1/1"),
            pytest.raises(OutputError, match="being written by another process"),
        ):
            MirrorImage(out, "A/1/0")
    append_sink(out).close()


def test_images_that_raw_is_given_while_it_grows_get_their_place(tmp_path: Path) -> None:
    raw, out = tmp_path / "plate.zarr", tmp_path / "plate_refocused.zarr"
    write_plate(raw, fields=FIELDS[:1], levels=1)
    with started(raw, out) as sink:
        fill(sink, raw)
        write_plate(raw, fields=FIELDS, levels=1)
        fill(sink, raw, slice(12, None))
    yaozarrs.validate_zarr_store(str(out))
    assert dict(zarr.open_group(out, mode="r").attrs) == dict(zarr.open_group(raw, mode="r").attrs)
    assert len(open_dataset(out)) == 36


def test_arrays_that_grow_with_raw_are_read_on(tmp_path: Path) -> None:
    raw, out = tmp_path / "run.zarr", tmp_path / "run_refocused.zarr"
    write_image(raw, axes="tyx")
    with started(raw, out) as sink, open_dataset(out) as reader:
        fill(sink, raw)
        assert len(reader.refresh()) == 2
        for level, step in (("0", 1), ("1", 2)):
            array = zarr.open_array(raw / level, mode="r+")
            array.resize((3, *array.shape[1:]))
            array[2] = np.full((48 // step, 64 // step), 7, np.uint16)
        fill(sink, raw, slice(2, None))
        assert reader.refresh() == ['{"time":2}']
        assert (reader.read({"time": 2}).pixels == 7).all()
    assert zarr.open_array(out / "1", mode="r").shape == (3, 24, 32)


def test_an_image_that_has_only_just_begun_gets_its_place_with_its_first_frame(
    tmp_path: Path,
) -> None:
    raw, out = tmp_path / "plate.zarr", tmp_path / "plate_refocused.zarr"
    write_plate(raw, levels=1)
    (raw / "B" / "03" / "0" / "0").rename(tmp_path / "later")
    with (
        open_dataset(raw, growing=True) as dataset,
        create_sink("ndtiff", out, dataset.summary) as sink,
    ):
        assert len(dataset) == 24
        (tmp_path / "later").rename(raw / "B" / "03" / "0" / "0")
        assert fill(sink, raw) == 36
    yaozarrs.validate_zarr_store(str(out))


def test_no_two_frames_share_a_chunk_or_a_shard(tmp_path: Path) -> None:
    raw = tmp_path / "cells.zarr"
    write_image(raw, chunks=(1, 1, 1, 16, 32), shards=(2, 2, 3, 48, 64), levels=1)
    with started(raw, tmp_path / "cells_refocused.zarr") as sink:
        fill(sink, raw)
    array = zarr.open_array(tmp_path / "cells_refocused.zarr" / "0", mode="r")
    assert (array.shards, array.chunks) == ((1, 1, 1, 48, 64), (1, 1, 1, 16, 32))
    np.testing.assert_array_equal(array[:], zarr.open_array(raw / "0")[:])


@pytest.mark.parametrize("how", [{}, {"chunks": (1, 16, 32), "shards": (2, 48, 64), "levels": 1}])
def test_a_black_frame_is_a_frame(tmp_path: Path, how: dict[str, Any]) -> None:
    raw, out = tmp_path / "cells.zarr", tmp_path / "cells_refocused.zarr"
    write_image(raw, axes="tyx", **how)
    with started(raw, out) as sink:
        sink.write(np.zeros((48, 64), np.uint16), {"time": 1}, {})
    with open_dataset(out) as dataset:
        assert dataset.axes_keys() == ['{"time":1}']
        assert not dataset.read({"time": 1}).pixels.any()


def test_what_describes_a_whole_plate_is_written_once(tmp_path: Path) -> None:
    """Done again for each image, it would take hours to begin a plate of thousands."""
    raw, out = tmp_path / "plate.zarr", tmp_path / "plate_refocused.zarr"
    write_plate(raw, fields=[f"A/{n}/{field}" for n in range(1, 7) for field in "01"], levels=1)
    with mock.patch.object(mirror_image, "put_like", wraps=put_like) as put:
        started(raw, out).close()
    written = [call.args[1].relative_to(out).as_posix() for call in put.call_args_list]
    assert sorted(written) == sorted(set(written))
    assert written[-1] == "."
    yaozarrs.validate_zarr_store(str(out))


def test_a_resolution_that_is_named_and_not_there_is_reported(tmp_path: Path) -> None:
    raw = tmp_path / "plate.zarr"
    write_plate(raw)
    shutil.rmtree(raw / "A" / "1" / "1" / "1")
    with started(raw, tmp_path / "plate_refocused.zarr") as sink:
        assert isinstance(sink, MirrorSink)
        sink.make_room({"position": "A/1/0"})
        with pytest.raises(
            OutputError, match=r"1[/\\]1 is named as a resolution of its image, and is"
        ):
            sink.make_room({"position": "A/1/1"})


def test_frames_without_a_place_are_refused(tmp_path: Path) -> None:
    raw, out = tmp_path / "plate.zarr", tmp_path / "plate_refocused.zarr"
    write_plate(raw, levels=1)
    black: Any = np.zeros((48, 64), np.uint16)
    common: dict[str, Any] = {"time": 0, "channel": "DAPI", "z": 0}
    with started(raw, out) as sink:
        with pytest.raises(OutputError, match="has no image at C/9/0"):
            sink.write(black, {**common, "position": "C/9/0"}, {})
        with pytest.raises(OutputError, match="room for"):
            sink.write(black, {**common, "position": "A/1/0", "time": 7}, {})
        with pytest.raises(OutputError, match="no frame with channel"):
            sink.write(black, {**common, "position": "A/1/0", "channel": "Cy5"}, {})
        with pytest.raises(OutputError, match="its image in"):
            sink.write(black[:20], {**common, "position": "A/1/0"}, {})
        assert fill(sink, raw) == 36


def test_a_damaged_list_is_not_appended_to(tmp_path: Path) -> None:
    raw, out = tmp_path / "cells.zarr", tmp_path / "cells_refocused.zarr"
    write_image(raw)
    with started(raw, out) as sink:
        fill(sink, raw)
    place = list_path(out, "")
    text = place.read_bytes()
    place.write_bytes(text[:40] + b"\xff" + text[41:])
    with pytest.raises(OutputError, match=r"is damaged at byte 0.*from a copy"):
        append_sink(out)
    with pytest.raises(InputError, match="illegible at byte 0"):
        open_dataset(out)


@pytest.mark.parametrize(("shape", "level"), [((6, 8), (3, 4)), ((7, 9), (3, 4)), ((7, 9), (4, 5))])
def test_lower_resolutions_are_means(shape: tuple[int, int], level: tuple[int, int]) -> None:
    pixels = np.full(shape, 65535, np.uint16)
    assert (reduced(pixels, level) == 65535).all()
    pixels = np.arange(shape[0] * shape[1], dtype=np.uint16).reshape(shape)
    assert reduced(pixels, level).shape == level
    assert reduced(pixels, level)[0, 0] == round(float(pixels[:2, :2].mean()) + 1e-9)

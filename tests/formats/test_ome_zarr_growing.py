"""OME-Zarr stores while another program writes them: whole chunks and shards only."""

from __future__ import annotations

import json
import math
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from plates_on_disk import FIELDS, pixels_of, write_image, write_plate

from refocusd.errors import InputError
from refocusd.formats.dataset import Dataset
from refocusd.formats.ome_zarr.store.reader import StoreReader
from refocusd.formats.open_dataset import open_dataset
from refocusd.frame import canonical_axes


def emptied(folder: Path, level: str = "0") -> Any:
    """The full resolution of an image, with all chunks removed."""
    array = zarr.open_array(folder / level, mode="r+")
    for place in [p for p in (folder / level).rglob("*") if p.is_file()]:
        if place.name not in ("zarr.json", ".zarray", ".zattrs"):
            place.unlink()
    return array


def key(**axes: Any) -> str:
    return canonical_axes(axes)


def aged(folder: Path, by_s: float) -> None:
    """Make all files look older by `by_s` seconds."""
    then = time.time() - by_s
    for place in folder.rglob("*"):
        if place.is_file():
            os.utime(place, (then, then))


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_frames_come_as_their_chunks_are_written(tmp_path: Path, version: str) -> None:
    pixels = write_image(tmp_path / "run.zarr", version=version, levels=1)
    array = emptied(tmp_path / "run.zarr")
    with open_dataset(tmp_path / "run.zarr", growing=True) as dataset:
        assert not dataset.axes_keys()
        assert not dataset.finished
        for index in np.ndindex(2, 2, 3):
            array[index] = pixels[index]
            t, c, z = index
            (found,) = dataset.refresh()
            assert found == key(time=t, channel=["DAPI", "GFP"][c], z=z)
            assert dataset.is_whole(found)
            np.testing.assert_array_equal(dataset.read(found).pixels, pixels[index])
        assert dataset.refresh() == []


def test_new_wells_and_longer_arrays_are_taken_up(tmp_path: Path) -> None:
    root = tmp_path / "plate.zarr"
    write_plate(root, fields=FIELDS[:1], levels=1)
    with open_dataset(root, growing=True) as dataset:
        assert len(dataset) == 12
        pixels = write_plate(tmp_path / "whole.zarr", fields=FIELDS, levels=1)
        (tmp_path / "whole.zarr" / "B").rename(root / "B")
        (root / "zarr.json").write_bytes((tmp_path / "whole.zarr" / "zarr.json").read_bytes())
        fresh = keys_of(dataset)
        assert {json.loads(each).get("position") for each in fresh} == {"B/03/0"}
        assert len(fresh) == 12
        array = zarr.open_array(root / "A" / "1" / "0" / "0", mode="r+")
        array.resize((3, *array.shape[1:]))
        array[2, 0, 0] = pixels["B/03/0"][0, 0, 0]
        assert keys_of(dataset) == [key(position="A/1/0", time=2, channel="DAPI", z=0)]


def keys_of(dataset: Dataset) -> list[str]:
    """Read keys until no more come."""
    found: list[str] = []
    while fresh := dataset.refresh():
        found += fresh
    return found


def test_arrays_of_a_plate_within_a_store_may_grow(tmp_path: Path) -> None:
    """As acquire-zarr writes plates: below the group of a whole acquisition."""
    zarr.open_group(tmp_path / "run.zarr", mode="w")
    write_plate(tmp_path / "run.zarr" / "plate", axes="tyx", levels=1)
    with open_dataset(tmp_path / "run.zarr", growing=True) as dataset:
        assert len(dataset) == 6
        array = zarr.open_array(tmp_path / "run.zarr" / "plate" / "A/1/0/0", mode="r+")
        array.resize((3, *array.shape[1:]))
        array[2] = pixels_of((1, *array.shape[1:]))[0]
        assert dataset.refresh() == [key(position="plate/A/1/0", time=2)]


def test_a_chunk_that_is_half_written_is_no_frame_yet(tmp_path: Path) -> None:
    write_image(tmp_path / "run.zarr", levels=1)
    chunk = tmp_path / "run.zarr" / "0" / "c" / "1" / "1" / "2" / "0" / "0"
    whole = chunk.read_bytes()
    chunk.write_bytes(whole[: len(whole) // 2])
    with open_dataset(tmp_path / "run.zarr", growing=True) as dataset:
        last = key(time=1, channel="GFP", z=2)
        assert not dataset.is_whole(last)
        chunk.write_bytes(whole)
        assert dataset.is_whole(last)
        dataset.read(last)


def test_of_a_shard_only_frames_that_its_index_names_are_taken(tmp_path: Path) -> None:
    write_image(tmp_path / "run.zarr", levels=1, chunks=(1, 1, 1, 48, 64), shards=(1, 2, 3, 48, 64))
    pixels = pixels_of((2, 2, 3, 48, 64))
    array = emptied(tmp_path / "run.zarr")
    with open_dataset(tmp_path / "run.zarr", growing=True) as dataset:
        array[0, 0] = pixels[0, 0]
        assert keys_of(dataset) == [key(time=0, channel="DAPI", z=z) for z in range(3)]
        array[0, 1, 0] = pixels[0, 1, 0]
        assert keys_of(dataset) == [key(time=0, channel="GFP", z=0)]
        array[1] = pixels[1]
        shard = tmp_path / "run.zarr" / "0" / "c" / "1" / "0" / "0" / "0" / "0"
        whole = shard.read_bytes()
        shard.write_bytes(whole[:-20])
        assert keys_of(dataset) == []
        shard.write_bytes(whole)
        assert len(keys_of(dataset)) == 6


def test_a_chunk_of_several_frames_counts_once_it_rests_and_only_for_those_in_it(
    tmp_path: Path,
) -> None:
    pixels = write_image(tmp_path / "run.zarr", levels=1, chunks=(1, 1, 3, 48, 64))
    array = emptied(tmp_path / "run.zarr")
    array[0, 0, :2] = pixels[0, 0, :2]
    with open_dataset(tmp_path / "run.zarr", growing=True) as dataset:
        assert not dataset.axes_keys()
        aged(tmp_path / "run.zarr" / "0" / "c", 5.0)
        assert len(keys_of(dataset)) == 3
        whole = [dataset.is_whole(key(time=0, channel="DAPI", z=z)) for z in range(3)]
        assert whole == [True, True, False]
        array[0, 0, 2] = pixels[0, 0, 2]
        assert dataset.is_whole(key(time=0, channel="DAPI", z=2))


def test_a_frame_without_its_empty_tiles_counts_once_nothing_comes_any_more(tmp_path: Path) -> None:
    write_image(tmp_path / "run.zarr", levels=1, axes="tyx", chunks=(1, 24, 32))
    (tmp_path / "run.zarr" / "0" / "c" / "1" / "1" / "1").unlink()
    with open_dataset(tmp_path / "run.zarr", growing=True) as dataset:
        assert dataset.axes_keys() == [key(time=0)]
        aged(tmp_path / "run.zarr" / "0" / "c", 60.0)
        dataset._looked_at_all = -1e9  # type: ignore[attr-defined]
        assert keys_of(dataset) == [key(time=1)]


def test_a_store_that_has_only_just_begun_is_waited_for_and_one_that_cannot_be_used_is_named(
    tmp_path: Path,
) -> None:
    root = tmp_path / "run.zarr"
    zarr.open_group(root, mode="w")
    with open_dataset(root, growing=True) as dataset:
        assert dataset.axes_keys() == []
        with pytest.raises(InputError, match="dataset without a frame"):
            dataset.first_format()
        write_image(root, dtype="float32", levels=1)
        dataset.refresh()
        dataset.refresh()
        assert "float32" in dataset.unusable()[""]


def test_an_image_that_cannot_be_opened_yet_is_named_only_in_the_end(tmp_path: Path) -> None:
    root = tmp_path / "plate.zarr"
    write_plate(root, axes="tyx", levels=1)
    document = root / "A/1/1/0/zarr.json"
    said = document.read_bytes()
    document.write_bytes(b"{")
    with open_dataset(root, growing=True) as dataset:
        assert len(dataset) == 4
        dataset.refresh()
        assert list(dataset.unusable()) == [""]
        assert dataset.unusable() == {}
        assert list(dataset.unusable(ended=True)) == ['{"position":"A/1/1"}']
        document.write_bytes(said)
        assert isinstance(dataset, StoreReader)
        dataset._looked_at_all = -math.inf
        assert len(dataset.refresh()) == 2
        assert dataset.unusable(ended=True) == {}


def test_a_store_that_is_away_is_an_error_of_the_system(tmp_path: Path) -> None:
    write_image(tmp_path / "run.zarr", levels=1)
    with open_dataset(tmp_path / "run.zarr", growing=True) as dataset:
        (tmp_path / "run.zarr").rename(tmp_path / "elsewhere")
        with pytest.raises(FileNotFoundError):
            dataset.refresh()
        (tmp_path / "elsewhere").rename(tmp_path / "run.zarr")
        assert dataset.refresh() == []
        assert len(dataset) == 12

"""``refocusd process`` on OME-Zarr: a plate in, the same plate out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from finished import refocusd, snapshot, verify
from plates_on_disk import FIELDS, write_image, write_plate
from test_resume import KILL, stop_midway

from refocusd.formats.open_dataset import open_dataset

yaozarrs = pytest.importorskip("yaozarrs", reason="yaozarrs is not installed")


def attributes(group: Path) -> Any:
    return dict(zarr.open_group(group, mode="r").attrs)


def assert_same_plate(raw: Path, refocused: Path) -> None:
    """Assert that wells, fields, axes, scales, channels and resolutions are raw's, and valid."""
    yaozarrs.validate_zarr_store(str(refocused))
    groups = ["", *{field.rpartition("/")[0] for field in FIELDS}, *FIELDS]
    for place in groups:
        assert attributes(refocused / place) == attributes(raw / place)
    for field in FIELDS:
        for level in ("0", "1"):
            before = zarr.open_array(raw / field / level, mode="r")
            after = zarr.open_array(refocused / field / level, mode="r")
            assert (after.shape, after.dtype) == (before.shape, before.dtype)
            assert after.metadata.zarr_format == before.metadata.zarr_format


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_a_plate_comes_out_as_a_plate(tmp_path: Path, version: str) -> None:
    raw, out = tmp_path / "plate.zarr", tmp_path / "plate_refocused.zarr"
    pixels = write_plate(raw, version=version)
    before = snapshot(raw)
    done = refocusd("process", raw, place=tmp_path)
    assert done.returncode == 0, done.stderr
    assert snapshot(raw) == before
    assert_same_plate(raw, out)
    for field in FIELDS:
        # The engine of these tests does not change frames.
        np.testing.assert_array_equal(zarr.open_array(out / field / "0")[:], pixels[field])
        half = pixels[field].astype(float).reshape(2, 2, 3, 24, 2, 32, 2).mean((4, 6))
        assert np.abs(zarr.open_array(out / field / "1")[:] - half).max() <= 0.5
    assert verify(raw, place=tmp_path)[0] == 0
    assert verify(out, place=tmp_path)[0] == 0
    with open_dataset(out) as dataset:
        said = dataset.metadata({"position": "B/03/0", "time": 1, "channel": "GFP", "z": 2})
    assert said["refocusd"]["state"] == "passed_through"
    assert said["ZPositionUm"] == 4.0
    again = refocusd("process", raw, place=tmp_path)
    assert "nothing to do" in again.stdout
    assert again.returncode == 0, again.stderr


def test_killed_and_started_again_the_plate_is_finished(tmp_path: Path) -> None:
    raw, out = tmp_path / "plate.zarr", tmp_path / "plate_refocused.zarr"
    fields = [f"A/{n}/0" for n in range(1, 13)]
    write_plate(raw, fields=fields, levels=1)
    stop_midway(["process", str(raw)], out, tmp_path, KILL, 20)
    done = refocusd("process", raw, place=tmp_path)
    assert done.returncode == 0, done.stderr
    status, said = verify(raw, place=tmp_path)
    assert status == 0, said
    with open_dataset(out) as dataset:
        assert len(dataset) == 12 * 12


def test_an_image_with_shards_and_one_model_more_make_two_images(tmp_path: Path) -> None:
    raw = tmp_path / "cells.ome.zarr"
    write_image(raw, chunks=(1, 1, 1, 16, 32), shards=(2, 2, 3, 48, 64), levels=1)
    assert refocusd("process", raw, place=tmp_path).returncode == 0
    array = zarr.open_array(tmp_path / "cells_refocused.zarr" / "0", mode="r")
    # No two frames share a file: two workers never write the same one.
    assert (array.shards, array.chunks) == ((1, 1, 1, 48, 64), (1, 1, 1, 16, 32))
    more = {"REFOCUSD_PASS_IN_FOCUS": "false"}
    done = refocusd("process", raw, place=tmp_path, **more)
    assert done.returncode == 0, done.stderr
    (second,) = tmp_path.glob("cells_refocused_*.zarr")
    yaozarrs.validate_zarr_store(str(second))
    assert "nothing to do" in refocusd("process", raw, place=tmp_path, **more).stdout
    status, said = verify(raw, place=tmp_path)
    assert status == 0
    assert len(said["runs"]) == 2


def test_a_replayed_image_keeps_its_layout(tmp_path: Path) -> None:
    raw = tmp_path / "cells.zarr"
    pixels = write_image(raw, axes="tcyx")
    figures = tmp_path / "figures.json"
    done = refocusd(
        *("replay", raw, "--output", tmp_path / "out", "--fps", "0", "--json", figures),
        place=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    out = Path(json.loads(figures.read_text())["output"])
    assert out.name == "cells_refocused.zarr"
    np.testing.assert_array_equal(zarr.open_array(out / "0")[:], pixels)

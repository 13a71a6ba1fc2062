"""OME-Zarr plates are followed while another program writes them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import zarr
from finished import refocusd, verify
from followed import ended, following
from live import quick_settings, running
from plates_on_disk import FIELDS, write_image, write_plate
from test_follow import live_frames
from waiting import until

from refocusd.daemon.daemon import Daemon
from refocusd.formats.open_dataset import open_dataset
from refocusd.sources.folders.scanner import Scanner
from refocusd.transport import messages as wire

METADATA = ("zarr.json", ".zattrs", ".zgroup", ".zarray")
FRAMES = 36


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    with running(quick_settings(tmp_path)) as daemon:
        yield daemon


def without_chunks(folder: str, names: list[str]) -> set[str]:
    """Names for `shutil.copytree` to leave out: all files except metadata."""
    return {n for n in names if (Path(folder) / n).is_file() and n not in METADATA}


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_every_frame_of_a_growing_plate_is_done(
    daemon: Daemon, tmp_path: Path, version: str
) -> None:
    whole, raw = tmp_path / "whole" / "plate.zarr", tmp_path / "data" / "plate.zarr"
    whole.parent.mkdir()
    pixels = write_plate(whole, version=version, levels=1)
    with following(raw.parent, daemon.endpoint, quiet_s=5.0):
        shutil.copytree(whole, raw, ignore=without_chunks)
        arrays = {field: zarr.open_array(raw / field / "0", mode="r+") for field in FIELDS}
        for index in np.ndindex(2, 2, 3):
            for field in FIELDS:
                arrays[field][index] = pixels[field][index]
            if index == (0, 0, 1):
                # The first frames are refocused before the last ones are written.
                until(lambda: live_frames(daemon, raw.name) > 0, "a frame of the plate")
        until(
            lambda: (counts := ended(daemon, raw.name)) is not None and counts.acquired == FRAMES,
            "the end of the plate",
        )
    status, said = verify(raw, place=tmp_path)
    assert status == 0, said
    out = tmp_path / "data" / "plate_refocused.zarr"
    assert len(open_dataset(out)) == FRAMES
    for field in FIELDS:
        np.testing.assert_array_equal(zarr.open_array(out / field / "0")[:], pixels[field])


def test_a_store_is_found_with_the_time_of_its_newest_chunk_and_ours_is_not(tmp_path: Path) -> None:
    write_plate(tmp_path / "plate.zarr", levels=1)
    write_plate(tmp_path / "plate_refocused.zarr", levels=1)
    scanner = Scanner(tmp_path)
    (found,) = scanner.scan()
    assert (found.path, found.new) == (tmp_path / "plate.zarr", True)
    assert scanner.scan() == []
    chunk = tmp_path / "plate.zarr" / "A" / "1" / "0" / "0" / "c" / "0" / "0" / "0" / "0" / "1"
    chunk.write_bytes(b"")
    (again,) = scanner.scan()
    assert not again.new
    assert again.changed_ns > found.changed_ns


def test_fields_of_a_growing_plate_that_cannot_be_refocused_are_named_and_counted(
    daemon: Daemon, tmp_path: Path
) -> None:
    whole, raw = tmp_path / "whole" / "plate.zarr", tmp_path / "data" / "plate.zarr"
    whole.parent.mkdir()
    fields = ("A/1/0", "A/1/1", "B/03/0", "B/03/1", "B/03/2")
    write_plate(whole, axes="tyx", levels=1, fields=fields)
    smaller = zarr.create_array(
        whole / "A/1/1/0", shape=(2, 32, 32), chunks=(1, 32, 32), dtype="uint16", overwrite=True
    )
    smaller[:] = 7
    shutil.rmtree(whole / "B/03/0")
    write_image(whole / "B/03/0", axes="tyx", levels=1, dtype="float32")
    (whole / "B/03/1/0/zarr.json").write_text("{")
    with following(raw.parent, daemon.endpoint):
        shutil.copytree(whole, raw)
        counts = until(lambda: ended(daemon, raw.name), "the end of the plate")
    assert counts == wire.Counts(acquired=9, passed_through=4, failed=5)
    status, said = verify(raw, place=tmp_path)
    (run,) = said["runs"]
    assert (status, run["states"]) == (1, {"failed": 5, "passed_through": 4})
    why = {json.loads(p["axes"])["position"]: p["detail"] for p in run["problems"]}
    assert "is 32×32 uint16, but its acquisition began with 64×48 uint16" in why["A/1/1"]
    assert "has pixels of type float32" in why["B/03/0"]
    assert "is not a readable Zarr array" in why["B/03/1"]
    # What is processed says the same.
    assert refocusd("process", raw, place=tmp_path).returncode == 1
    assert verify(raw, place=tmp_path)[1]["runs"][0]["states"] == run["states"]


def test_the_wells_of_a_plate_that_is_being_copied_are_no_stores(tmp_path: Path) -> None:
    """Most programs copy in alphabetical order: `zarr.json` comes last."""
    write_plate(tmp_path / "data" / "plate.zarr", levels=1)
    document = tmp_path / "data" / "plate.zarr" / "zarr.json"
    said = document.read_bytes()
    document.unlink()
    scanner = Scanner(tmp_path)
    assert scanner.scan() == []
    document.write_bytes(said)
    assert [found.path for found in scanner.scan()] == [document.parent]

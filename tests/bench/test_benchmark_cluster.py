"""The plates of the cluster's benchmark, and what the guide shows of its figures."""

from __future__ import annotations

import json
from pathlib import Path

import yaozarrs

from benchmarks.cluster import write_plate, write_slide
from refocusd.formats.open_dataset import open_dataset

FIGURES = Path(__file__).resolve().parents[2] / "benchmarks" / "results" / "cluster-2core.json"


def test_plates_have_their_wells_fields_and_planes(tmp_path: Path) -> None:
    path = write_plate(tmp_path / "plate.zarr", 12, (32, 40), fields=2, per_field=3, axis="z")
    yaozarrs.validate_zarr_store(str(path))
    with open_dataset(path) as frames:
        axes = [json.loads(key) for key in frames.axes_keys()]
    fields = ("A/1/0", "A/1/1", "A/2/0", "A/2/1")
    assert axes == [{"position": field, "z": z} for field in fields for z in range(3)]


def test_a_slide_is_one_image_in_chunks(tmp_path: Path) -> None:
    path = write_slide(tmp_path / "slide.zarr", 2500)
    yaozarrs.validate_zarr_store(str(path))
    with open_dataset(path) as frames:
        (key,) = frames.axes_keys()
        pixels = frames.read(key).pixels
    assert pixels.shape == (2500, 2500)
    assert (pixels[2000:, :2000] == pixels[:500, :2000]).all()

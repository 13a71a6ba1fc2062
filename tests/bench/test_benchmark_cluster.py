"""The plates of the cluster benchmark, and its figures in the guide."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaozarrs

from benchmarks.speed.cluster.plan import GUIDE, into_guide, plan_for
from benchmarks.speed.cluster.plates import write_plate, write_slide
from refocusd.formats.open_dataset import open_dataset

FIGURES = Path(__file__).resolve().parents[2] / "benchmarks" / "results" / "cluster-2core.json"


def test_the_guides_plan_is_that_of_the_figures_that_were_kept() -> None:
    if not FIGURES.exists():
        pytest.skip("no full run has been kept: its figures need a quiet machine")
    page = GUIDE.read_text(encoding="utf-8")
    assert into_guide(FIGURES) == page
    assert "| frames | 1,000,000 of " in page


def test_a_plan_takes_the_place_of_the_one_before(tmp_path: Path) -> None:
    guide, figures = tmp_path / "plates.md", tmp_path / "figures.json"
    guide.write_text(GUIDE.read_text(encoding="utf-8"), encoding="utf-8")
    for rate in (20.0, 25.0):
        one = {"frames_per_s": rate, "worker_mib": 512.0}
        workers = {
            "frame_px": [696, 520],
            "efficiency_of_two": 0.95,
            "contenders": {"cluster, 1 worker": one},
        }
        figures.write_text(json.dumps({"plan": plan_for(workers), "workers": workers}))
        guide.write_text(into_guide(figures, guide), encoding="utf-8")
    page = guide.read_text(encoding="utf-8")
    assert page.count("| cost of cores | ") == 1
    # 40 ms per frame, 5 % more with two workers, half the price of two cores.
    assert "| time of one worker | 11 h |" in page
    assert "| cost of cores | $0.48, at $0.0816 an hour for two cores" in page
    assert "| jobs | 50,000 positions of 20 frames |" in page
    assert page.partition("<!-- plan ends -->")[2] in GUIDE.read_text(encoding="utf-8")


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

"""The field's own tools open what refocusd writes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from plates_on_disk import write_plate
from test_ome_zarr_mirror import fill, started


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_iohub_opens_a_refocused_plate(tmp_path: Path, version: str) -> None:
    ngff = pytest.importorskip("iohub.ngff", reason="iohub is not installed")
    raw, out = tmp_path / "plate.zarr", tmp_path / "plate_refocused.zarr"
    pixels = write_plate(raw, version=version)
    with started(raw, out) as sink:
        fill(sink, raw)
    with ngff.open_ome_zarr(out, mode="r", version=version) as plate:
        found = dict(plate.positions())
        assert set(found) == set(pixels)
        position = found["B/03/0"]
        assert list(position.channel_names) == ["DAPI", "GFP"]
        np.testing.assert_array_equal(position["0"][:], pixels["B/03/0"])


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_ngio_opens_a_refocused_plate(tmp_path: Path, version: str) -> None:
    ngio = pytest.importorskip(
        "ngio", reason="ngio needs an older pydantic, so it has an environment of its own"
    )
    raw, out = tmp_path / "plate.zarr", tmp_path / "plate_refocused.zarr"
    pixels = write_plate(raw, version=version)
    with started(raw, out) as sink:
        fill(sink, raw)
    plate = ngio.open_ome_zarr_plate(out)
    assert sorted(plate.images_paths(max_workers=1)) == sorted(pixels)
    image = ngio.open_ome_zarr_container(out / "B" / "03" / "0").get_image()
    assert image.channel_labels == ["DAPI", "GFP"]
    assert image.pixel_size.x == pytest.approx(0.65)
    np.testing.assert_array_equal(image.get_as_numpy(), pixels["B/03/0"])

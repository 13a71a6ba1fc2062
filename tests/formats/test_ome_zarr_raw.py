"""OME-Zarr stores of other programs as raw data: every frame is found and read."""

from __future__ import annotations

import json
import os
import shutil
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from plates_on_disk import FIELDS, pixels_of, write_image, write_plate
from zarr.codecs import BloscCodec, GzipCodec, ZstdCodec

from refocusd.errors import InputError
from refocusd.formats.dataset import Dataset, understood
from refocusd.formats.open_dataset import open_dataset
from refocusd.frame import canonical_axes

ORDER = {"t": "time", "c": "channel", "z": "z"}


def assert_holds(dataset: Dataset, pixels: np.ndarray[Any, Any], axes: str, **common: Any) -> None:
    """Assert that every plane of an array is a frame of the dataset."""
    for index in np.ndindex(*pixels.shape[:-2]):
        at: dict[str, Any] = {
            ORDER[axis]: ["DAPI", "GFP"][n] if axis == "c" else n
            for axis, n in zip(axes, index, strict=False)
        }
        frame = dataset.read((common | at) or {"time": 0})
        np.testing.assert_array_equal(frame.pixels, pixels[index])
        assert frame.pixels.dtype == pixels.dtype.newbyteorder("=")


@pytest.mark.parametrize("version", ["0.4", "0.5"])
@pytest.mark.parametrize("axes", ["tczyx", "czyx", "tcyx", "zyx", "cyx", "tyx", "yx"])
def test_an_image_has_a_frame_for_each_place_of_its_axes(
    tmp_path: Path, axes: str, version: str
) -> None:
    pixels = write_image(tmp_path / "image.zarr", axes=axes, version=version)
    with open_dataset(tmp_path / "image.zarr") as dataset:
        assert len(dataset) == np.prod(pixels.shape[:-2], dtype=int)
        assert_holds(dataset, pixels, axes)
        assert dataset.plan().pixel_um == 0.65


def test_the_index_of_a_store_takes_a_byte_a_frame(tmp_path: Path) -> None:
    """A plate has millions of frames, each of which used to be an object of 400 bytes."""
    frames = 20_000
    array = zarr.create_array(
        tmp_path / "long.zarr" / "0", shape=(frames, 16, 16), chunks=(2000, 16, 16), dtype="uint8"
    )
    array[:] = (np.arange(frames) % 251 + 1).astype(np.uint8)[:, None, None]
    levels = [{"path": "0"}]
    image: dict[str, Any] = {"axes": [{"name": name} for name in "tyx"], "datasets": levels}
    zarr.open_group(tmp_path / "long.zarr").attrs["ome"] = {
        "version": "0.5",
        "multiscales": [image],
    }
    open_dataset(tmp_path / "long.zarr")  # so that imports do not count for the second
    tracemalloc.start()
    with open_dataset(tmp_path / "long.zarr") as dataset:
        nbytes = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
        assert nbytes / frames < 10
        assert len(dataset) == frames
        assert list(dataset)[-1] == f'{{"time":{frames - 1}}}'
        assert dataset.read({"time": 1234}).pixels[0, 0] == 1234 % 251 + 1
        for wrong in ({"time": frames}, {"time": -1}, {"time": 1, "z": 0}, {"position": "x"}):
            assert canonical_axes(wrong) not in dataset
        assert "no key" not in dataset


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_a_plate_has_the_frames_of_all_its_fields(tmp_path: Path, version: str) -> None:
    pixels = write_plate(tmp_path / "plate.zarr", version=version)
    with open_dataset(tmp_path / "plate.zarr") as dataset:
        assert len(dataset) == 3 * 12
        for field in FIELDS:
            assert_holds(dataset, pixels[field], "tczyx", position=field)
        last = dataset.metadata({"position": "B/03/0", "time": 1, "channel": "GFP", "z": 2})
        assert last == {
            "PixelSizeUm": 0.65,
            "PositionName": "B/03/0",
            "Channel": "GFP",
            "ZPositionUm": 4.0,
            "ElapsedTime-ms": 30_000.0,
        }
        said = understood(dataset)
    assert "time 2 × position 3 × z 3 × channel 2 (channels DAPI, GFP)" in said
    assert "0.65 µm a pixel, planes 2 µm apart" in said


@pytest.mark.parametrize(
    "how",
    [
        {"compressors": None},
        {"compressors": GzipCodec()},
        {"compressors": BloscCodec(cname="lz4")},
        {"compressors": ZstdCodec(), "chunks": (1, 1, 3, 20, 30)},
        {"chunks": (2, 1, 3, 48, 64), "levels": 1},
        {"chunks": (1, 1, 1, 16, 16), "shards": (1, 1, 1, 64, 64), "levels": 1},
        {"chunks": (1, 1, 1, 20, 64), "shards": (2, 2, 3, 60, 64), "levels": 1},
    ],
    ids=["raw", "gzip", "blosc", "tiles", "several frames a chunk", "sharded", "shards of many"],
)
def test_however_chunks_are_cut_and_compressed(tmp_path: Path, how: dict[str, Any]) -> None:
    pixels = write_image(tmp_path / "image.zarr", **how)
    with open_dataset(tmp_path / "image.zarr") as dataset:
        assert len(dataset) == 12
        assert_holds(dataset, pixels, "tczyx")


def test_pixels_in_another_byte_order_are_read(tmp_path: Path) -> None:
    pixels = write_image(tmp_path / "image.zarr", version="0.4", dtype=">u2", levels=1)
    with open_dataset(tmp_path / "image.zarr") as dataset:
        assert_holds(dataset, pixels, "tczyx")


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_a_plate_by_iohub(tmp_path: Path, version: str) -> None:
    ngff = pytest.importorskip("iohub.ngff", reason="iohub is not installed")
    path = tmp_path / "plate.zarr"
    pixels = pixels_of((2, 2, 3, 48, 64))
    with ngff.open_ome_zarr(
        path, layout="hcs", mode="w", channel_names=["DAPI", "GFP"], version=version
    ) as plate:
        for field in FIELDS:
            scale = ngff.TransformationMeta(type="scale", scale=[1, 1, 2.0, 0.65, 0.65])
            position = plate.create_position(*field.split("/"))
            position.create_image("0", pixels, transform=[scale])
    with open_dataset(path) as dataset:
        assert len(dataset) == 36
        assert_holds(dataset, pixels, "tczyx", position="B/03/0")
        assert dataset.plan().pixel_um == 0.65


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_a_plate_by_ngio(tmp_path: Path, version: Any) -> None:
    ngio = pytest.importorskip("ngio", reason="ngio is not installed")
    path, pixels = tmp_path / "plate.zarr", {}
    fields = [ngio.ImageInWellPath(row="B", column=3, path=name) for name in ("0", "1")]
    ngio.create_empty_plate(path, name="screen", images=fields, ngff_version=version)
    for seed, field in enumerate(("B/03/0", "B/03/1")):
        pixels[field] = pixels_of((2, 3, 48, 64), seed)
        ngio.create_ome_zarr_from_array(
            path / field,
            pixels[field],
            pixelsize=0.65,
            z_spacing=2.0,
            levels=2,
            axes_names=["c", "z", "y", "x"],
            channels_meta=["DAPI", "GFP"],
            ngff_version=version,
            consolidation_mode="auto",
            overwrite=True,
        )
    with open_dataset(path) as frames:
        assert len(frames) == 2 * 6
        for key in frames.axes_keys():
            at = json.loads(key)
            channel = ["DAPI", "GFP"].index(at["channel"])
            wanted = pixels[at["position"]][channel, at["z"]]
            np.testing.assert_array_equal(frames.read(key).pixels, wanted)
        assert frames.metadata(key)["PixelSizeUm"] == 0.65
        assert frames.metadata(key)["ZPositionUm"] == 4.0


@pytest.mark.parametrize("backend", ["tensorstore", "zarr-python", "acquire-zarr"])
def test_a_plate_by_ome_writers(tmp_path: Path, backend: str) -> None:
    writers = pytest.importorskip("ome_writers", reason="ome-writers is not installed")
    module = {"zarr-python": "zarr", "acquire-zarr": "acquire_zarr"}.get(backend, backend)
    pytest.importorskip(module, reason=f"{backend} is not installed")
    path = tmp_path / "plate.ome.zarr"
    pixels = pixels_of((3, 2, 2, 48, 64))
    settings = writers.AcquisitionSettings(
        root_path=str(path),
        dimensions=[
            writers.Dimension(
                name="p",
                type="position",
                coords=[
                    writers.Position(name=name, plate_row=row, plate_column=column)
                    for name, row, column in (("0", "A", "1"), ("1", "A", "1"), ("0", "B", "3"))
                ],
            ),
            writers.Dimension(name="t", count=2, type="time"),
            writers.Dimension(
                name="c", count=2, type="channel", coords=[writers.Channel(name=n) for n in "ab"]
            ),
            writers.Dimension(name="y", count=48, chunk_size=48, type="space"),
            writers.Dimension(name="x", count=64, chunk_size=64, type="space"),
        ],
        dtype="uint16",
        plate=writers.Plate(row_names=["A", "B"], column_names=["1", "2", "3"]),
        format=writers.OmeZarrFormat(backend=backend),
    )
    with writers.create_stream(settings) as stream:
        for index in np.ndindex(3, 2, 2):
            stream.append(pixels[index])
    with open_dataset(path) as dataset:
        positions = {json.loads(key)["position"] for key in dataset.axes_keys()}
        assert len(dataset) == 12
        assert len(positions) == 3
        for number, position in enumerate(sorted(positions)):
            frame = dataset.read({"position": position, "time": 1, "channel": "b"})
            np.testing.assert_array_equal(frame.pixels, pixels[number, 1, 1])


def test_a_collection_in_the_layout_of_bioformats2raw_keeps_its_order(tmp_path: Path) -> None:
    root = tmp_path / "slides.zarr"
    group = zarr.open_group(root, mode="w", zarr_format=2)
    group.attrs["bioformats2raw.layout"] = 3
    group.require_group("OME").attrs["series"] = ["10", "2"]
    first = write_image(root / "10", version="0.4", seed=1)
    second = write_image(root / "2", version="0.4", seed=2)
    with open_dataset(root) as dataset:
        assert len(dataset) == 24
        assert json.loads(dataset.axes_keys()[0])["position"] == "10"
        assert_holds(dataset, first, "tczyx", position="10")
        assert_holds(dataset, second, "tczyx", position="2")
    (root / "OME" / ".zattrs").unlink()
    with open_dataset(root) as dataset:
        assert json.loads(dataset.axes_keys()[0])["position"] == "2"


def test_one_field_of_a_plate_is_a_dataset_and_its_output_lies_outside_the_plate(
    tmp_path: Path,
) -> None:
    from refocusd.datasets.dataset import output_for

    pixels = write_plate(tmp_path / "plate.zarr")
    with open_dataset(tmp_path / "plate.zarr" / "B" / "03" / "0") as dataset:
        assert_holds(dataset, pixels["B/03/0"], "tczyx")
        assert output_for(dataset) == tmp_path / "plate_B_03_0_refocused.zarr"
    with open_dataset(tmp_path / "plate.zarr") as dataset:
        assert output_for(dataset) == tmp_path / "plate_refocused.zarr"


def test_frames_that_were_never_written_are_no_frames(tmp_path: Path) -> None:
    """A stopped acquisition leaves room in its arrays, which is not refocused."""
    write_image(tmp_path / "image.zarr")
    shutil.rmtree(tmp_path / "image.zarr" / "0" / "c" / "1")
    with open_dataset(tmp_path / "image.zarr") as dataset:
        assert len(dataset) == 6
        assert "its arrays have room for 6 frames never written" in dataset.source
        with pytest.raises(InputError, match="has no frame"):
            dataset.read({"time": 1, "channel": "DAPI", "z": 0})


def test_frames_that_a_shard_does_not_hold_are_no_frames(tmp_path: Path) -> None:
    write_image(
        tmp_path / "image.zarr", levels=1, chunks=(1, 1, 1, 48, 64), shards=(2, 2, 3, 48, 64)
    )
    array = zarr.open_array(tmp_path / "image.zarr" / "0", mode="r+")
    array[1] = 0
    with open_dataset(tmp_path / "image.zarr") as dataset:
        assert {json.loads(key)["time"] for key in dataset.axes_keys()} == {0}


def test_names_of_channels_that_are_not_unique_are_numbers(tmp_path: Path) -> None:
    write_image(tmp_path / "image.zarr", channels=("DAPI", "DAPI"))
    with open_dataset(tmp_path / "image.zarr") as dataset:
        channels = {json.loads(key)["channel"] for key in dataset.axes_keys()}
        assert channels == {0, 1}
        assert dataset.summary["ChNames"] == ["DAPI", "DAPI"]


def test_scales_in_other_units_and_of_the_whole_image_count(tmp_path: Path) -> None:
    write_image(tmp_path / "image.zarr", axes="zyx")
    place = tmp_path / "image.zarr" / "zarr.json"
    said = json.loads(place.read_text())
    image = said["attributes"]["ome"]["multiscales"][0]
    for axis in image["axes"]:
        axis["unit"] = "nanometer"
    image["coordinateTransformations"] = [{"type": "scale", "scale": [10.0, 100.0, 100.0]}]
    place.write_text(json.dumps(said))
    with open_dataset(tmp_path / "image.zarr") as dataset:
        assert dataset.summary["PixelSize_um"] == pytest.approx(0.065)
        assert dataset.summary["z-step_um"] == pytest.approx(0.02)


def of_image(store: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the metadata of an image; written with a byte-order mark, as some editors do."""
    place = store / "zarr.json"
    said = json.loads(place.read_text())
    change(said["attributes"]["ome"]["multiscales"][0])
    place.write_text(json.dumps(said), encoding="utf-8-sig")


@pytest.mark.parametrize(
    ("said", "pixel_um", "step_um"),
    [
        (None, None, None),
        ("none", None, None),
        ([{"type": "identity"}, 3], None, None),
        ([{"type": "scale", "path": "scales"}], None, None),
        ([{"type": "scale", "scale": ["2", "0.65", "0.65"]}], 0.65, 2.0),
        ([{"type": "scale", "scale": [None, 0.65, 0.65]}], 0.65, None),
        ([{"type": "scale", "scale": [2, 0.65]}], None, None),
        ([{"type": "scale", "scale": [-2, 0, 1e999]}], None, None),
    ],
)
def test_odd_transformations_cost_the_scale_and_not_the_pixels(
    tmp_path: Path, said: Any, pixel_um: float | None, step_um: float | None
) -> None:
    pixels = write_image(tmp_path / "image.zarr", axes="zyx", levels=1)

    def change(image: dict[str, Any]) -> None:
        image["datasets"][0]["coordinateTransformations"] = said

    of_image(tmp_path / "image.zarr", change)
    with open_dataset(tmp_path / "image.zarr") as dataset:
        assert dataset.summary.get("PixelSize_um") == pixel_um
        assert dataset.summary.get("z-step_um") == step_um
        np.testing.assert_array_equal(dataset.read({"z": 1}).pixels, pixels[1])


@pytest.mark.parametrize(
    ("unit", "um"), [("um", 1.0), ("µm", 1.0), ("angstrom", 1e-4), (None, 0.0)]
)
def test_units_as_people_write_them_count(tmp_path: Path, unit: str | None, um: float) -> None:
    write_image(tmp_path / "image.zarr", axes="zyx")
    of_image(
        tmp_path / "image.zarr", lambda image: [axis.update(unit=unit) for axis in image["axes"]]
    )
    with open_dataset(tmp_path / "image.zarr") as dataset:
        assert dataset.summary.get("PixelSize_um", 0.0) == pytest.approx(0.65 * um)


@pytest.mark.parametrize(
    ("omero", "names"),
    [
        ({"channels": [{"label": 488}, {"label": 561.5}]}, {"488", "561.5"}),
        ({"channels": [{"label": None}, "GFP"]}, {0, 1}),
        ({"channels": {"label": "a"}}, {0, 1}),
        ([], {0, 1}),
        ("omero", {0, 1}),
    ],
)
def test_how_channels_are_shown_is_no_reason_to_refuse_their_pixels(
    tmp_path: Path, omero: Any, names: set[Any]
) -> None:
    write_image(tmp_path / "image.zarr", channels=("DAPI", "GFP"))
    place = tmp_path / "image.zarr" / "zarr.json"
    said = json.loads(place.read_text())
    said["attributes"]["ome"]["omero"] = omero
    place.write_text(json.dumps(said))
    with open_dataset(tmp_path / "image.zarr") as dataset:
        assert {json.loads(key)["channel"] for key in dataset.axes_keys()} == names


def test_sizes_that_nothing_has_are_one_clear_error(tmp_path: Path) -> None:
    write_image(tmp_path / "image.zarr", channels=("DAPI", "GFP"))
    place = tmp_path / "image.zarr" / "0" / "zarr.json"
    said = json.loads(place.read_text())
    said["shape"][0] = 10**40
    place.write_text(json.dumps(said))
    with pytest.raises(InputError, match=r"image\.zarr"):
        open_dataset(tmp_path / "image.zarr")


def test_two_axes_of_a_type_are_not_one(tmp_path: Path) -> None:
    pixels = write_image(tmp_path / "image.zarr", axes="tzyx")
    of_image(
        tmp_path / "image.zarr", lambda image: image["axes"][0].update(name="view", type="space")
    )
    with open_dataset(tmp_path / "image.zarr") as dataset:
        assert len(list(dataset)) == len(dataset) == pixels.shape[0] * pixels.shape[1]
        assert np.array_equal(dataset.read({"view": 1, "z": 2}).pixels, pixels[1, 2])


@pytest.mark.skipif(sys.platform == "win32", reason="a pipe has no place in a folder there")
@pytest.mark.parametrize("put", [os.mkdir, os.mkfifo], ids=["folder", "pipe"])
@pytest.mark.parametrize("chunks", [None, (1, 1, 8, 8)], ids=["whole", "tiles"])
def test_what_is_no_file_is_no_chunk(tmp_path: Path, put: Any, chunks: Any) -> None:
    """Zarr reads a folder as zeros, and waits for a pipe forever."""
    write_image(tmp_path / "image.zarr", axes="tzyx", chunks=chunks)
    chunk = tmp_path / "image.zarr" / "0" / "c" / "1" / "2" / "0" / "0"
    chunk.unlink()
    put(chunk)
    with open_dataset(tmp_path / "image.zarr") as dataset:
        assert canonical_axes({"time": 1, "z": 2}) not in dataset
        assert len(dataset) == 5
        assert "room for 1 frame never written" in understood(dataset)


def test_wells_that_a_plate_names_and_does_not_have_are_reported(tmp_path: Path) -> None:
    write_plate(tmp_path / "plate.zarr")
    shutil.rmtree(tmp_path / "plate.zarr" / "B" / "03")
    with open_dataset(tmp_path / "plate.zarr") as dataset:
        assert "1 of its wells and images not found, such as B/03" in understood(dataset)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda root: (root / "zarr.json").write_text("{"), "cannot be read as metadata"),
        (lambda root: shutil.rmtree(root / "0"), "not a readable Zarr array"),
        (lambda root: (root / "zarr.json").write_text('{"attributes": {}}'), "without an image"),
    ],
)
def test_a_store_that_is_not_whole_says_what_is_missing(
    tmp_path: Path, spoil: Any, said: str
) -> None:
    write_image(tmp_path / "image.zarr")
    spoil(tmp_path / "image.zarr")
    for inner in (tmp_path / "image.zarr").glob("[01]"):
        if said == "without an image":
            shutil.rmtree(inner)
    with pytest.raises(InputError, match=said):
        open_dataset(tmp_path / "image.zarr")


def test_a_damaged_chunk_costs_its_frame_only(tmp_path: Path) -> None:
    pixels = write_image(tmp_path / "image.zarr")
    (tmp_path / "image.zarr" / "0" / "c" / "0" / "1" / "2" / "0" / "0").write_bytes(b"junk")
    with open_dataset(tmp_path / "image.zarr") as dataset:
        with pytest.raises(InputError, match="cannot be decoded"):
            dataset.read({"time": 0, "channel": "GFP", "z": 2})
        frame = dataset.read({"time": 0, "channel": "GFP", "z": 1})
    np.testing.assert_array_equal(frame.pixels, pixels[0, 1, 1])


@pytest.mark.parametrize("height", [0, 3])
def test_frames_without_an_extent_are_refused(tmp_path: Path, height: int) -> None:
    write_image(tmp_path / "image.zarr", axes="tyx", levels=1)
    shutil.rmtree(tmp_path / "image.zarr" / "0")
    zarr.create_array(
        tmp_path / "image.zarr" / "0", shape=(2, height, 32), dtype="uint16", chunks=(1, 3, 32)
    )
    with pytest.raises(InputError, match="the smallest side taken is 16 px"):
        open_dataset(tmp_path / "image.zarr")


def test_pixels_that_are_no_counts_are_refused(tmp_path: Path) -> None:
    write_image(tmp_path / "image.zarr", dtype="float32")
    with pytest.raises(InputError, match="pixels of type float32; uint8 and uint16 are read"):
        open_dataset(tmp_path / "image.zarr")


def test_a_path_out_of_the_store_is_not_followed(tmp_path: Path) -> None:
    write_image(tmp_path / "secret.zarr")
    write_plate(tmp_path / "plate.zarr", fields=["A/1/0"])
    place = tmp_path / "plate.zarr" / "A" / "1" / "zarr.json"
    text = place.read_text().replace('"path": "0"', '"path": "../../../secret.zarr"')
    place.write_text(text)
    with pytest.raises(InputError, match="without an image"):
        open_dataset(tmp_path / "plate.zarr")


def test_labels_are_no_frames(tmp_path: Path) -> None:
    write_image(tmp_path / "image.zarr", levels=1)
    labels = zarr.open_group(tmp_path / "image.zarr" / "labels", mode="w")
    labels.attrs["ome"] = {"version": "0.5", "labels": ["nuclei"]}
    write_image(tmp_path / "image.zarr" / "labels" / "nuclei", levels=1)
    with open_dataset(tmp_path / "image.zarr") as dataset:
        assert len(dataset) == 12
    for place in ("labels", "labels/nuclei"):
        with pytest.raises(InputError, match="holds labels, not frames: give the image"):
            open_dataset(tmp_path / "image.zarr" / place)


@pytest.mark.parametrize("where", ["https://example.org/plate.zarr", "s3://bucket/plate.zarr"])
def test_an_address_is_refused_as_one(where: str) -> None:
    with pytest.raises(InputError, match="is an address: datasets are read from disks"):
        open_dataset(where)


def test_a_packed_store_is_to_be_unpacked(tmp_path: Path) -> None:
    write_image(tmp_path / "image.zarr", levels=1)
    packed = shutil.make_archive(str(tmp_path / "image.zarr"), "zip", tmp_path / "image.zarr")
    with pytest.raises(InputError, match="is packed: unpack it"):
        open_dataset(packed)

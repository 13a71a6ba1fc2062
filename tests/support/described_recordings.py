"""Recordings of one specimen by every kind of writer, with all metadata that each can hold.

Two positions, two time points, three planes, two channels; every pixel of a frame is its `number`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import product
from pathlib import Path
from typing import Any
from xml.sax.saxutils import quoteattr

import ndstorage
import numpy as np
import pytest
import tifffile
import zarr
from java_ndtiff import JavaNDTiff, JavaStack

from refocusd.frame import Pixels

STARTED = datetime(2024, 5, 6, 7, 8, 9)
NAMES = ("DAPI", "GFP")
PIXEL_UM, STEP_UM, INTERVAL_S, EXPOSURE_MS = 0.65, 2.0, 3.0, 20.0
#: Blue and green: Micro-Manager (alpha first), and OME-XML (alpha last).
CH_COLORS, OME_COLORS = (-16776961, -16711936), (65535, 16711935)
SIDE = 32
#: Position, time, plane, channel.
Place = tuple[int, int, int, int]
SIZES = (2, 2, 3, 2)
PLACES: list[Place] = list(product(*map(range, SIZES)))  # type: ignore[arg-type]


def number(place: Place) -> int:
    """Value of every pixel of the frame at a place."""
    return int(np.ravel_multi_index(place, SIZES)) + 1


def place_of(pixel: int) -> Place:
    """Place of the frame whose pixels have this value."""
    p, t, z, c = (int(at) for at in np.unravel_index(pixel - 1, SIZES))
    return p, t, z, c


def pixels(place: Place) -> Pixels:
    return np.full((SIDE, SIDE), number(place), np.uint16)


def seconds(place: Place) -> float:
    """Time of the frame since the start, s."""
    p, t, z, c = place
    return round(INTERVAL_S * t + 1.25 * p + 0.25 * z + 0.125 * c, 6)


def taken(place: Place) -> datetime:
    return STARTED + timedelta(seconds=seconds(place))


def stage_um(place: Place) -> tuple[float, float, float]:
    p, _, z, _ = place
    return 5000.0 + 1000.0 * p, -200.0 + p, 100.0 + STEP_UM * z


def of_micromanager(place: Place, names: tuple[str, ...] = ("A1", "B2")) -> dict[str, Any]:
    """Micro-Manager's metadata of a frame."""
    p, t, z, c = place
    x, y, where = stage_um(place)
    return {
        "PositionIndex": p,
        "FrameIndex": t,
        "SliceIndex": z,
        "ChannelIndex": c,
        "PositionName": names[p],
        "PixelSizeUm": PIXEL_UM,
        "Exposure-ms": EXPOSURE_MS,
        "ElapsedTime-ms": 1e3 * seconds(place),
        "XPositionUm": x,
        "YPositionUm": y,
        "ZPositionUm": where,
    }


MM_SUMMARY: dict[str, Any] = {
    "Positions": 2,
    "Frames": 2,
    "Slices": 3,
    "Channels": 2,
    "ChNames": list(NAMES),
    "ChColors": list(CH_COLORS),
    "PixelSize_um": PIXEL_UM,
    "z-step_um": STEP_UM,
    "Interval_ms": 1e3 * INTERVAL_S,
    "StartTime": "2024-05-06 07:08:09.000 +0200",
}


def ome_tiff(folder: Path) -> Path:
    """An OME-TIFF as Bio-Formats or tifffile write it."""
    with tifffile.TiffWriter(folder / "a.ome.tif", ome=True) as tiff:
        for p, name in enumerate(("A1", "B2")):
            planes = []
            for place in (each for each in PLACES if each[0] == p):
                x, y, z = stage_um(place)
                planes.append(
                    {"ExposureTime": EXPOSURE_MS / 1e3, "DeltaT": seconds(place)}
                    | {"PositionX": x / 1e3, "PositionXUnit": "mm"}
                    | {"PositionY": y, "PositionYUnit": "µm", "PositionZ": z, "PositionZUnit": "µm"}
                )
            stack = [pixels(place) for place in PLACES if place[0] == p]
            tiff.write(
                np.stack(stack).reshape(*SIZES[1:], SIDE, SIDE),
                photometric="minisblack",
                metadata={
                    "axes": "TZCYX",
                    "Name": name,
                    "PhysicalSizeX": 650,
                    "PhysicalSizeXUnit": "nm",
                    "PhysicalSizeY": 650,
                    "PhysicalSizeYUnit": "nm",
                    "PhysicalSizeZ": STEP_UM,
                    "TimeIncrement": INTERVAL_S,
                    "AcquisitionDate": STARTED.isoformat(),
                    "Channel": {"Name": list(NAMES), "Color": list(OME_COLORS)},
                    "Plane": planes,
                },
            )
    return folder / "a.ome.tif"


def imagej(folder: Path) -> Path:
    """An ImageJ hyperstack whose labels name the channels; it has one position."""
    places = [place for place in PLACES if place[0] == 0]
    labels = [f"c:{c + 1}/2 z:{z + 1}/3 t:{t + 1}/2 - {NAMES[c]}" for _, t, z, c in places]
    tifffile.imwrite(
        folder / "b.tif",
        np.stack([pixels(place) for place in places]).reshape(*SIZES[1:], SIDE, SIDE),
        imagej=True,
        resolution=(1 / PIXEL_UM, 1 / PIXEL_UM),
        metadata={"axes": "TZCYX", "unit": "um", "spacing": STEP_UM, "finterval": INTERVAL_S}
        | {"Labels": labels},
    )
    return folder / "b.tif"


def micromanager_stacks(folder: Path) -> Path:
    """Image stacks as Micro-Manager 2 writes them."""
    for p in range(2):
        stack = JavaStack(folder / "c_1" / f"c_1_MMStack_Pos{p}.ome.tif", MM_SUMMARY, SIDE, 12)
        for place in PLACES:
            if place[0] == p:
                _, t, z, c = place
                stack.put((c, z, t, p), pixels(place), of_micromanager(place))
        stack.finish()
    return folder / "c_1"


def separate_files(folder: Path, version: str) -> Path:
    """Separate image files of Micro-Manager."""
    for p, name in enumerate(("A1", "B2")):
        inside = folder / "s_1" / (f"Pos{p}" if version == "1.4" else name)
        inside.mkdir(parents=True)
        summary = dict(MM_SUMMARY)
        if version == "1.4":
            summary["Time"] = summary.pop("StartTime")
        notes: dict[str, Any] = {"Summary": summary}
        for place in PLACES:
            if place[0] != p:
                continue
            _, t, z, c = place
            said = of_micromanager(place)
            if version == "1.4":
                file = f"img_{t:09d}_{NAMES[c]}_{z:03d}.tif"
                notes[f"FrameKey-{t}-{c}-{z}"] = said | {"FileName": file}
            else:
                file = f"img_channel{c:03d}_position{p:03d}_time{t:09d}_z{z:03d}.tif"
                notes[f"Metadata-{inside.name}/{file}"] = said
            tifffile.imwrite(inside / file, pixels(place), imagej=True)
        (inside / "metadata.txt").write_text(json.dumps(notes), encoding="utf-8")
    return folder / "s_1"


def separate_files_14(folder: Path) -> Path:
    return separate_files(folder, "1.4")


def separate_files_20(folder: Path) -> Path:
    return separate_files(folder, "2.0")


def pycromanager(folder: Path) -> Path:
    """An NDTiff dataset of pycromanager: frames have the core's time and the intended positions."""
    data = ndstorage.NDTiffDataset(str(folder / "d"), name=None, writable=True)
    data.initialize({"Interval_ms": 1e3 * INTERVAL_S, "DateAndTime": "2024/05/06 07:08:09"})
    for place in PLACES:
        p, t, z, c = place
        where = dict(zip("XYZ", stage_um(place), strict=True))
        said: dict[str, Any] = {f"{axis}Position_um_Intended": um for axis, um in where.items()}
        said |= {"PixelSizeUm": PIXEL_UM, "Exposure": EXPOSURE_MS, "PositionName": ("A1", "B2")[p]}
        said["TimeReceivedByCore"] = f"{taken(place):%Y-%m-%d %H:%M:%S.%f}"
        data.put_image({"position": p, "time": t, "z": z, "channel": NAMES[c]}, pixels(place), said)
    data.finish()
    data.close()
    return folder / "d"


def ndtiff_of_the_gui(folder: Path) -> Path:
    """An NDTiff dataset of Micro-Manager 2, whose channels are numbers."""
    data = JavaNDTiff(folder / "g_1", "g", MM_SUMMARY)
    for place in PLACES:
        axes = dict(zip(("position", "time", "z", "channel"), place, strict=True))
        data.put(axes, pixels(place), of_micromanager(place))
    data.finish()
    return folder / "g_1"


def _metaseries(place: Place) -> str:
    x, y, z = stage_um(place)
    when = taken(place)
    said = {
        "spatial-calibration-x": PIXEL_UM,
        "spatial-calibration-units": "um",
        "stage-position-x": x,
        "stage-position-y": y,
        "z-position": z,
        "_IllumSetting_": NAMES[place[3]],
        "acquisition-time-local": f"{when:%Y%m%d %H:%M:%S}.{when.microsecond // 1000}",
    }
    props = "".join(
        f'<prop id="{name}" type="x" value={quoteattr(str(value))}/>'
        for name, value in said.items()
    )
    exposure = f'<prop id="Description" type="string" value="Exposure: {EXPOSURE_MS:g} ms&#13;"/>'
    return f"<MetaData>{exposure}<PlaneInfo>{props}</PlaneInfo></MetaData>"


def metamorph(folder: Path) -> Path:
    """A series of MetaMorph: planes are the pages of its files."""
    inside = folder / "mm"
    inside.mkdir()
    for p, t, c in product(range(2), range(2), range(2)):
        with tifffile.TiffWriter(inside / f"exp_w{c + 1}{NAMES[c]}_s{p + 1}_t{t + 1}.TIF") as tiff:
            for z in range(3):
                place = (p, t, z, c)
                tiff.write(
                    pixels(place),
                    contiguous=False,
                    description=_metaseries(place),
                    metadata=None,
                    photometric="minisblack",
                )
    lines = ['"NDInfoFile", Version 1.0', '"Stage1", "A1"', '"Stage2", "B2"', '"ZStepSize", 2,0']
    (inside / "exp.nd").write_text("\r\n".join(lines), encoding="cp1252")
    return inside


def imagexpress(folder: Path) -> Path:
    """A plate of ImageXpress."""
    for place in PLACES:
        p, t, z, c = place
        inside = folder / "ix" / f"TimePoint_{t + 1}" / f"ZStep_{z + 1}"
        inside.mkdir(parents=True, exist_ok=True)
        file = inside / f"plate_{('A01', 'B02')[p]}_s1_w{c + 1}.tif"
        tifffile.imwrite(file, pixels(place), description=_metaseries(place), metadata=None)
    return folder / "ix"


_BTS = 'xmlns:bts="http://www.yokogawa.co.jp/BTS/BTSSchema/1.0"'


def yokogawa(folder: Path) -> Path:
    """A plate of a CellVoyager, with its metadata files."""
    inside = folder / "yk"
    inside.mkdir()
    records, channels, detail = "", "", ""
    for place in PLACES:
        p, t, z, c = place
        well = ("A01", "B02")[p]
        name = f"exp_{well}_T{t + 1:04}F001L01A01Z{z + 1:02}C{c + 1:02}.tif"
        tifffile.imwrite(inside / name, pixels(place), metadata=None)
        x, y, um = stage_um(place)
        records += (
            f'<bts:MeasurementRecord bts:Type="IMG" bts:Time="{taken(place).isoformat()}+02:00" '
            f'bts:Ch="{c + 1}" bts:X="{x}" bts:Y="{y}" bts:Z="{um}">{name}</bts:MeasurementRecord>'
        )
    for c, name in enumerate(NAMES, start=1):
        channels += f'<bts:Channel bts:Ch="{c}" bts:Target="{name}" bts:ExposureTime="20"/>'
        detail += (
            f'<bts:MeasurementChannel bts:Ch="{c}" bts:HorizontalPixelDimension="{PIXEL_UM}"/>'
        )
    for name, text in {
        "MeasurementData.mlf": f"<bts:MeasurementData {_BTS}>{records}</bts:MeasurementData>",
        "exp.mes": f"<bts:MeasurementSetting {_BTS}>{channels}</bts:MeasurementSetting>",
        "MeasurementDetail.mrf": f'<bts:MeasurementDetail bts:BeginTime="{STARTED.isoformat()}+02:00" '
        f"{_BTS}>{detail}</bts:MeasurementDetail>",
    }.items():
        (inside / name).write_text('<?xml version="1.0" encoding="utf-8"?>' + text, "utf-8")
    return inside


def pymmcore_plus_files(folder: Path) -> Path:
    """The image files of pymmcore-plus."""
    inside = folder / "pm"
    inside.mkdir()
    plan = {
        "channels": [{"config": name} for name in NAMES],
        "z_plan": {"range": 4.0, "step": STEP_UM},
        "time_plan": {"interval": INTERVAL_S, "loops": 2},
    }
    said = {}
    for place in PLACES:
        p, t, z, c = place
        name = f"{number(place):05}_t{t:04}_p{p:03}_c{c:02}_z{z:03}.tif"
        tifffile.imwrite(inside / name, pixels(place), metadata=None)
        said[name] = {
            "pixel_size_um": PIXEL_UM,
            "exposure_ms": EXPOSURE_MS,
            "runner_time_ms": 1e3 * seconds(place),
            "position": dict(zip("xyz", stage_um(place), strict=True)),
            "mda_event": {"pos_name": ("A1", "B2")[p]},
        }
    (inside / "_useq_MDASequence.json").write_text(json.dumps(plan), encoding="utf-8")
    (inside / "_frame_metadata.json").write_text(json.dumps(said), encoding="utf-8")
    return inside


def _described_image(group: Any, p: int, version: str, name: str = "") -> None:
    """Write an OME-Zarr image; its arrays belong to one position."""
    stack = np.stack([pixels(place) for place in PLACES if place[0] == p])
    array = group.create_array(
        "0", shape=(*SIZES[1:], SIDE, SIDE), chunks=(1, 1, 1, SIDE, SIDE), dtype="uint16"
    )
    array[:] = stack.reshape(array.shape)
    axes = [{"name": "t", "type": "time", "unit": "second"}]
    axes += [{"name": "z", "type": "space", "unit": "micrometer"}, {"name": "c", "type": "channel"}]
    axes += [{"name": name_, "type": "space", "unit": "micrometer"} for name_ in "yx"]
    scale = {"type": "scale", "scale": [INTERVAL_S, STEP_UM, 1.0, PIXEL_UM, PIXEL_UM]}
    window = {"min": 0, "max": 65535, "start": 0, "end": 900}
    multiscale: dict[str, Any] = {
        "axes": axes,
        "datasets": [{"path": "0", "coordinateTransformations": [scale]}],
    }
    if name:
        multiscale["name"] = name
    said: dict[str, Any] = {
        "multiscales": [multiscale],
        "omero": {
            "channels": [
                {"label": label, "color": f"{colour & 0xFFFFFF:06X}", "window": window}
                for label, colour in zip(NAMES, CH_COLORS, strict=True)
            ]
        },
    }
    if version == "0.4":
        multiscale["version"] = version
        group.attrs.update(said)
    else:
        group.attrs["ome"] = {"version": version, **said}


def _plate(folder: Path, version: str) -> Path:
    form: Any = 2 if version == "0.4" else 3
    plate = zarr.open_group(folder / "e.zarr", mode="w", zarr_format=form)

    def tell(group: Any, said: dict[str, Any]) -> None:
        group.attrs.update(said if form == 2 else {"ome": {"version": version, **said}})

    wells = [{"path": f"{r}/{i + 1}", "rowIndex": i, "columnIndex": i} for i, r in enumerate("AB")]
    names = {"rows": [{"name": n} for n in "AB"], "columns": [{"name": n} for n in "12"]}
    tell(plate, {"plate": {**names, "wells": wells, "name": "e", "version": version}})
    for p, well in enumerate(wells):
        group = plate.require_group(str(well["path"]))
        tell(group, {"well": {"images": [{"path": "0"}], "version": version}})
        _described_image(group.require_group("0"), p, version)
    return folder / "e.zarr"


def ome_zarr_04(folder: Path) -> Path:
    return _plate(folder, "0.4")


def ome_zarr_05(folder: Path) -> Path:
    return _plate(folder, "0.5")


def bioformats2raw(folder: Path) -> Path:
    """A collection with OME-XML beside its images."""
    root = folder / "bf.zarr"
    group = zarr.open_group(root, mode="w", zarr_format=2)
    group.attrs["bioformats2raw.layout"] = 3
    group.require_group("OME").attrs["series"] = ["0", "1"]
    ome_tiff(folder)
    with tifffile.TiffFile(folder / "a.ome.tif") as tiff:
        (root / "OME" / "METADATA.ome.xml").write_text(str(tiff.ome_metadata), encoding="utf-8")
    (folder / "a.ome.tif").unlink()
    for p in range(2):
        _described_image(group.require_group(str(p)), p, "0.4")
    return root


def ome_writers(folder: Path) -> Path:
    """An OME-Zarr as pymmcore-plus writes it, through ome-writers."""
    writers: Any = pytest.importorskip("ome_writers", reason="ome-writers is not installed")
    space = {"type": "space", "unit": "micrometer"}
    settings = writers.AcquisitionSettings(
        root_path=str(folder / "ow.ome.zarr"),
        dimensions=[
            writers.Dimension(
                name="p", type="position", coords=[writers.Position(name=n) for n in ("A1", "B2")]
            ),
            writers.Dimension(name="t", count=2, type="time", unit="second", scale=INTERVAL_S),
            writers.Dimension(name="z", count=3, scale=STEP_UM, **space),
            writers.Dimension(
                name="c", count=2, type="channel", coords=[writers.Channel(name=n) for n in NAMES]
            ),
            writers.Dimension(name="y", count=SIDE, chunk_size=SIDE, scale=PIXEL_UM, **space),
            writers.Dimension(name="x", count=SIDE, chunk_size=SIDE, scale=PIXEL_UM, **space),
        ],
        dtype="uint16",
        format=writers.OmeZarrFormat(backend="zarr-python"),
    )
    with writers.create_stream(settings) as stream:
        for place in PLACES:
            x, y, z = stage_um(place)
            said = {"delta_t": seconds(place), "exposure_time": EXPOSURE_MS / 1e3}
            said |= {"position_x": x, "position_y": y, "position_z": z}
            stream.append(pixels(place), frame_metadata=said)
        about = stream.get_metadata()
        for attributes in about.values():
            attributes["pymmcore_plus"] = {"summary_metadata": {"datetime": STARTED.isoformat()}}
        stream.update_metadata(about)
    return folder / "ow.ome.zarr"


@dataclass(frozen=True)
class Recorded:
    """A writer, the metadata that its format cannot hold, and its names of the positions."""

    write: Callable[[Path], Path]
    lacks: frozenset[str] = frozenset()
    positions: tuple[str, ...] = ("A1", "B2")

    def __str__(self) -> str:
        return self.write.__name__


def every_kind() -> Iterator[Recorded]:
    """All writers; `start`, `times`, `exposure`, `stage`, `interval`, `colours` may be missing."""
    yield Recorded(ome_tiff)
    yield Recorded(
        imagej, frozenset({"start", "exposure", "stage", "colours", "position", "times"}), ("",)
    )
    for write in (micromanager_stacks, separate_files_14, separate_files_20, ndtiff_of_the_gui):
        yield Recorded(write)
    yield Recorded(pycromanager, frozenset({"colours"}))
    yield Recorded(metamorph, frozenset({"interval", "colours"}))
    yield Recorded(imagexpress, frozenset({"interval", "colours"}), ("A01_s1", "B02_s1"))
    yield Recorded(yokogawa, frozenset({"interval", "colours"}), ("A01_F001", "B02_F001"))
    yield Recorded(pymmcore_plus_files, frozenset({"start", "colours"}))
    for write in (ome_zarr_04, ome_zarr_05):
        lacks = frozenset({"start", "times", "exposure", "stage"})
        yield Recorded(write, lacks, ("A/1/0", "B/2/0"))
    yield Recorded(bioformats2raw)
    yield Recorded(ome_writers, frozenset({"colours"}))

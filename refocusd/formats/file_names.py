"""Which frame each image file of a folder is: by its name, or by Micro-Manager's files beside it."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from refocusd.errors import InputError
from refocusd.files import read_limited, reading
from refocusd.formats.metadata import finite_number, java_text, json_object
from refocusd.formats.plates import YOKOGAWA, natural, plate_images, time_folders
from refocusd.formats.refocused_name import REFOCUSED_NAME
from refocusd.formats.tiff.micromanager import named_axes, said_axes
from refocusd.formats.tiff.separate_files import METADATA_FILE, entries_in, is_image_name
from refocusd.formats.yokogawa import Measurement, measurement_in
from refocusd.frame import AxisValue, counted

_TIFF_ENDINGS = (".tif", ".tiff", ".btf", ".tf8", ".tf2", ".stk")
PNG_ENDINGS = (".png",)

#: Files of BBBC006v1 (Ljosa et al. 2012, https://bbbc.broadinstitute.org/BBBC006);
#: the text after the channel differs from plane to plane.
_BBBC006_FILE = re.compile(
    r"(?:(?P<z>\d\d)_)?mcf-z-stacks-03212011_(?P<well>[a-p]\d\d)_s(?P<site>\d+)_w(?P<channel>\d)"
    r"[0-9a-f-]*",
    re.IGNORECASE,
)
_BBBC006_FOLDER = re.compile(r"BBBC006_v1_images_z_(\d\d)", re.IGNORECASE)
#: 20x objective, 2x2 binning, 2 um between planes, plane 16 in focus.
_BBBC006_SUMMARY = {"z-step_um": 2.0, "PixelSize_um": 0.645}

#: Larger metadata files beside the images are not read.
_MOST_METADATA_BYTES = 1 << 28
#: Files beside the images of pymmcore-plus: the plan, and the metadata of each image.
_USEQ_FILES = ("_useq_MDASequence.json", "_frame_metadata.json")
_USEQ_NAMES = {
    "pixel_size_um": "PixelSizeUm",
    "exposure_ms": "Exposure-ms",
    "runner_time_ms": "ElapsedTime-ms",
}
#: Part of a date or a time in the name of a file.
_CLOCK = re.compile(r"[0-5]\d|(?:19|20)\d\d")
#: Separate image files of Micro-Manager 1.4: time, name of the channel, z.
_MICROMANAGER_14 = re.compile(r"img_(\d{9})_(.*)_(\d{3})")
#: Tokens of file names, as in ``img_channel000_position000_time000000000_z000``.
_TOKEN = re.compile(
    r"(?:^|[_\-. ])(channel|position|time|ch|xy|pos|[ztcp])(\d{1,9})(?=[_\-. ]|$)", re.IGNORECASE
)
#: Tokens without anything between them, as NIS-Elements writes ``exp_t001xy1z02c1``.
_TOKENS_TOGETHER = re.compile(
    r"(?<![^_\-. ])(?:(?:channel|position|time|ch|xy|pos|[ztcp])\d{1,9}){2,}(?=[_\-. ]|$)",
    re.IGNORECASE,
)
#: The same behind a prefix that ends without any, of NIS-Elements' own tokens: ``exp1t001xy1c2``.
_TOKENS_AT_END = re.compile(r"(.*?)((?:(?:xy|[tzc])\d{1,9}){2,})", re.IGNORECASE)
_TOKEN_AXES = {
    "channel": "channel",
    "ch": "channel",
    "c": "channel",
    "position": "position",
    "pos": "position",
    "p": "position",
    "xy": "position",
    "time": "time",
    "t": "time",
    "z": "z",
}


@dataclass(frozen=True, slots=True)
class NamedFile:
    """A file, the axes that its name gives its frames, and metadata from beside it."""

    path: Path
    axes: Mapping[str, AxisValue] = field(default_factory=dict)
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class NamedFiles:
    """Image files in acquisition order.

    Parameters
    ----------
    files : sequence of NamedFile
        At least one.
    source : str
        What said which frame each file is; empty if the files themselves do.
    whole : bool
        The names give all axes: each file is one frame, or a stack of planes if its name gives no z.
        Otherwise the files' own metadata come first.
    summary : mapping
        What is known about the whole acquisition.
    pngs : int
        Number of PNG files beside TIFFs; they are left out.
    """

    files: Sequence[NamedFile]
    source: str = ""
    whole: bool = False
    summary: Mapping[str, Any] = field(default_factory=dict)
    pngs: int = 0


def files_in(folder: Path) -> NamedFiles:
    """The image files of a folder, or of the folders of a plate or a run in it.

    Raises
    ------
    InputError
        If there are none, or a plate's files are named in two ways.
    """
    files = listed_images(folder)
    if files:  # an ImageXpress plate has projections of its planes beside their folders
        places = [place for place in time_folders(folder) if place != folder]
        files += [file for place in places for file in listed_images(place)]
    if not files:
        inner = [
            entry
            for entry in _entries(folder)
            if entry.is_dir() and not REFOCUSED_NAME.search(entry.name)
        ]
        planes = [entry for entry in inner if _BBBC006_FOLDER.fullmatch(entry.name)]
        positions = [entry for entry in inner if (entry / METADATA_FILE).is_file()]
        if (
            positions
        ):  # one of them may have lost its metadata, and its frames are told by their names
            positions = [each for each in inner if each in positions or _is_position(each)]
        folders = planes or positions or time_folders(folder)
        files = [file for place in folders for file in listed_images(place)]
    if not files and (images := [entry.name for entry in inner if listed_images(entry)]):
        raise InputError(
            f"{folder} holds no dataset, but {counted(len(images), 'folder')} with images ({', '.join(images[:3])}"
            f"{', ...' if len(images) > 3 else ''}): give one of them"
        )
    if not files:
        raise InputError(
            f"{folder} holds no dataset: looked for NDTiff.index, TIFF files "
            f"({', '.join('*' + ending for ending in _TIFF_ENDINGS)}), PNG files and folders "
            "BBBC006_v1_images_z_NN or TimePoint_N; give the folder of a dataset, e.g. run_1, or a file"
        )
    named = _named(files)
    if files[0].suffix.lower() in PNG_ENDINGS:
        return named
    others = (path for place in {path.parent for path in files} for path in _entries(place))
    return replace(named, pngs=sum(path.suffix.lower() in PNG_ENDINGS for path in others))


def _is_position(folder: Path) -> bool:
    """Whether a folder holds separate image files of Micro-Manager, by their names."""
    return any(is_image_name(path.name) for path in listed_images(folder))


def _named(files: Sequence[Path]) -> NamedFiles:
    if plate := _bbbc006(files):
        return NamedFiles(plate, "names of BBBC006", whole=True, summary=_BBBC006_SUMMARY)
    return _separate(files) or _of_plate(files) or _by_tokens(files)


def _of_plate(files: Sequence[Path]) -> NamedFiles | None:
    """Files of a plate reader or of MetaMorph; None if they are others."""
    plate = plate_images(files)
    if plate is None:
        return None
    notes = measurement_in(files[0].parent) if plate.system == YOKOGAWA else Measurement()
    named = [
        NamedFile(
            path, axes, {**({"PositionName": position} if position else {}), **notes.of(path.name)}
        )
        for path, axes, position in plate.frames
    ]
    left_out = f" ({counted(plate.left_out, 'other file')} left out)" if plate.left_out else ""
    summary = {**notes.summary, **({"z-step_um": plate.z_um} if plate.z_um else {})}
    return NamedFiles(named, f"names of {plate.system}{left_out}", whole=True, summary=summary)


def _bbbc006(files: Sequence[Path]) -> list[NamedFile] | None:
    """Name the files of a BBBC006 plate by position, plane and channel; None if they are others."""
    found = [(path, _BBBC006_FILE.fullmatch(path.stem)) for path in files]
    if not all(match for _, match in found):
        return None
    rows = []
    for path, match in found:
        assert match is not None
        folder = _BBBC006_FOLDER.fullmatch(path.parent.name)
        plane = match["z"] or (folder and folder[1])
        position = f"{match['well'].lower()}_s{match['site']}"
        rows.append((position, int(plane) if plane else None, f"w{match['channel']}", path))
    if len({plane is None for _, plane, _, _ in rows}) == 2:
        raise InputError(
            f"{files[0].parent} has BBBC006 files with and without a plane in front of their name: "
            "put those without into folders BBBC006_v1_images_z_NN"
        )
    numbers = {position: index for index, position in enumerate(sorted({row[0] for row in rows}))}
    named = []
    for position, plane, channel, path in sorted(
        rows, key=lambda row: (row[0], row[1] or 0, row[2])
    ):
        axes: dict[str, AxisValue] = {"position": numbers[position], "channel": channel}
        if plane is not None:
            axes["z"] = plane
        named.append(NamedFile(path, axes, {"PositionName": position}))
    return named


def _separate(files: Sequence[Path]) -> NamedFiles | None:
    """Micro-Manager's separate image files, by the ``metadata.txt`` beside them; None if they are others.

    It has an entry for each file, which version 1.4 calls ``FrameKey-t-c-z`` and version 2.0
    ``Metadata-Pos0/name``, and one for the acquisition.  If Micro-Manager was killed, the end of
    ``metadata.txt`` is missing, with the entries of the last files; their names give the axes then.
    """
    folders = list(dict.fromkeys(path.parent for path in files))
    notes = {folder: _notes(folder) for folder in folders}
    numbered = _are_numbered([entries.values() for entries, _ in notes.values()])
    if not any(entries for entries, _ in notes.values()):
        return None
    told = {
        axis
        for entries, _ in notes.values()
        for said in entries.values()
        for axis in said_axes(said)
    }
    by_names = {
        file.path: {axis: value for axis, value in file.axes.items() if axis in told}
        for file in _by_tokens(files).files
    }
    rows = []
    summary = next((each for _, each in notes.values() if each), {})
    for path in files:
        entries, of_folder = notes[path.parent]
        said = entries.get(path.name, {})
        if not (axes := said_axes(said) or by_names[path]):
            return None
        if len(folders) > 1:
            number = axes.get("position") if numbered else None
            axes["position"] = folders.index(path.parent) if number is None else number
        # In the order of acquisition: sorted by file name, channels would be in alphabetical order.
        place = [natural(str(axes.get(axis, 0))) for axis in ("position", "time", "z", "channel")]
        rows.append((place, NamedFile(path, named_axes(axes, of_folder or summary), said)))
    named = [file for _, file in sorted(rows, key=lambda row: row[0])]
    return NamedFiles(named, f"Micro-Manager's {METADATA_FILE}", whole=True, summary=summary)


def _are_numbered(positions: Sequence[Iterable[Mapping[str, Any]]]) -> bool:
    """Whether each position's entries agree on one number, and no two positions share one."""
    numbers = [{said_axes(said).get("position") for said in entries} for entries in positions]
    known = {next(iter(found)) for found in numbers if len(found) == 1} - {None}
    return len(known) == len(positions)


def _notes(folder: Path) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
    """Metadata of each file of a folder by its name, and of the acquisition; empty if there are none."""
    try:
        data = read_limited(folder / METADATA_FILE, _MOST_METADATA_BYTES)
    except OSError:
        return {}, {}
    said = {name: value for _, name, value in entries_in(java_text(data))}
    entries = {
        str(value.get("FileName") or name).rpartition("/")[2]: value
        for name, value in said.items()
        if name.startswith(("FrameKey-", "Metadata-"))
    }
    return entries, said.get("Summary", {})


def _json_in(place: Path) -> dict[str, Any]:
    """The JSON object in a file; empty if there is none."""
    try:
        return (
            json_object(read_limited(place, _MOST_METADATA_BYTES).decode("utf-8", "replace")) or {}
        )
    except OSError:
        return {}


def _of_useq(named: Sequence[NamedFile]) -> NamedFiles:
    """Files of a pymmcore-plus image sequence, with the metadata beside them under Micro-Manager's names."""
    folder = named[0].path.parent
    plan, of_frames = (_json_in(folder / name) for name in _USEQ_FILES)
    summary: dict[str, Any] = {}
    channels = plan.get("channels")
    if isinstance(channels, list) and all(isinstance(each, dict) for each in channels):
        summary["ChNames"] = [str(each.get("config", "")) for each in channels]
    for key, name, said, factor in (
        ("z_plan", "z-step_um", "step", 1.0),
        ("time_plan", "Interval_ms", "interval", 1e3),
    ):
        planned = plan.get(key)
        step = finite_number(planned.get(said)) if isinstance(planned, dict) else None
        if step:
            summary[name] = step * factor
    files = []
    for file in named:
        frame = of_frames.get(file.path.name)
        frame = frame if isinstance(frame, dict) else {}
        metadata = {ours: frame[name] for name, ours in _USEQ_NAMES.items() if name in frame}
        where, event = frame.get("position"), frame.get("mda_event")
        if isinstance(where, dict):
            metadata |= {
                f"{axis.upper()}PositionUm": where[axis] for axis in "xyz" if axis in where
            }
        if isinstance(event, dict) and event.get("pos_name"):
            metadata["PositionName"] = str(event["pos_name"])
        files.append(replace(file, metadata={**frame, **metadata}))
    return NamedFiles(files, "names of pymmcore-plus", whole=True, summary=summary)


def _by_tokens(files: Sequence[Path]) -> NamedFiles:
    """Name the files by tokens of their names, if all names have the same tokens."""
    old = [_MICROMANAGER_14.fullmatch(path.stem) for path in files]
    if all(old):
        parts = [match.groups() for match in old if match]
        named = [
            NamedFile(path, {"time": int(time), "channel": channel or 0, "z": int(z)})
            for path, (time, channel, z) in zip(files, parts, strict=True)
        ]
        return NamedFiles(named, "names of Micro-Manager 1.4")
    at_end = [_TOKENS_AT_END.fullmatch(path.stem) for path in files]
    one_prefix = all(at_end) and len({match[1] for match in at_end if match}) == 1
    stems = [
        match[2] if match and one_prefix else path.stem
        for match, path in zip(at_end, files, strict=True)
    ]
    tokens = [
        [(_TOKEN_AXES[name.lower()], int(value)) for name, value in _TOKEN.findall(stem)]
        for stem in (_TOKENS_TOGETHER.sub(_apart, stem) for stem in stems)
    ]
    first = sorted(axis for axis, _ in tokens[0])
    usable = len(set(first)) == len(first) and all(
        sorted(axis for axis, _ in found) == first for found in tokens
    )
    if not usable:
        return NamedFiles([NamedFile(path) for path in files])
    # Most programs count from 1 in names.
    once = {axis for axis in ("time", "z") if min(dict(each).get(axis, 0) for each in tokens) == 1}
    named = [
        NamedFile(path, {axis: number - (axis in once) for axis, number in found})
        for path, found in zip(files, tokens, strict=True)
    ]
    if first and (files[0].parent / _USEQ_FILES[0]).is_file():
        return _of_useq(named)
    return NamedFiles(named, "tokens of the files' names" if first else "")


def _apart(tokens: re.Match[str]) -> str:
    return re.sub(r"(?<=\d)(?=\D)", "_", tokens[0])


def refuse_grid(files: Sequence[Path]) -> None:
    """Refuse files whose names form a grid: they are not a series along one axis.

    Raises
    ------
    InputError
        If most combinations of two or more parts of the names occur once, and nothing says what
        these parts mean.
    """
    parts = [re.findall(r"\d+|[^\W\d_]+", path.stem) for path in files]
    if len({len(each) for each in parts}) > 1:
        return
    # Parts that change together are one: ``A01C01``, ``A02C02``.
    columns = {tuple(map(column.index, column)): column for column in zip(*parts, strict=True)}
    differing = [set(column) for column in columns.values()]
    differing = [values for values in differing if len(values) > 1]
    grid = math.prod(map(len, differing))
    several = len(differing) > 1 and max(map(len, differing)) < len(files)
    # Some of its files may be missing; of dates and times most combinations are.
    dated = all(_CLOCK.fullmatch(value) for values in differing for value in values)
    if several and (grid == len(files) or (grid < 2 * len(files) and not dated)):
        shown = " × ".join(
            ", ".join(sorted(values)[:3]) + (", ..." if len(values) > 3 else "")
            for values in differing
        )
        raise InputError(
            f"{files[0].parent} holds {len(files)} files that are no series along one axis: their names "
            f"differ in {len(differing)} parts ({shown}), and nothing says what these are; name them with "
            "_t, _z, _c or _p and a number, such as img_p0_c1.tif, or give one series at a time"
        )


def listed_images(folder: Path) -> list[Path]:
    """List the folder's TIFFs in natural order; if there are none, its PNGs.

    Raises
    ------
    InputError
        If the folder cannot be read, or one of these is not a file.
    """
    files = [path for path in _entries(folder) if not path.name.startswith(".")]
    for endings in (_TIFF_ENDINGS, PNG_ENDINGS):
        chosen = [p for p in files if p.suffix.lower() in endings and not p.is_dir()]
        if odd := [path for path in chosen if not path.is_file()]:
            raise InputError(
                f"{odd[0]} is not a file (a broken link?): put it back, or move it away"
            )
        if chosen:
            return sorted(chosen, key=lambda path: natural(path.name))
    return []


def _entries(folder: Path) -> list[Path]:
    with reading(folder):
        return sorted(folder.iterdir())

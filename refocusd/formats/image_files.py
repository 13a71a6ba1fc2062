"""Datasets that are finished image files: one, or a folder of them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from refocusd.errors import InputError
from refocusd.formats.dataset import Dataset, Plan
from refocusd.formats.png import PngImageFile
from refocusd.formats.tiff.arrangement import without_constant_axes
from refocusd.formats.tiff.page import PageFormat
from refocusd.formats.tiff.reader import TiffImageFile
from refocusd.frame import AxisValue, Pixels, canonical_axes

__all__ = ["ImageFiles", "listed_images", "open_images"]

_TIFF_ENDINGS = (".tif", ".tiff", ".btf", ".tf8", ".tf2")
_PNG_ENDINGS = (".png",)

#: Files of BBBC006v1 (Ljosa et al. 2012, https://bbbc.broadinstitute.org/BBBC006);
#: what stands behind the channel is another one at each plane.
_BBBC006_FILE = re.compile(
    r"(?:(?P<z>\d\d)_)?mcf-z-stacks-03212011_(?P<well>[a-p]\d\d)_s(?P<site>\d+)_w(?P<channel>\d)"
    r"[0-9a-f-]*",
    re.IGNORECASE,
)
_BBBC006_FOLDER = re.compile(r"BBBC006_v1_images_z_(\d\d)", re.IGNORECASE)
#: 20x objective, 2x2 binning, 2 um between planes, plane 16 in focus.
_BBBC006_PIXEL_UM = 0.645
_BBBC006_SUMMARY = {"z-step_um": 2.0, "PixelSize_um": _BBBC006_PIXEL_UM}

#: Tokens of file names, as in ``img_channel000_position000_time000000000_z000``.
_TOKEN = re.compile(
    r"(?:^|[_\-. ])(channel|position|time|ch|xy|pos|[ztcp])(\d{1,9})(?=[_\-. ]|$)", re.IGNORECASE
)
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


class _ImageFile(Protocol):
    """The frames of one file, found and checked when it was opened."""

    path: Path
    format: PageFormat
    #: Of each frame, with axes of length one; empty for a single image.
    axes: Sequence[Mapping[str, AxisValue]]
    elapsed_ms: Sequence[float | None]
    pixel_um: float | None
    summary: dict[str, Any]

    def read(self, index: int) -> Pixels:
        """Pixels of one frame; opens the file if it is closed."""

    def metadata(self, index: int) -> dict[str, Any]:
        """What the file says of one frame."""

    def close(self) -> None:
        """Close the file until the next `read`."""


@dataclass(frozen=True, slots=True)
class _Named:
    """A file, and what its name says of its frames."""

    path: Path
    axes: Mapping[str, AxisValue] = field(default_factory=dict)
    metadata: Mapping[str, Any] = field(default_factory=dict)


def open_images(path: Path, max_frame_bytes: int, name: str = "") -> Dataset:
    """Open an image file, or a folder of image files.

    A folder is read by its files' names.  Those of BBBC006v1 give position
    (well and site), z and channel.  Otherwise the files' own metadata decides,
    then tokens such as ``_z012`` or ``_t3`` that all names have, then the
    natural order of the names: time for single frames, position for stacks.

    Raises
    ------
    InputError
        If no file can be read as an image, or the files do not fit together.
    """
    if path.is_file():
        return ImageFiles(path, [_Named(path)], max_frame_bytes, name=name)
    files = listed_images(path)
    planes = [
        entry
        for entry in _entries(path)
        if entry.is_dir() and _BBBC006_FOLDER.fullmatch(entry.name)
    ]
    if not files and planes:
        files = [file for plane in planes for file in listed_images(plane)]
    if not files:
        raise InputError(
            f"{path} holds no dataset: looked for NDTiff.index, TIFF files "
            f"({', '.join('*' + ending for ending in _TIFF_ENDINGS)}), PNG files and folders "
            "BBBC006_v1_images_z_NN; give the folder of a dataset, e.g. run_1, or a file"
        )
    if plate := _bbbc006(files):
        return ImageFiles(path, plate, max_frame_bytes, plate=True)
    return ImageFiles(path, _by_tokens(files), max_frame_bytes)


class ImageFiles(Dataset):
    """Image files, each of which is checked at the start.

    One file is open at a time.

    Parameters
    ----------
    path : Path
        File or folder, as the user gave it.
    files : sequence
        The files in acquisition order.
    max_frame_bytes : int
        A frame that claims to be larger is an error.
    name : str
    plate : bool
        The files are of BBBC006: their names give all axes, and each is one frame.

    Raises
    ------
    InputError
        If a file cannot be used, or two of them do not fit together.
    """

    _frames: dict[str, tuple[int, int]]

    def __init__(
        self,
        path: Path,
        files: Sequence[_Named],
        max_frame_bytes: int,
        *,
        name: str = "",
        plate: bool = False,
    ) -> None:
        super().__init__(path, name)
        self._files = files
        self._most_bytes = max_frame_bytes
        self._open: tuple[int, _ImageFile] | None = None
        self._one_format: PageFormat | None = None
        self._summary: dict[str, Any] = dict(_BBBC006_SUMMARY) if plate else {}
        own: list[Sequence[Mapping[str, AxisValue]]] = []
        elapsed: list[float | None] = []
        pixel_um = _BBBC006_PIXEL_UM if plate else None
        for index in range(len(files)):
            image = self._image(index)
            if plate and len(image.axes) != 1:
                raise InputError(
                    f"{image.path} has {len(image.axes)} pages, where one was expected"
                )
            own.append(image.axes)
            elapsed.extend(image.elapsed_ms)
            pixel_um = pixel_um or image.pixel_um
            self._summary = self._summary or image.summary
        places = [(index, frame) for index, axes in enumerate(own) for frame in range(len(axes))]
        axes = [dict(file.axes) for file in files] if plate else _merged(own, files)
        for frame, place in zip(axes, places, strict=True):
            self._add(frame, place)
        self._whole = Plan(tuple(axes), tuple(elapsed), self._image(0).format, pixel_um)

    @property
    def summary(self) -> dict[str, Any]:
        """What the files say of the whole acquisition."""
        return self._summary

    def plan(self) -> Plan:
        """What all frames have in common, and when each was taken."""
        return self._whole

    def close(self) -> None:
        """Close the open file; closing twice does no harm."""
        if self._open is not None:
            self._open[1].close()
            self._open = None

    def _format(self, key: str) -> PageFormat:  # noqa: ARG002
        return self._whole.format

    def _metadata(self, key: str) -> dict[str, Any]:
        file, frame = self._frames[key]
        image = self._image(file)
        metadata = image.metadata(frame)
        if self._whole.pixel_um is not None:
            metadata.setdefault("PixelSizeUm", self._whole.pixel_um)
        return {**metadata, **self._files[file].metadata, "FileName": image.path.name}

    def _pixels(self, key: str) -> Pixels:
        file, frame = self._frames[key]
        return self._image(file).read(frame)

    def _image(self, index: int) -> _ImageFile:
        """Open and check a file; the one before it is closed."""
        if self._open is None or self._open[0] != index:
            self.close()
            path = self._files[index].path
            kind = PngImageFile if path.suffix.lower() in _PNG_ENDINGS else TiffImageFile
            image: _ImageFile = kind(path, self._most_bytes)
            self._one_format = self._one_format or image.format
            if image.format != self._one_format:
                raise InputError(
                    f"{path} has frames of {image.format}, where {self._files[0].path.name} has "
                    f"{self._one_format}: a recording has one format; put the others elsewhere"
                )
            self._open = (index, image)
        return self._open[1]

    def _add(self, axes: Mapping[str, AxisValue], place: tuple[int, int]) -> None:
        key = canonical_axes(axes)
        if key in self._frames:
            names = [self._files[file].path.name for file, _ in (self._frames[key], place)]
            raise InputError(
                f"{self.path} has two frames with the axes {dict(axes)}, in {names[0]} and "
                f"{names[1]}: put one of them elsewhere"
            )
        self._frames[key] = place


def _merged(
    own: Sequence[Sequence[Mapping[str, AxisValue]]], files: Sequence[_Named]
) -> list[dict[str, AxisValue]]:
    """Axes of all frames of all files, unambiguous over the folder."""
    flat = [dict(axes) for file in own for axes in file]
    if len(files) == 1 or _distinct(flat):
        return without_constant_axes(flat)
    single = all(len(file) == 1 for file in own)
    if files[0].axes:
        axes = [
            {**({} if single else frame), **named.axes}
            for file, named in zip(own, files, strict=True)
            for frame in file
        ]
        if _distinct(axes):
            return without_constant_axes(axes)
    if single:
        return [{"time": index} for index in range(len(flat))]
    positions: dict[tuple[int, AxisValue], int] = {}
    axes = []
    for index, file in enumerate(own):
        for frame in file:
            position = positions.setdefault((index, frame.get("position", 0)), len(positions))
            axes.append({**frame, "position": position})
    return without_constant_axes(axes)


def _distinct(axes: Sequence[Mapping[str, AxisValue]]) -> bool:
    return len({canonical_axes(frame) for frame in axes}) == len(axes)


def _bbbc006(files: Sequence[Path]) -> list[_Named] | None:
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
        named.append(_Named(path, axes, {"PositionName": position}))
    return named


def _by_tokens(files: Sequence[Path]) -> list[_Named]:
    """Name the files by tokens of their names, if all names have the same tokens."""
    tokens = [
        [(_TOKEN_AXES[name.lower()], int(value)) for name, value in _TOKEN.findall(path.stem)]
        for path in files
    ]
    first = sorted(axis for axis, _ in tokens[0])
    usable = len(set(first)) == len(first) and all(
        sorted(axis for axis, _ in found) == first for found in tokens
    )
    if not usable:
        return [_Named(path) for path in files]
    return [_Named(path, dict(found)) for path, found in zip(files, tokens, strict=True)]


def listed_images(folder: Path) -> list[Path]:
    """List the folder's TIFFs in natural order; if there is none, its PNGs."""
    files = [path for path in _entries(folder) if not path.name.startswith(".") and path.is_file()]
    for endings in (_TIFF_ENDINGS, _PNG_ENDINGS):
        if chosen := [path for path in files if path.suffix.lower() in endings]:
            return sorted(chosen, key=lambda path: _natural(path.name))
    return []


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError as error:
        raise InputError(
            f"{folder} cannot be read ({error.strerror}): check the path and its permissions"
        ) from error


def _natural(name: str) -> list[tuple[int, str]]:
    """Sort key by which ``z2`` comes before ``z10``."""
    parts = re.findall(r"\d+|\D+", name.lower())
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts]

"""Datasets that are finished image files: one, or a folder of them."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, Protocol

import imagecodecs
import numpy as np

from refocusd.errors import InputError
from refocusd.files import open_shared, reading
from refocusd.formats.dataset import Dataset, Plan
from refocusd.formats.file_names import PNG_ENDINGS, NamedFile, NamedFiles, files_in, refuse_grid
from refocusd.formats.metadata import number_or_none
from refocusd.formats.tiff.arrangement import without_constant_axes
from refocusd.formats.tiff.ome_xml import companion_files
from refocusd.formats.tiff.page import PageFormat
from refocusd.formats.tiff.reader import TiffImageFile
from refocusd.frame import (
    MIN_SIDE,
    Axes,
    AxisValue,
    Pixels,
    canonical_axes,
    checked_pixels,
    counted,
)
from refocusd.profiles.microscope_metadata import pixel_um_of, plausible_pixel_um

#: Key in the summary metadata: path of a TIFF whose large frames are refocused into an OME-Zarr.
RAW_IMAGE = "LargeImageFile"
#: Source of the axes, if there is no other.
_BY_ORDER = "the order of the files' names, which give no axes"
#: OME-XML of a set of OME-TIFFs that hold pixels only.
COMPANION_ENDING = ".companion.ome"


class _ImageFile(Protocol):
    """The frames of one file, found and checked when it was opened."""

    path: Path
    format: PageFormat
    #: Axes of each frame, those of length one included; empty for a single image.
    axes: Sequence[Mapping[str, AxisValue]]
    elapsed_ms: Sequence[float | None]
    pixel_um: float | None
    summary: dict[str, Any]
    #: Where the axes are from.
    source: str
    #: Why a frame cannot be used, though others of the file can, by its index.
    troubles: Mapping[int, str]
    #: Names of the files of the set that it belongs to, if it names them.
    set_files: frozenset[str]
    #: Axes that its frames keep even if they have only one value.
    kept_axes: frozenset[str]

    def read(self, index: int) -> Pixels:
        """Pixels of one frame; opens the file if it is closed."""

    def metadata(self, index: int) -> dict[str, Any]:
        """Metadata of one frame in the file."""

    def close(self) -> None:
        """Close the file until the next `read`."""


def open_images(path: Path, max_frame_bytes: int, name: str = "") -> Dataset:
    """Open an image file, the companion file of a set of them, or a folder of image files.

    A folder is read by its files' names.  Those of BBBC006v1 give position
    (well and site), z and channel, and Micro-Manager's ``metadata.txt`` those of its
    separate image files.  Otherwise the files' own metadata decide, then tokens such as
    ``_z012`` or ``_t3`` that all names have, then the natural order of the names: time for
    single frames, position for stacks.

    Raises
    ------
    InputError
        If no file can be read as an image, or the files do not fit together.
    """
    if path.name.lower().endswith(COMPANION_ENDING):
        named = NamedFiles([NamedFile(file) for file in companion_files(path)])
    else:
        named = NamedFiles([NamedFile(path)]) if path.is_file() else files_in(path)
    return ImageFiles(path, named, max_frame_bytes, name=name)


@dataclass(slots=True)
class _Found:
    """What is read from the files themselves.

    Parameters
    ----------
    pixel_um : float or None
    axes : list of sequence of mapping
        Axes of the frames of each file.
    elapsed_ms : list of float or None
        Of each frame of all files.
    names : list of str
        Of the position of each file's first frame.
    set_files, kept_axes : frozenset of str
        As in `_ImageFile`, of all files together.
    """

    pixel_um: float | None
    axes: list[Sequence[Mapping[str, AxisValue]]] = field(default_factory=list)
    elapsed_ms: list[float | None] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    set_files: frozenset[str] = frozenset()
    kept_axes: frozenset[str] = frozenset()

    def places(self) -> Iterator[tuple[int, int]]:
        """File and page of each frame."""
        return ((file, page) for file, axes in enumerate(self.axes) for page in range(len(axes)))


class ImageFiles(Dataset):
    """Image files, each of which is checked at the start.

    One file is open at a time.  If the files' names say which frame each file is, a file that is
    damaged or not from a camera is an `unfit` frame; so is a page unlike most pages of its file.

    Parameters
    ----------
    path : Path
        File or folder, as the user gave it.
    named : NamedFiles
    max_frame_bytes : int
        A frame that claims to be larger is an error.
    name : str

    Raises
    ------
    InputError
        If a file cannot be used, or two of them do not fit together.
    """

    _frames: dict[str, tuple[int, int]]

    def __init__(
        self,
        path: Path,
        named: NamedFiles,
        max_frame_bytes: int,
        *,
        name: str = "",
    ) -> None:
        super().__init__(path, name)
        files = self._files = named.files
        self._most_bytes = max_frame_bytes
        #: Whether the names tell which frame each file is.
        self._one_each = named.whole
        self._open: tuple[int, _ImageFile] | None = None
        self._one_format: PageFormat | None = None
        self._broken: dict[int, InputError] = {}
        #: Why a frame cannot be used, by its file and page.
        self._troubles: dict[tuple[int, int], str] = {}
        self._summary = dict(named.summary)
        found = self._look_through(named)
        good = next(index for index in range(len(files)) if index not in self._broken)
        image = self._image(good)
        axes, by_names, self.source = _arranged(named, found, len(found.axes[good]), image.source)
        if self._broken and not by_names:
            raise next(iter(self._broken.values()))
        self.source += _left_out(named, found.set_files)
        for place, frame in zip(found.places(), axes, strict=True):
            self._add(frame, place)
        #: What to add to the metadata of each frame of a file.
        self._places = {} if named.whole else self._position_names(found, axes)
        if found.pixel_um:
            self._summary = {**self._summary, "PixelSize_um": found.pixel_um}
        self._whole = Plan(tuple(axes), tuple(found.elapsed_ms), image.format, found.pixel_um)
        self._slides = (
            len(files) == 1
            and isinstance(image, TiffImageFile)
            and image.in_parts
            and not any("position" in frame for frame in axes)
        )
        if self._slides:
            # Their output is written in parts as well, which needs an OME-Zarr.
            self.name += ".zarr"
            self._summary = {**self.summary, RAW_IMAGE: str(self.path)}

    def _look_through(self, named: NamedFiles) -> _Found:
        """Open each file once; the first summary found becomes the dataset's.

        A file that cannot be used is kept in `_broken`, if its name says which frame it is.

        Raises
        ------
        InputError
            If no file can be used, or a file cannot be used and its name does not say which frame it is.
        """
        found = _Found(plausible_pixel_um(pixel_um_of(named.files[0].metadata, named.summary)))
        for index, file in enumerate(named.files):
            try:
                image = self._image(index)
            except InputError as error:
                if not file.axes or len(named.files) == 1:
                    raise
                self._broken[index] = error.with_traceback(None)
                found.axes.append(({},))
                found.elapsed_ms.append(None)
                continue
            said = number_or_none(file.metadata.get("ElapsedTime-ms"))
            found.axes.append(image.axes)
            found.names.append(str(image.metadata(0).get("PositionName", "")))
            found.elapsed_ms += [said] * len(image.axes) if named.whole else image.elapsed_ms
            self._troubles |= {(index, page): why for page, why in image.troubles.items()}
            found.set_files |= image.set_files
            found.kept_axes |= image.kept_axes
            found.pixel_um = found.pixel_um or image.pixel_um
            self._summary = self._summary or image.summary
        if len(self._broken) == len(named.files):
            raise self._broken[0]
        return found

    def _position_names(
        self, found: _Found, axes: Sequence[Mapping[str, AxisValue]]
    ) -> dict[int, dict[str, str]]:
        """Names of positions by the files, each of which is one, where the files give all the same."""
        files: dict[AxisValue, set[int]] = {}
        for (file, _), frame in zip(found.places(), axes, strict=True):
            files.setdefault(frame.get("position", 0), set()).add(file)
        if len(files) < 2 or len(files) != len(found.names) or max(map(len, files.values())) > 1:
            return {}
        if len(set(found.names)) != 1 or not found.names[0]:
            return {}
        stems = (file.path.name.partition(".")[0] for file in self._files)
        return {n: {"PositionName": stem} for n, stem in enumerate(stems)}

    def plan(self) -> Plan:
        """What all frames have in common, and when each was taken."""
        for error in (*self._broken.values(), *map(InputError, self._troubles.values())):
            raise error
        return self._whole

    def unfit(self, key: str) -> str:
        """Why the file or the page of a frame cannot be used; empty if it can."""
        place = self._frames[key]
        if place in self._troubles:
            return f"is a page that cannot be used: {self._troubles[place]}"
        error = self._broken.get(place[0])
        return f"is in a file that cannot be used: {error}" if error else ""

    def is_slide(self, axes: Axes | str) -> bool:
        """Whether frames are large, and stored in strips or tiles of the recording's only file."""
        del axes
        return self._slides

    def read_part(self, axes: Axes | str, rows: slice, columns: slice) -> Pixels:
        """Part of a frame; of a slide, only the strips or tiles that it touches are decoded."""
        file, frame = self._frames[self._key(axes)]
        image = self._image(file)
        if self._slides and isinstance(image, TiffImageFile):
            return image.read_part(frame, rows, columns)
        return super().read_part(axes, rows, columns)

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
        metadata = image.metadata(frame) | self._places.get(file, {})
        if self._whole.pixel_um is not None:
            metadata.setdefault("PixelSizeUm", self._whole.pixel_um)
        return {**metadata, **self._files[file].metadata, "FileName": image.path.name}

    def _pixels(self, key: str) -> Pixels:
        file, frame = self._frames[key]
        return self._image(file).read(frame)

    def _image(self, index: int) -> _ImageFile:
        """Open and check a file; the one that was open before is closed."""
        if self._open is None or self._open[0] != index:
            self.close()
            path = self._files[index].path
            kind = PngImageFile if path.suffix.lower() in PNG_ENDINGS else TiffImageFile
            image: _ImageFile = kind(path, self._most_bytes)
            self._one_format = self._one_format or image.format
            if image.format != self._one_format:
                raise InputError(
                    f"{path} has frames of {image.format}, where {self._files[0].path.name} has "
                    f"{self._one_format}: a recording has one format; put the others elsewhere"
                )
            inner = {axis for frame in image.axes for axis in frame}
            own = inner in ({"z"}, {"time"}) and inner.isdisjoint(self._files[index].axes)
            alone = self._one_each and not own
            if alone and len(image.axes) != 1:
                pages = f"{path} has {len(image.axes)} pages, where one was expected"
                raise InputError(next(iter(image.troubles.values()), pages))
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


def _arranged(
    named: NamedFiles, found: _Found, pages: int, inner: str
) -> tuple[list[dict[str, AxisValue]], bool, str]:
    """Axes of all frames of all files, whether the names gave them, and their source.

    Parameters
    ----------
    named : NamedFiles
    found : _Found
    pages : int
        Number of frames of the first file that can be used.
    inner : str
        Source of the axes within that file.
    """
    if named.whole:
        axes = [
            {**file.axes, **(page if len(own) > 1 else {})}
            for file, own in zip(named.files, found.axes, strict=True)
            for page in own
        ]
        return axes, True, named.source
    axes, by = _merged(found.axes, named.files, found.kept_axes)
    if not by:
        return axes, False, inner
    by_files = (by == "names" and named.source) or _BY_ORDER
    return axes, by == "names", f"{by_files}; {inner}" if pages > 1 else by_files


def _left_out(named: NamedFiles, of_set: frozenset[str]) -> str:
    """Remark on files of the recording, or beside it, that are not read; empty, or with a semicolon first."""
    there = {file.path.name for file in named.files}
    folder = named.files[0].path.parent
    # A set may lie in several folders, which are read one by one.
    absent = {n for n in of_set - there if Path(n).name != n or not (folder / n).exists()}
    said = ""
    if there <= of_set and (lost := sorted(absent)):
        said += f"; {counted(len(lost), 'file')} of the set not found, such as {lost[0]}"
    if there <= of_set and (others := sorted(of_set - there - absent)):
        said += f"; {counted(len(others), 'other file')} of the set left out, such as {others[0]}"
    if named.pngs:
        said += f"; {counted(named.pngs, 'PNG file')} beside the TIFFs left out"
    return said


def _merged(
    own: Sequence[Sequence[Mapping[str, AxisValue]]],
    files: Sequence[NamedFile],
    kept: frozenset[str],
) -> tuple[list[dict[str, AxisValue]], Literal["", "names", "order"]]:
    """Axes of all frames, unique within the folder; and which property of the names decided."""
    flat = [dict(axes) for file in own for axes in file]
    if len(files) == 1 or _distinct(flat):
        return without_constant_axes(flat, kept), ""
    single = all(len(file) == 1 for file in own)
    if files[0].axes:
        axes = [
            {**({} if single else frame), **named.axes}
            for file, named in zip(own, files, strict=True)
            for frame in file
        ]
        if _distinct(axes):
            return without_constant_axes(axes, kept), "names"
    if single:
        _refuse_alike(files)
        refuse_grid([file.path for file in files])
        return [{"time": index} for index in range(len(flat))], "order"
    positions: dict[tuple[int, AxisValue], int] = {}
    axes = []
    for index, file in enumerate(own):
        for frame in file:
            position = positions.setdefault((index, frame.get("position", 0)), len(positions))
            axes.append({**frame, "position": position})
    return without_constant_axes(axes, kept), "names"


def _refuse_alike(files: Sequence[NamedFile]) -> None:
    """Refuse files whose names give the axes of their frames, if two give the same axes.

    Raises
    ------
    InputError
    """
    seen: dict[str, NamedFile] = {}
    alike = [
        (other.path.name, file.path.name)
        for file in files
        if (other := seen.setdefault(canonical_axes(file.axes), file)) is not file
    ]
    if alike and len(seen) > 1:
        raise InputError(
            f"{files[0].path.parent} holds files whose names give the same axes, "
            f"{' and '.join(alike[0])}: these are several series; put each into a folder of its own"
        )


def _distinct(axes: Sequence[Mapping[str, AxisValue]]) -> bool:
    return len({canonical_axes(frame) for frame in axes}) == len(axes)


#: Start of a PNG up to its colour type (W3C PNG specification 11.2.2).
_HEADER = struct.Struct(">8sI4sIIBB")
_SIGNATURE = b"\x89PNG\r\n\x1a\n"


class PngImageFile:
    """An `_ImageFile` of one frame; its header is checked when it is opened.

    Parameters
    ----------
    path : Path
    max_frame_bytes : int
        An image that claims to be larger is an error.

    Raises
    ------
    InputError
        If the file is not a PNG, or not greyscale of 8 or 16 bits.
    """

    set_files: frozenset[str] = frozenset()
    kept_axes: frozenset[str] = frozenset()
    troubles: Mapping[int, str] = MappingProxyType({})

    def __init__(self, path: Path, max_frame_bytes: int) -> None:
        self.path = path
        with reading(path), open_shared(path) as file:
            head = file.read(_HEADER.size)
        if len(head) < _HEADER.size or head[:8] != _SIGNATURE:
            raise InputError(f"{path} is not a PNG file: give a PNG or a TIFF")
        _, _, _, width, height, bits, colour = _HEADER.unpack(head)
        if colour != 0 or bits not in (8, 16):
            raise InputError(
                f"{path} is a PNG in colour or of {bits} bits; refocusd takes greyscale of 8 or 16 "
                "bits: convert it without changing values"
            )
        self.format = PageFormat(height, width, np.dtype(f"u{bits // 8}"))
        if self.format.nbytes > max_frame_bytes or min(width, height) < MIN_SIDE:
            raise InputError(
                f"{path} promises a frame of {self.format}; refocusd takes sides from {MIN_SIDE} px "
                f"and up to {max_frame_bytes} bytes a frame"
            )
        self.source = "nothing in the file"
        self.axes: Sequence[Mapping[str, AxisValue]] = ({},)
        self.elapsed_ms: Sequence[float | None] = (None,)
        self.pixel_um: float | None = None
        self.summary: dict[str, Any] = {}

    def metadata(self, index: int) -> dict[str, Any]:  # noqa: ARG002
        """Empty: the metadata of a PNG are not read."""
        return {}

    def read(self, index: int) -> Pixels:  # noqa: ARG002
        """Pixels of the image; `index` is 0.

        Raises
        ------
        InputError
            If the image cannot be decoded, or has changed.
        """
        try:
            with open_shared(self.path) as file:
                pixels = imagecodecs.png_decode(file.readall())
        except (OSError, RuntimeError, ValueError, MemoryError) as error:
            raise InputError(f"{self.path} is damaged ({error}): copy it again") from error
        if (*pixels.shape, pixels.dtype) != (
            self.format.height,
            self.format.width,
            self.format.dtype,
        ):
            raise InputError(
                f"{self.path} is transparent, or has changed since it was opened: convert it to plain "
                "greyscale without changing values, or open it again"
            )
        return checked_pixels(pixels, what=str(self.path))

    def close(self) -> None:
        """Do nothing: the file is open only while it is read."""

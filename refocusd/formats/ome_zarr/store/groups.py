"""The groups of an OME-Zarr store of any writer: images, plates, collections.

OME-Zarr 0.3 to 0.5, in Zarr 2 (``.zattrs``) and Zarr 3 (``zarr.json``).  Only what is needed is
read, and leniently: writers differ in what they leave out, and a frame must not be lost for it.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import msgspec

from refocusd.errors import InputError
from refocusd.formats.metadata import finite_number

#: Names of the files that make a folder a Zarr group; the first that exists has the attributes.
GROUP_FILES = ("zarr.json", ".zattrs", ".zgroup")
GROUP_NAMES = frozenset(GROUP_FILES)
#: Fields of a plate lie three levels below it: row, column, field.
MAX_DEPTH = 3


class Axis(msgspec.Struct, frozen=True):
    """One dimension of an image."""

    name: str
    type: str | None = None
    unit: str | None = None


class Transformation(msgspec.Struct, frozen=True):
    """A coordinate transformation: only its scale or translation is used."""

    scale: list[float] | None = None
    translation: list[float] | None = None

    @classmethod
    def of(cls, said: Any) -> Transformation:
        """What is said of one, whatever that is: pixels do not need it."""
        said = said if isinstance(said, dict) else {}
        return cls(_numbers(said.get("scale")), _numbers(said.get("translation")))


def _numbers(said: Any) -> list[float] | None:
    """A list of numbers; not-a-number where one is illegible."""
    if not isinstance(said, list):
        return None
    values = (finite_number(each) for each in said)
    return [math.nan if value is None else value for value in values]


class Placed(msgspec.Struct, frozen=True, kw_only=True):
    """What has coordinate transformations, which programs write in odd ways."""

    coordinate: Any = msgspec.field(default=None, name="coordinateTransformations")

    @property
    def transformations(self) -> list[Transformation]:
        """From indices to the specimen; those of a `Multiscale` follow those of each `Level`."""
        said = self.coordinate
        return [Transformation.of(each) for each in said] if isinstance(said, list) else []


class Level(Placed, frozen=True, kw_only=True):
    """One resolution of an image: the path of its array below the image's group."""

    path: str


class Multiscale(Placed, frozen=True, kw_only=True):
    """An image: its axes, and its resolutions, the full one first."""

    datasets: list[Level]
    name: Any = None
    axes: list[Axis | str] | None = None


class Channel(msgspec.Struct, frozen=True):
    """Name and colour of a channel."""

    label: str = ""
    color: Any = None

    @classmethod
    def of(cls, said: Any) -> Channel:
        """What `omero` says about one channel; nothing in it is a reason to refuse the pixels."""
        said = said if isinstance(said, dict) else {}
        label = said.get("label")
        return cls(
            "" if label is None or isinstance(label, bool) else str(label), said.get("color")
        )


class _Path(msgspec.Struct, frozen=True):
    path: str


class _Plate(msgspec.Struct, frozen=True):
    wells: list[_Path]


class _Well(msgspec.Struct, frozen=True):
    images: list[_Path]


class GroupMetadata(msgspec.Struct, frozen=True):
    """The OME metadata of one group.

    Parameters
    ----------
    multiscales, omero
        Of an image.
    plate, well
        Of a plate (its wells), and of a well (its fields).
    series : list of str or None
        Paths of the images of a collection, in order.
    """

    multiscales: list[Multiscale] | None = None
    omero: Any = None
    plate: _Plate | None = None
    well: _Well | None = None
    series: list[str] | None = None

    @property
    def channels(self) -> list[Channel]:
        """Names and colours of an image's channels; empty if they are not described."""
        said = self.omero.get("channels") if isinstance(self.omero, dict) else None
        return [Channel.of(each) for each in said] if isinstance(said, list) else []


def is_store(path: Path) -> bool:
    """Whether a folder is a Zarr group, or may become one because a writer has just begun."""
    return path.is_dir() and any((path / name).is_file() for name in GROUP_FILES)


def store_root(path: Path) -> Path:
    """The outermost Zarr group that a group lies in."""
    root = path
    while root.parent != root and is_store(root.parent):
        root = root.parent
    return root


def document_of(folder: Path) -> Path:
    """The file with the attributes of a group; ``zarr.json`` if it has none of these files."""
    return next(
        (folder / n for n in GROUP_FILES if (folder / n).is_file()), folder / GROUP_FILES[0]
    )


def read_group(folder: Path) -> GroupMetadata | None:
    """The OME metadata of a folder; None if it is no Zarr group.

    Raises
    ------
    InputError
        If its metadata cannot be read.
    """
    if not is_store(folder):
        return None
    said = read_attributes(folder)
    try:
        return msgspec.convert(said.get("ome", said), GroupMetadata)
    except msgspec.ValidationError as error:
        raise _illegible(document_of(folder), error) from error


def read_attributes(group: Path) -> dict[str, Any]:
    """Attributes of a group of Zarr 2 or 3.

    Raises
    ------
    InputError
        If they cannot be read.
    """
    document = document_of(group)
    try:
        said: Any = json.loads(document.read_text(encoding="utf-8-sig") or "{}")
        if document.name == GROUP_FILES[0]:
            said = said.get("attributes", {})
        elif document.name == GROUP_FILES[2]:
            said = {}
        if not isinstance(said, dict):
            raise ValueError("they are no JSON object")  # noqa: TRY004 (of the file)
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        raise _illegible(document, error) from error
    return said


def _illegible(document: Path, error: Exception) -> InputError:
    return InputError(
        f"{document} cannot be read as metadata of OME-Zarr ({error}): repair it, or copy the store "
        "again"
    )


def image_folders(root: Path) -> dict[str, Path]:
    """The images of a store, in its own order, by their path below it; "" is the store itself.

    Those of a plate are ``row/column/field``.  Images that the store names, but that are not there
    (yet), are left out.

    A well or image whose metadata cannot be read counts as an image.

    Raises
    ------
    InputError
        If the metadata of the store itself cannot be read.
    """
    return named_images(root)[0]


def named_images(root: Path) -> tuple[dict[str, Path], list[str]]:
    """As `image_folders`, and the paths of the named wells and images that are not there."""
    named = _images(root, "", MAX_DEPTH)
    there = {place: folder for place, folder in named if folder is not None}
    return there, [place for place, folder in named if folder is None]


def _images(root: Path, place: str, depth: int) -> list[tuple[str, Path | None]]:
    folder = root / place
    try:
        said = read_group(folder)
    except InputError:
        if not place:
            raise
        return [(place, folder)]  # it says what is wrong with it when it is opened
    if said is None:
        return [(place, None)]
    if said.multiscales:
        return [(place, folder)]
    if depth == 0:
        return []
    if said.plate is not None:
        names = [well.path for well in said.plate.wells]
    elif said.well is not None:
        names = [field.path for field in said.well.images]
    else:
        collection = read_group(folder / "OME")
        series = collection.series if collection is not None else None
        names = series if series is not None else _groups_in(folder)
    return [
        image
        for name in names
        if is_below(name)
        for image in _images(root, f"{place}/{name}" if place else name, depth - 1)
    ]


def _groups_in(folder: Path) -> list[str]:
    """Groups of a store that does not describe them, ordered by number if they have one."""
    names = [entry.name for entry in folder.iterdir() if entry.is_dir() and is_store(entry)]
    ours = {"labels", "tables", "OME", "refocusd"}
    return sorted(
        (name for name in names if name not in ours),
        key=lambda name: (not name.isdecimal(), int(name) if name.isdecimal() else 0, name),
    )


def is_below(name: str) -> bool:
    """Whether a path that a file states stays inside the store."""
    parts = Path(name).parts
    return bool(parts) and not Path(name).is_absolute() and ".." not in parts

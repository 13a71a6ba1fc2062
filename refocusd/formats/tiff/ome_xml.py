"""Which page of an OME-TIFF is which frame, by its OME-XML.

Source: OME data model 2016-06, *Pixels*, *TiffData* and *Plane*
(https://docs.openmicroscopy.org/ome-model/latest/).  Only this file's own pages
are used: each file of a set is read by itself.  Of the files that the XML names, only those
in the same folder are looked at.
"""

from __future__ import annotations

import contextlib
import math
import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from refocusd.errors import InputError
from refocusd.files import read_limited, reading
from refocusd.formats.metadata import SECONDS_PER_UNIT, UM_PER_UNIT
from refocusd.formats.tiff.arrangement import MAX_FRAMES, Arrangement, PlacedPage
from refocusd.formats.tiff.strict import StrictTiff
from refocusd.frame import AxisValue, counted
from refocusd.profiles.microscope_metadata import plausible_pixel_um

_AXES = {"T": "time", "Z": "z", "C": "channel"}
#: Larger files of XML are not read; that of a million planes takes about 200 MiB.
_MAX_COMPANION_BYTES = 1 << 28
_MS_PER_UNIT = {unit: 1e3 * seconds for unit, seconds in SECONDS_PER_UNIT.items()}

#: Stands for the number of pages of a file that is being written.
ANY_PAGES = sys.maxsize
#: How OME-XML begins, behind a declaration and comments.
OME_ROOT = re.compile(r"<(?:\w+:)?OME[\s>]")
#: Description of the images of exported refocused frames, which distinguishes them from raw ones.
REFOCUSED = "Refocused frames, exported by refocusd"


@dataclass(frozen=True, slots=True)
class _Image:
    """One Image element, of which this file has pages."""

    name: str | None
    format: tuple[int, int, str]
    frames: tuple[PlacedPage, ...]
    pixel_um: float | None
    summary: Mapping[str, Any]
    #: Axes along which it has several places, whether or not each was acquired.
    several: frozenset[str]


@dataclass(slots=True)
class _Pages:
    """The pages of this file, each of which is one frame at most."""

    filename: str
    uuid: str | None
    count: int
    taken: set[int] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class DescribedImage:
    """Description of an image in an XML file: name, start (ISO 8601), and planes by z, channel, time."""

    name: str
    started: str
    planes: Mapping[tuple[int, int, int], Mapping[str, float]]


def described_images(path: Path) -> list[DescribedImage]:
    """Descriptions, in an OME-XML file, of images that are in other files.

    Raises
    ------
    InputError
        If it cannot be read.
    """
    found = []
    for image in _root(_companion_text(path), str(path)).findall("Image"):
        where = _stage_label(image)
        planes = {}
        for pixels in image.findall("Pixels"):
            for place, plane in _planes(pixels):
                ms = _quantity(plane, "DeltaT", _MS_PER_UNIT, "s")
                time = {} if ms is None or ms < 0 else {"ElapsedTime-ms": ms}
                planes[place] = where | _plane_metadata(plane) | time
        found.append(
            DescribedImage(image.get("Name", ""), image.findtext("AcquisitionDate") or "", planes)
        )
    return found


def companion_of(xml: str, path: Path) -> tuple[str, str | None] | None:
    """OME-XML that describes a file with pixels only, and the file's UUID; None if it has its own.

    Parameters
    ----------
    xml : str
        ImageDescription of the first page.
    path : Path
        The file.

    Raises
    ------
    InputError
        If the file that holds the XML is not beside it.
    """
    if "BinaryOnly" not in xml:
        return None
    root = _root(xml, str(path))
    elsewhere = root.find("BinaryOnly")
    if elsewhere is None:
        return None
    name = elsewhere.get("MetadataFile", "")
    companion = path.with_name(name) if name and Path(name).name == name else None
    if companion is None or not companion.is_file():
        raise InputError(
            f"{path} holds pixels only; its axes are described in {name!r}, which is not beside it: "
            "copy that file there, or export the set as one file"
        )
    return _companion_text(companion), root.get("UUID")


def companion_files(companion: Path) -> list[Path]:
    """Files beside a companion file, ``*.companion.ome``, that hold its pixels, in its order.

    Raises
    ------
    InputError
        If it cannot be read, or a file that it names is missing.
    """
    root = _root(_companion_text(companion), str(companion))
    names = dict.fromkeys(uuid.get("FileName", "") for uuid in root.iter("UUID"))
    places = [companion.with_name(name) for name in names if name and Path(name).name == name]
    if missing := [place.name for place in places if not place.is_file()]:
        raise InputError(
            f"{companion} names {counted(len(missing), 'file')} not beside it, such as {missing[0]}: copy "
            "the whole set"
        )
    if not places:
        raise InputError(f"{companion} names no file with pixels: give that file, or its folder")
    return places


def _companion_text(path: Path) -> str:
    if path.suffix.lower() in (".tif", ".tiff"):  # the file of a set that describes all of them
        with closing(StrictTiff(path)) as tiff:
            return tiff.description(tiff.page(tiff.offsets[0]))
    with reading(path):
        return read_limited(path, _MAX_COMPANION_BYTES).decode("utf-8-sig", "replace")


def from_ome(
    xml: str, pages: int, filename: str, what: str, uuid: str | None = None
) -> Arrangement | None:
    """Frames of an OME-TIFF; None if the text is not OME-XML.

    Images of one size and type are positions of one recording; if there are several
    sizes, that with the most pixels in all is used, and the names of the other images
    go into the summary.

    Parameters
    ----------
    xml : str
        ImageDescription of the first page.
    pages : int
        Pages in the file.
    filename : str
        Bare name of the file, to find its pages in a set.
    what : str
        The file, for errors.
    uuid : str, optional
        The file's own UUID, if the XML is that of a companion file.

    Returns
    -------
    Arrangement or None
        Frames that the XML promises, but that the file does not have, have page numbers from `pages` on.

    Raises
    ------
    InputError
        If the XML contradicts itself, or describes none of the pages.
    """
    root = _root(xml, what)
    if root.tag != "OME":
        return None
    mine = _Pages(filename.lower(), uuid or root.get("UUID"), pages)
    theirs = _is_of_ome_writers(root)
    # ome-writers gives stage positions in um, without the unit.
    unit = "µm" if theirs else ""
    images = [image for one in root.findall("Image") for image in _image(one, mine, what, unit)]
    here = [image for image in images if any(frame.page < pages for frame in image.frames)]
    if not here:
        raise InputError(
            f"{what} has OME-XML that describes none of its {pages} pages: export it anew"
        )
    pixels = Counter[tuple[int, int, str]]()
    for image in here:
        pixels[image.format] += image.format[0] * image.format[1] * len(image.frames)
    largest = max(pixels, key=lambda form: pixels[form])
    frames = _as_positions(image for image in images if image.format == largest)
    first = next(image for image in here if image.format == largest)
    summary = dict(first.summary)
    if mine.uuid:
        summary["UUID"] = mine.uuid
    source = "OME-XML"
    if ignored := [image.name for image in here if image.format != largest]:
        summary["IgnoredImages"] = ignored
        source += f"; {counted(len(ignored), 'image')} of another size left out"
    if pages != ANY_PAGES and (rest := pages - sum(page < pages for page in mine.taken)):
        source += f"; {counted(rest, 'page')} that it does not name left out"
    return Arrangement(
        tuple(sorted(frames, key=lambda frame: frame.page)),
        source,
        first.pixel_um,
        summary,
        promised=largest,
        set_files=frozenset(uuid.get("FileName", "") for uuid in root.iter("UUID")) - {""},
        kept=first.several | {"time"} if theirs else frozenset(),
    )


def _as_positions(images: Iterable[_Image]) -> list[PlacedPage]:
    """Frames of images that are positions, counted over the whole set: each file may hold one."""
    return [
        replace(frame, axes={"position": position, **frame.axes}, position_name=image.name)
        for position, image in enumerate(images)
        for frame in image.frames
    ]


def _is_of_ome_writers(root: ElementTree.Element) -> bool:
    """Whether a document is by ome-writers, which does not name itself.

    For a stopped acquisition it counts only whole time points, and at least one: a time-lapse may
    then look like a stack, though its frames had a time while they were written.
    """
    dated = root.find("Image/AcquisitionDate") is not None
    return dated and "Creator" not in root.attrib and "UUID" in root.attrib


def _root(xml: str, what: str) -> ElementTree.Element:
    """The root of an XML document, without namespaces.

    Raises
    ------
    InputError
    """
    if "<!DOCTYPE" in xml or "<!ENTITY" in xml:
        raise InputError(
            f"{what} has OME-XML with a document type, which OME-XML does not have: export it anew"
        )
    try:
        # Without a document type there are no entities to expand.
        root = ElementTree.fromstring(xml)  # noqa: S314
    except (ElementTree.ParseError, ValueError, RecursionError) as error:
        raise InputError(f"{what} has unreadable OME-XML ({error}): export it anew") from error
    for element in root.iter():
        # Each version of the schema has its own namespace.
        element.tag = element.tag.rpartition("}")[2]
    return root


def _image(
    element: ElementTree.Element, mine: _Pages, what: str, stage_unit: str
) -> Iterator[_Image]:
    where = _stage_label(element)
    for pixels in element.findall("Pixels"):
        sizes = {letter: _count(pixels, f"Size{letter}", what) for letter in "XYZCT"}
        order = pixels.get("DimensionOrder", "XYCZT")
        if sorted(order) != sorted("XYZCT") or order[:2] != "XY":
            raise InputError(
                f"{what} has OME-XML with the dimension order {order!r}: export it anew"
            )
        of_channels = pixels.findall("Channel")
        channels = [child.get("Name") or child.get("Fluor") for child in of_channels]
        named = len(set(channels)) == len(channels) == sizes["C"] and all(channels)
        planes = dict(_planes(pixels))
        frames = []
        for page, place in _places(pixels, order[2:], sizes, mine, what):
            axes: dict[str, AxisValue] = {_AXES[letter]: place[letter] for letter in "TZC"}
            if named:
                axes["channel"] = channels[place["C"]] or ""
            plane = planes.get((place["Z"], place["C"], place["T"]))
            time = None if plane is None else _quantity(plane, "DeltaT", _MS_PER_UNIT, "s")
            if time is not None and time < 0:
                time = None
            said = where | ({} if plane is None else _plane_metadata(plane, stage_unit))
            frames.append(PlacedPage(page, axes, time, metadata=said))
        um = _quantity(pixels, "PhysicalSizeX", UM_PER_UNIT, "µm")
        form = (sizes["Y"], sizes["X"], pixels.get("Type", ""))
        summary = _summary(element, pixels, channels)
        if any("Color" in child.attrib for child in of_channels):
            summary["ChColors"] = [_argb(child.get("Color", "-1")) for child in of_channels]
        um = plausible_pixel_um(um)
        several = frozenset(axis for letter, axis in _AXES.items() if sizes[letter] > 1)
        yield _Image(element.get("Name"), form, tuple(frames), um, summary, several)


def _summary(
    image: ElementTree.Element, pixels: ElementTree.Element, channels: list[str | None]
) -> dict[str, Any]:
    """Metadata of the whole acquisition in an image, under Micro-Manager's names."""
    said = {
        "z-step_um": _quantity(pixels, "PhysicalSizeZ", UM_PER_UNIT, "µm"),
        "Interval_ms": _quantity(pixels, "TimeIncrement", _MS_PER_UNIT, "s"),
        "ChNames": [name or "" for name in channels] if any(channels) else None,
        "StartTime": image.findtext("AcquisitionDate"),
        "refocusd": {"exported": True} if image.findtext("Description") == REFOCUSED else None,
    }
    return {name: value for name, value in said.items() if value}


def _argb(rgba: str) -> int:
    """Micro-Manager's number (0xRRGGBB) for a colour of OME-XML (RGBA); white if illegible."""
    try:
        return int(rgba) >> 8 & 0xFFFFFF
    except ValueError:
        return 0xFFFFFF


def _stage_label(image: ElementTree.Element) -> dict[str, float]:
    """Stage position of an image, if it is given for the image as a whole."""
    label = image.find("StageLabel")
    if label is None:
        return {}
    said = {f"{axis}PositionUm": _quantity(label, axis, UM_PER_UNIT, "") for axis in "XYZ"}
    return {name: value for name, value in said.items() if value is not None}


def _plane_metadata(plane: ElementTree.Element, stage_unit: str = "") -> dict[str, float]:
    """Exposure and stage position of a plane, under Micro-Manager's names."""
    said = {
        "Exposure-ms": _quantity(plane, "ExposureTime", _MS_PER_UNIT, "s"),
        "XPositionUm": _quantity(plane, "PositionX", UM_PER_UNIT, stage_unit),
        "YPositionUm": _quantity(plane, "PositionY", UM_PER_UNIT, stage_unit),
        "ZPositionUm": _quantity(plane, "PositionZ", UM_PER_UNIT, stage_unit),
    }
    return {name: value for name, value in said.items() if value is not None}


def _places(
    pixels: ElementTree.Element, order: str, sizes: dict[str, int], mine: _Pages, what: str
) -> Iterator[tuple[int, dict[str, int]]]:
    """Page and Z, C, T of each plane of one Pixels element that lies in this file."""
    planes = math.prod(sizes[letter] for letter in order)
    blocks = pixels.findall("TiffData")
    if not blocks and planes == mine.count:
        blocks = [ElementTree.Element("TiffData")]  # left out where it would say nothing
    whole = True
    found = 0
    for block in blocks:
        file = block.find("UUID")
        if file is not None and not _is_mine(file, mine):
            whole = False
            continue
        first_page = _index(block, "IFD", what)
        alone = "IFD" in block.attrib
        # Without a count, a single block that names no file stands for all planes, any other for all pages.
        most = planes if file is None and len(blocks) == 1 else min(planes, mine.count)
        length = _index(block, "PlaneCount", what, 1 if alone else most)
        if alone and length == 1:
            whole = False
        start = {letter: _index(block, f"First{letter}", what) for letter in order}
        if first_page + length > max(MAX_FRAMES, mine.count):
            raise _mismatch(what, first_page + length, mine.count)
        for step in range(length):
            place = _advance(
                start, step, order, sizes, open_ended=len(blocks) == 1 and length > planes
            )
            if place is None or first_page + step in mine.taken:
                raise InputError(
                    f"{what} has OME-XML that gives a page twice, or one outside of its sizes: "
                    "export it anew"
                )
            mine.taken.add(first_page + step)
            found += 1
            yield first_page + step, place
    # A list of single planes may stop early, as an aborted acquisition does, and so may one range
    # that counts all pages; another range or nothing at all describes the whole file.
    one_range = len(blocks) == 1 and "PlaneCount" in blocks[0].attrib
    stopped = one_range and (mine.count <= found or mine.count == ANY_PAGES)
    if not blocks or (whole and found < planes and not stopped):
        raise _mismatch(what, planes, found)


def _advance(
    start: dict[str, int], step: int, order: str, sizes: dict[str, int], *, open_ended: bool
) -> dict[str, int] | None:
    """Find the place `step` planes after `start`; None if it is outside.

    For a stopped acquisition, ome-writers counts the whole time points in SizeT, but all planes in
    PlaneCount: those after the last place of an `open_ended` block belong to the next time point.
    """
    if any(start[letter] >= sizes[letter] for letter in order):
        return None
    linear, stride = step, 1
    for letter in order:
        linear += start[letter] * stride
        stride *= sizes[letter]
    place = {}
    for letter in order:
        linear, place[letter] = divmod(linear, sizes[letter])
    if linear and open_ended and all(sizes[each] == 1 for each in order.partition("T")[2]):
        place["T"] += linear * sizes["T"]
        linear = 0
    return None if linear else place


def _planes(
    pixels: ElementTree.Element,
) -> Iterator[tuple[tuple[int, int, int], ElementTree.Element]]:
    """Metadata of single planes, by their Z, C, T."""
    for plane in pixels.findall("Plane"):
        with contextlib.suppress(ValueError):
            z, c, t = (int(plane.get(f"The{letter}", 0)) for letter in "ZCT")
            yield (z, c, t), plane


def _is_mine(uuid: ElementTree.Element, mine: _Pages) -> bool:
    filename = uuid.get("FileName")
    if filename is not None:
        # A file that was renamed keeps its UUID.
        return filename.lower() == mine.filename or (
            mine.uuid is not None and uuid.text == mine.uuid
        )
    return mine.uuid is None or uuid.text == mine.uuid


def _quantity(
    element: ElementTree.Element, name: str, units: dict[str, float], default: str
) -> float | None:
    factor = units.get(element.get(f"{name}Unit", default))
    try:
        value = float(element.get(name, "nan"))
    except ValueError:
        return None
    return value * factor if factor and math.isfinite(value) else None


def _count(element: ElementTree.Element, name: str, what: str) -> int:
    value = _index(element, name, what)
    if not value:
        raise InputError(f"{what} has OME-XML without {name}: export it anew")
    return value


def _index(element: ElementTree.Element, name: str, what: str, default: int = 0) -> int:
    text = element.get(name)
    if text is None:
        return default
    if not text.isascii() or not text.isdigit() or len(text) > 9:
        raise InputError(f"{what} has OME-XML in which {name} is {text!r}: export it anew")
    return int(text)


def _mismatch(what: str, promised: int, present: int) -> InputError:
    return InputError(
        f"{what} is damaged or incomplete: its OME-XML promises {counted(promised, 'plane')}, and it has "
        f"{present}; copy the file again, or export it anew"
    )

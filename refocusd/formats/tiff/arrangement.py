"""Which page of a TIFF is which frame: time, z, channel and position of each.

| written by | what says it | function |
|---|---|---|
| OME-TIFF (Bio-Formats, tifffile, ...) | OME-XML | `ome_xml.from_ome` |
| ImageJ, Fiji | ``key=value`` lines of the first page's description | `from_imagej` |
| tifffile | JSON of the first page's description | `from_shaped` |
| MetaMorph, MetaXpress | pages are planes; XML says the rest | `plain`, `metaseries_metadata` |
| MetaMorph (.stk) | its own tags | `stk.from_stk` |
| anything else | nothing: pages are planes, `z` | `plain` |
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from xml.etree import ElementTree

from refocusd.errors import InputError
from refocusd.formats.metadata import (
    SECONDS_PER_UNIT,
    UM_PER_UNIT,
    finite_number,
    json_object,
    number_or_none,
)
from refocusd.frame import AxisValue, counted
from refocusd.profiles.microscope_metadata import plausible_pixel_um

#: Most frames that a description may announce.
MAX_FRAMES = 1 << 20
#: Letters of tifffile's and OME's axes; S is the samples of a pixel.
_LETTERS = {"T": "time", "Z": "z", "C": "channel", "P": "position", "R": "position"}
_SHAPED = "the description by tifffile"
#: MetaMorph's and MetaXpress' names of numbers, and Micro-Manager's names for these.
_NUMBERS = {
    "z-position": "ZPositionUm",
    "stage-position-x": "XPositionUm",
    "stage-position-y": "YPositionUm",
    "Exposure Time": "Exposure-ms",
}
#: The milliseconds are not padded with zeros.
_TIME = re.compile(r"(\d{4})(\d\d)(\d\d) (\d\d:\d\d:\d\d)\.(\d{1,3})")
_EXPOSURE = re.compile(r"Exposure: ([\d.]+) (ms|s)\b")
#: ImageJ's own prefix of a slice's label.
_IMAGEJ_PLACE = re.compile(r"^(?:[czt]:\d+/\d+ *)+(?:- *)?")


@dataclass(frozen=True, slots=True)
class PlacedPage:
    """One frame of a TIFF.

    Parameters
    ----------
    page : int
        Index of its page in the file; of the first frame's page if the
        arrangement is contiguous.
    axes : dict of str to int or str
        With axes of length one (see `without_constant_axes`).
    elapsed_ms : float or None
        Time since the start of the acquisition, in ms.
    position_name : str or None
    metadata : mapping
        Further metadata of the frame, under Micro-Manager's names.
    """

    page: int
    axes: dict[str, AxisValue]
    elapsed_ms: float | None = None
    position_name: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def said(self, pixel_um: float | None) -> dict[str, Any]:
        """All metadata of the frame, under Micro-Manager's names."""
        said = {
            "ElapsedTime-ms": self.elapsed_ms,
            "PixelSizeUm": pixel_um,
            "PositionName": self.position_name,
            **self.metadata,
        }
        return {name: value for name, value in said.items() if value is not None}


@dataclass(frozen=True, slots=True)
class Arrangement:
    """All frames of a TIFF in acquisition order.

    Parameters
    ----------
    frames : tuple of PlacedPage
    source : str
        Which metadata tell which page is which frame.
    pixel_um : float or None
        Width of a pixel in the specimen, in um.
    summary : dict
        What the file says about the whole acquisition.
    contiguous : bool
        Frames follow the pixels of page 0 without directories of their own
        (ImageJ above 4 GB).
    promised : (int, int, str) or None
        Height, width and type, if they are stated apart from the pages.
    set_files : frozenset of str
        Names of the files that the frames of the whole set lie in, if the file names them.
    kept : frozenset of str
        Axes that its frames keep even if they have only one value.
    """

    frames: tuple[PlacedPage, ...]
    source: str
    pixel_um: float | None = None
    summary: dict[str, Any] = field(default_factory=dict)
    contiguous: bool = False
    promised: tuple[int, int, str] | None = None
    set_files: frozenset[str] = frozenset()
    kept: frozenset[str] = frozenset()


def without_constant_axes(
    axes: Sequence[Mapping[str, AxisValue]], kept: Collection[str] = ()
) -> list[dict[str, AxisValue]]:
    """Axes without those that are the same number in all frames, and not to be `kept`.

    A name that all frames share (the channel's) says something, and stays.  A
    frame that would have none left is ``{"time": 0}``.
    """
    names = {name for frame in axes for name in frame}
    constant = {
        name
        for name in names
        if name not in kept
        and len({frame.get(name) for frame in axes}) == 1
        and isinstance(axes[0].get(name), int)
    }
    left = [{key: frame[key] for key in frame if key not in constant} for frame in axes]
    return left if all(left) else [{"time": 0, **frame} for frame in left]


def plain(pages: int, metadata: Mapping[str, Any] = {}) -> Arrangement:
    """Pages without a description, except metadata of the first: the planes of a z-stack."""
    first = metadata if pages == 1 else {}  # the position of one plane is not that of the next
    frames = tuple(PlacedPage(page, {"z": page}, metadata=first) for page in range(pages))
    source = "the order of the pages, which have no description"
    return Arrangement(frames, source, plausible_pixel_um(metadata.get("PixelSizeUm")))


def from_imagej(
    description: str,
    pages: int,
    resolution: float | None,
    what: str,
    labels: Sequence[str] = (),
    room: float = 0,
) -> Arrangement:
    """Frames of an ImageJ (hyper)stack.

    Parameters
    ----------
    description : str
        The first page's ImageDescription: ``ImageJ=1.54f``, ``slices=5`` ...
    pages : int
        Pages in the file.
    resolution : float or None
        Pixels per unit of length, of the first page.
    what : str
        The file, for errors.
    labels : sequence of str
        Those of the slices, if the file has them.
    room : float
        How many frames may follow the first page's pixels without directories of their own.

    Raises
    ------
    InputError
        If the file has more pages than the description says.
    """
    pairs = (line.partition("=") for line in description.splitlines())
    said = {key.strip(): value.strip() for key, _, value in pairs}
    sizes = _imagej_sizes(said, pages)
    count = math.prod(sizes.values())
    if pages > count or count > MAX_FRAMES:
        raise _mismatch(what, "ImageJ's description", count, pages)
    contiguous = 1 < count <= room
    order = said.get("order", "").lower()
    order = order if sorted(order) == sorted("czt") else "czt"
    # The first letter changes fastest; in product() the last one does.
    names = [_LETTERS[letter.upper()] for letter in reversed(order)]
    axes = _grid(names, [sizes[name] for name in names])
    # ImageJ writes units of time and of z only where they are not seconds and that of x.
    interval = number_or_none(said.get("finterval"))
    seconds = SECONDS_PER_UNIT.get(said.get("tunit", "s").lower())
    ms = interval * seconds * 1000 if interval and seconds else None
    um = UM_PER_UNIT.get(said.get("unit", "").lower())
    z_um = UM_PER_UNIT.get(said.get("zunit", said.get("unit", "")).lower())
    # ImageJ writes a stack that was taken downwards with a negative distance of planes.
    step = number_or_none(said.get("spacing", "").removeprefix("-"))
    summary: dict[str, Any] = {"ImageJ": description}
    if z_um and step and sizes["z"] > 1:
        summary["z-step_um"] = z_um * step
    if ms:
        summary["Interval_ms"] = ms
    if named := _labelled_channels(axes, labels, sizes["channel"]):
        summary["ChNames"] = named
    return Arrangement(
        tuple(
            PlacedPage(0 if contiguous else page, frame, int(frame["time"]) * ms if ms else None)
            for page, frame in enumerate(axes)
        ),
        "ImageJ's description",
        plausible_pixel_um(um / resolution if um and resolution else None),
        summary,
        contiguous=contiguous,
    )


def _imagej_sizes(said: Mapping[str, str], pages: int) -> dict[str, int]:
    """Frames along each axis; if no axis has several, all images, or pages, are planes."""
    sizes = {
        "channel": _whole(said.get("channels")),
        "z": _whole(said.get("slices")),
        "time": _whole(said.get("frames")),
    }
    if math.prod(sizes.values()) == 1:
        images = _whole(said.get("images"))
        sizes["z"] = images if images > 1 else max(1, pages)
    return sizes


def _labelled_channels(
    axes: Sequence[Mapping[str, AxisValue]], labels: Sequence[str], channels: int
) -> list[str]:
    """Names of the channels by the labels of the slices; empty if those do not name channels.

    ImageJ labels slices, not channels: a label is a channel's name if all slices of the channel
    have it, and no other channel.  ``c:1/2 z:3/9 - `` in front of it is ImageJ's own.
    """
    found: list[set[str]] = [set() for _ in range(channels)]
    for frame, label in zip(axes, labels, strict=False):
        found[int(frame["channel"])].add(_IMAGEJ_PLACE.sub("", label).strip())
    names = [next(iter(of_channel)) for of_channel in found if len(of_channel) == 1]
    usable = len(labels) >= len(axes) and len(set(names)) == channels and all(names)
    # The one slice of a single image is labelled by its file.
    return names if usable and (channels > 1 or len(axes) > 1) else []


def from_shaped(
    description: str, pages: int, size: tuple[int, int], what: str, room: float
) -> tuple[Arrangement, int]:
    """Frames of one series written by tifffile.

    Parameters
    ----------
    description : str
        JSON with ``shape`` and, often, ``axes``.
    pages : int
        Pages from the series' first to the end of the file.
    size : (int, int)
        Height and width of the series' first page.
    what : str
        The file, for errors.
    room : float
        As in `from_imagej`, after the series' first page.

    Returns
    -------
    Arrangement
        Pages counted from the series' first.
    int
        Pages that the series takes.

    Raises
    ------
    InputError
        If the shape is not that of the pages.
    """
    said = json_object(description) or {}
    shape = said.get("shape")
    if not isinstance(shape, list) or not all(type(n) is int and n > 0 for n in shape):
        raise InputError(f"{what} has a description without a shape: export it anew")
    letters = said.get("axes")
    letters = letters if isinstance(letters, str) and len(letters) == len(shape) else None
    if shape[-1] == 1 and (letters[-1] == "S" if letters else tuple(shape[-3:-1]) == size):
        shape, letters = shape[:-1], letters and letters[:-1]
    if tuple(shape[-2:]) != size:
        raise InputError(
            f"{what} has pages of {size} px, and a description that says {tuple(shape)}: it was "
            "changed after it was written; export it anew"
        )
    sizes = shape[:-2]
    count = math.prod(sizes)
    if count > MAX_FRAMES:
        raise _mismatch(what, "the description", count, pages)
    outer = letters[:-2] if letters else "Q" * len(sizes)
    names = _names(outer, sizes, what)
    guessed = [
        name
        for name, letter, size in zip(names, outer, sizes, strict=True)
        if size > 1 and _LETTERS.get(letter) != name
    ]
    source = _SHAPED
    if guessed:
        source += f", which does not name all axes (assumed: {', '.join(guessed)})"
    contiguous = 1 < count <= room
    frames = tuple(
        PlacedPage(0 if contiguous else page, axes) for page, axes in enumerate(_grid(names, sizes))
    )
    return Arrangement(frames, source, contiguous=contiguous), min(count, pages)


def _names(letters: str, sizes: Sequence[int], what: str) -> list[str]:
    """Names of the axes, from the slowest to the fastest."""
    names = [_LETTERS.get(letter, "") for letter in letters]
    names = [name if names.count(name) == 1 else "" for name in names]
    free = [name for name in ("z", "time", "position", "channel") if name not in names]
    for index in reversed(range(len(names))):
        if not names[index] and sizes[index] == 1:
            names[index] = f"unused {index}"
        elif not names[index]:
            if not free:
                raise InputError(
                    f"{what} has more axes than time, z, channel and position ({letters}): "
                    "export one of the further ones at a time"
                )
            names[index] = free.pop(0)
    return names


def _grid(names: Sequence[str], sizes: Sequence[int]) -> list[dict[str, AxisValue]]:
    """Axes of each frame, the last axis changing fastest."""
    return [
        dict(zip(names, place, strict=True))
        for place in itertools.product(*(range(size) for size in sizes))
    ]


def _mismatch(what: str, where: str, promised: int, pages: int) -> InputError:
    return InputError(
        f"{what} is damaged or incomplete: {where} promises {counted(promised)}, and it has "
        f"{counted(pages, 'page')}; copy the file again, or export it anew"
    )


def _whole(value: str | None) -> int:
    """Parse a count in a description; 1 if there is none."""
    if value is None or not value.isascii() or not value.isdigit() or len(value) > 9:
        return 1
    return max(1, int(value))


def metaseries_metadata(description: str) -> dict[str, Any]:
    """Metadata of one frame under Micro-Manager's names; empty if another program wrote the description.

    MetaMorph and MetaXpress (ImageXpress) write XML into a page's description::

        <MetaData><PlaneInfo>
         <prop id="spatial-calibration-x" type="float" value="0.65"/>
         <prop id="z-position" type="float" value="8030.5"/> ...

    Source: Bio-Formats (``MetamorphHandler``) and tifffile (``metaseries_description_metadata``).

    Parameters
    ----------
    description : str
        A page's ImageDescription.
    """
    if not description.lstrip().startswith("<MetaData>") or "<!" in description:
        return {}
    try:
        # Without a document type there are no entities to expand.
        root = ElementTree.fromstring(description)  # noqa: S314
    except (ElementTree.ParseError, ValueError, RecursionError):
        return {}
    said = {str(prop.get("id")): str(prop.get("value", "")) for prop in root.iter("prop")}
    found: dict[str, Any] = {
        name: number
        for key, name in _NUMBERS.items()
        if (number := finite_number(said.get(key))) is not None
    }
    unit = UM_PER_UNIT.get(said.get("spatial-calibration-units", "").lower())
    pixel = finite_number(said.get("spatial-calibration-x"))
    if unit and pixel and said.get("spatial-calibration-state", "on") != "off":
        found["PixelSizeUm"] = pixel * unit
    if exposure := _EXPOSURE.search(said.get("Description", "")):
        found.setdefault("Exposure-ms", float(exposure[1]) * (1e3 if exposure[2] == "s" else 1.0))
    if taken := _TIME.fullmatch(said.get("acquisition-time-local", "")):
        found["TimeReceivedByCore"] = "{}-{}-{} {}.{:0>3}".format(*taken.groups())
    if said.get("_IllumSetting_"):
        found["Channel"] = said["_IllumSetting_"]
    return found

"""The frames of an OME-Zarr dataset that refocusd wrote, by its list of frames."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from refocusd.formats.ome_zarr.documents import ChannelLook
from refocusd.formats.ome_zarr.frame_list import FrameLine, damaged_list, lines_of
from refocusd.formats.ome_zarr.layout import GRID, chunk_path, frames_path
from refocusd.formats.scale import Scale
from refocusd.formats.sink import Written
from refocusd.frame import Axes, AxisValue, canonical_axes

#: Larger numbers are not used as places in an array.
MAX_SLOT = (1 << 24) - 1


class Slots:
    """Which place along one dimension belongs to which value of its axis.

    A number from 0 has the place of that number.  Names, negative numbers and
    the absence of the axis take the next place when they first occur, and so
    does a number whose place is taken.  Only these need memory.
    """

    def __init__(self) -> None:
        #: Length of the dimension.
        self.size = 0
        self._moved: dict[AxisValue | None, int] = {}
        self._taken: dict[int, AxisValue | None] = {}

    def place(self, value: AxisValue | None) -> int:
        """Place of a value, even of one that is not added yet."""
        moved = self._moved.get(value)
        if moved is not None:
            return moved
        if isinstance(value, int) and 0 <= value <= MAX_SLOT and value not in self._taken:
            return value
        return self.size

    def add(self, value: AxisValue | None, place: int) -> None:
        """Give a value the place that `place` named."""
        self.size = max(self.size, place + 1)
        if value != place:
            self._moved[value] = place
            self._taken[place] = value

    def value(self, place: int) -> AxisValue | None:
        """Value at a place; the place's number if no value is there yet."""
        return self._taken.get(place, place)


@dataclass(slots=True)
class Image:
    """The frames that differ in time, z and channel only.

    Parameters
    ----------
    number : int
        Name of its group.
    axes : mapping of str to int or str
        What its frames have in common: position, and all other axes.
    scale : Scale
        From the metadata of its first frame.
    """

    number: int
    axes: Axes
    slots: tuple[Slots, Slots, Slots] = field(default_factory=lambda: (Slots(), Slots(), Slots()))
    #: The microscope's name of its position; empty if it has none.
    title: str = ""
    #: Looks of the channels that have a frame, by their place.
    looks: dict[int, ChannelLook] = field(default_factory=dict)
    scale: Scale = field(default_factory=Scale)
    #: For each channel, its last frame with a known stage position: time, (z, position in um).
    last_planes: dict[int, tuple[int, tuple[int, float]]] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Its title, or ``position 3``; ``refocused`` where frames have no such axes."""
        of_axes = ", ".join(f"{name} {value}" for name, value in self.axes.items())
        return self.title or of_axes or "refocused"

    @property
    def grid(self) -> tuple[int, int, int]:
        """Length along t, c and z."""
        t, c, z = self.slots
        return t.size, c.size, z.size

    def grid_with(self, at: tuple[int, int, int]) -> tuple[int, int, int]:
        """Length along t, c and z with one more frame."""
        t, c, z = (max(size, place + 1) for size, place in zip(self.grid, at, strict=True))
        return t, c, z

    def place(self, axes: Axes) -> tuple[int, int, int]:
        """Place (t, c, z) of a frame that may be new."""
        t, c, z = (
            slots.place(axes.get(name)) for name, slots in zip(GRID, self.slots, strict=True)
        )
        return t, c, z

    def add(self, line: FrameLine) -> None:
        """Take in a frame."""
        for name, slots, place in zip(GRID, self.slots, line.at, strict=True):
            slots.add(line.axes.get(name), place)


@dataclass(slots=True)
class Contents(Written):
    """What the writer must know about the frames of its dataset."""

    #: By the canonical form of the axes that their frames have in common.
    images: dict[str, Image] = field(default_factory=dict)

    def image_of(self, axes: Axes) -> Image:
        """Image that a frame belongs to; a new one is not in `images` until `add`."""
        common = common_axes(axes)
        known = self.images.get(canonical_axes(common))
        return known or Image(len(self.images), common)

    def add(self, line: FrameLine, image: Image, end: int, *, whole: bool = True) -> None:
        """Note a frame whose line ends at byte `end`.

        A frame that is not whole keeps its place, but may be written again.
        """
        if whole and (key := canonical_axes(line.axes)) not in self.keys:
            self.keys.add(key)
        self.images.setdefault(canonical_axes(image.axes), image).add(line)
        self.format = line.format
        self.end = end


def common_axes(axes: Axes) -> dict[str, AxisValue]:
    """Axes that determine a frame's image: all but time, z and channel."""
    return {name: axes[name] for name in sorted(axes) if name not in GRID}


def read_contents(path: Path, in_flight: str) -> tuple[Contents, bool]:
    """Read the list of frames, up to where a killed writer left it.

    A line whose pixels are not there (after a power failure) does not count:
    the frame may be written again.

    Parameters
    ----------
    path : Path
        The dataset's folder.
    in_flight : str
        Chunk that was being written last, as `chunk_path` names it.

    Returns
    -------
    contents : Contents
    landed : bool
        Whether a valid frame has that chunk.

    Raises
    ------
    OutputError
        If more is illegible than the line that was being written.
    OSError
        If the files cannot be read.
    """
    name = frames_path(path)
    contents, landed = Contents(), False
    try:
        for start, end, line in lines_of(name):
            image = contents.image_of(line.axes)
            place = (image.number, image.place(line.axes))
            if place != (line.image, line.at) or line.format != (contents.format or line.format):
                raise damaged_list(name, start)
            whole = _is_whole(path, line)
            contents.add(line, image, end, whole=whole)
            landed = landed or (whole and chunk_path(line) == in_flight)
    except ValueError as error:
        raise damaged_list(name, contents.end) from error
    return contents, landed


def _is_whole(path: Path, line: FrameLine) -> bool:
    try:
        return (path / chunk_path(line)).stat().st_size == line.nbytes
    except FileNotFoundError:
        return False

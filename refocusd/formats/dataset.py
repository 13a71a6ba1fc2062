"""A dataset: frames on disk, finished or growing, raw or refocused.

==========================================  ===========================================================
implementation                              reads
==========================================  ===========================================================
`ndtiff.reader.NDTiffReader`                NDTiff by its index
`ndtiff.reader.GrowingNDTiff`               NDTiff whose index may lag behind its files
`tiff.stacks.MicroManagerStacks`            Micro-Manager's image stack files
`tiff.growing_ome.GrowingOmeTiff`           OME-TIFF that ome-writers is writing
`tiff.separate_files.GrowingSeparateFiles`  Micro-Manager's separate image files while they are written
`image_files.ImageFiles`                    other TIFF, OME-TIFF, ImageJ and PNG files
`ome_zarr.store.reader.StoreReader`         OME-Zarr of any writer, finished or growing
`ome_zarr.reader.OmeZarrReader`             OME-Zarr as refocusd writes it
`ome_zarr.mirror.reader.MirrorReader`       refocused OME-Zarr with the layout of a raw one
==========================================  ===========================================================

`open_dataset` chooses among them.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import xxhash

from refocusd.errors import InputError
from refocusd.formats.metadata import TIMES, elapsed_ms
from refocusd.formats.scale import channel_label, implausible_z_step, scale_of
from refocusd.formats.tiff.page import PageFormat
from refocusd.frame import Axes, AxisValue, Frame, Pixels, canonical_axes, checksum, counted
from refocusd.profiles.microscope_metadata import (
    ignored,
    implausible_pixel_um,
    pixel_um_of,
    plausible_pixel_um,
)

#: Rows that are read at a time.
STRIP_PX = 1024

#: Reads (rows, columns) of a frame.
ReadPart = Callable[[slice, slice], Pixels]


def checksum_by_strips(form: PageFormat, read: ReadPart) -> int:
    """Checksum of a frame read in strips: equal to `refocusd.frame.checksum` of the whole frame."""
    digest = xxhash.xxh3_64()
    for top in range(0, form.height, STRIP_PX):
        strip = read(slice(top, min(top + STRIP_PX, form.height)), slice(0, form.width))
        digest.update(np.ascontiguousarray(strip).data.cast("B"))
    return digest.intdigest()


@dataclass(frozen=True, slots=True)
class Plan:
    """What is known about all frames of a dataset before their pixels are read.

    Parameters
    ----------
    axes : tuple of mapping of str to int or str
        Of each frame, in acquisition order.
    elapsed_ms : tuple of float or None
        When each frame was taken, in ms since the first frame or the acquisition's
        start; None where that is not recorded.
    format : PageFormat
        Shape and type of every frame.
    pixel_um : float or None
        Width of a pixel in the specimen, in um, if recorded.
    """

    axes: tuple[Axes, ...]
    elapsed_ms: tuple[float | None, ...]
    format: PageFormat
    pixel_um: float | None = None

    def __len__(self) -> int:
        return len(self.axes)


class Dataset(ABC):
    """Frames on disk; a context manager that closes the files.

    Files are opened when they are needed, only for reading, and are never locked or
    memory-mapped.  Frames are addressed by their axes or the canonical key of these.

    Parameters
    ----------
    path : Path
        The dataset's folder or file.
    name : str
        What to name its output by; by default the folder's or file's name.

    Attributes
    ----------
    path : Path
        Resolved.
    name : str
    catch_up_from : str
        Folder from which a daemon can catch up by itself; empty if it cannot.
    source : str
        Which part of the files says which frame is which.
    """

    catch_up_from: str = ""
    source: str = ""

    def __init__(self, path: Path, name: str = "") -> None:
        # Resolved: "." has no name to call the output by.
        self.path = path.resolve()
        #: The output goes beside this folder or file.
        self.place = self.path
        self.name = name or self.path.name
        #: What each reader needs to find a frame, by canonical key, in acquisition order.
        self._frames: Mapping[str, Any] = {}
        self._plan: Plan | None = None
        #: None until it is read.
        self._summary: dict[str, Any] | None = None
        self._unusable: dict[str, str] = {}
        self._replaced: list[str] = []

    @property
    def summary(self) -> dict[str, Any]:
        """Metadata of the whole acquisition; empty if there are none (yet)."""
        return self._summary or {}

    @property
    def finished(self) -> bool:
        """Whether its writer has closed it, so that no more frames will come."""
        return True

    def refresh(self) -> list[str]:
        """Find the frames that were written since the last call.

        Returns
        -------
        list of str
            Canonical axes of the frames that are new, or were written again.

        Raises
        ------
        OSError
            If files of a growing dataset cannot be read: the share is unreachable, or it was deleted.
        InputError
            If this is not, or no longer, a dataset of its kind; the frames known so far stay
            readable.
        """
        return []

    def axes_keys(self) -> list[str]:
        """Canonical axes of all frames known so far, in the order of acquisition."""
        return list(self._frames)

    def __len__(self) -> int:
        return len(self._frames)

    def __iter__(self) -> Iterator[str]:
        return iter(self._frames)

    def __contains__(self, key: object) -> bool:
        return key in self._frames

    def missing_keys(self) -> list[str]:
        """Frames that the dataset names, but whose pixels are not on disk (yet)."""
        return []

    def missing_files(self) -> list[str]:
        """Files that the dataset names, but that do not exist."""
        return []

    def unlisted(self) -> set[str]:
        """Frames that the dataset's own index does not name (yet)."""
        return set()

    def unusable(self, *, ended: bool = False) -> dict[str, str]:
        """Frames found since the last call that cannot be used, and why.

        Parameters
        ----------
        ended : bool
            Whether writing has ended: frames that might still have been about to be written count, too.
        """
        del ended
        found, self._unusable = self._unusable, {}
        return found

    def replaced(self) -> list[str]:
        """Frames after which others of the same axes came since the last call, each as often as it happened."""
        found, self._replaced = self._replaced, []
        return found

    def is_whole(self, key: str) -> bool:
        """Whether pixels and metadata of a frame are on disk.

        Raises
        ------
        OSError
        """
        return key in self

    def unfit(self, key: str) -> str:
        """Why the pixels of a frame cannot be used, though it is whole; empty if they can."""
        del key
        return ""

    def first_key(self) -> str:
        """Canonical axes of the first usable frame; if any is whole, of the first whole one.

        Raises
        ------
        InputError
            If there is none.
        """
        fit = (key for key in self._frames if not self.unfit(key))
        if first := next(fit, ""):
            whole = (key for key in (first, *fit) if self.is_whole(key))
            return next(whole, first)
        if self._frames:
            raise self._unfit(next(iter(self._frames)))
        missing = len(self.missing_keys())
        if files := self.missing_files():
            raise InputError(
                f"{self.path}: the pixels of {counted(missing)} are not there: {', '.join(files[:3])} "
                f"{'is' if len(files) == 1 else 'are'} missing; copy the dataset again, with all its files"
            )
        raise InputError(
            f"{self.path} is a dataset without a frame"
            + (f": the pixels of {missing} are not in its files" if missing else "")
            + "; give one that has frames, or wait for its first frame"
        )

    def format_of(self, axes: Axes | str) -> PageFormat:
        """Shape and type of a frame, without reading it.

        Raises
        ------
        InputError
            If the dataset has no such frame.
        """
        return self._format(self._key(axes))

    def metadata(self, axes: Axes | str) -> dict[str, Any]:
        """Metadata of a frame, as the microscope gave them.

        Raises
        ------
        InputError
            If the dataset has no such frame, or its metadata cannot be read.
        """
        return self._metadata(self._key(axes))

    def read(self, axes: Axes | str) -> Frame:
        """One frame with its metadata, read from disk now.

        Parameters
        ----------
        axes : mapping of str to int or str, or str
            The frame's axes, or their canonical key.

        Raises
        ------
        InputError
            If the dataset has no such frame, or it cannot be read or decoded.
        OSError
            If a file of a growing dataset cannot be read.
        """
        key = self._key(axes)
        # Metadata are written last: where they are, the pixels are.
        metadata = self._metadata(key)
        return Frame(self._pixels(key), _axes_of(key), metadata)

    def is_slide(self, axes: Axes | str) -> bool:
        """Whether a frame is large, and is stored in parts that can be read one by one."""
        del axes
        return False

    def read_part(self, axes: Axes | str, rows: slice, columns: slice) -> Pixels:
        """Part of a frame, shape (rows, columns); a frame that `is_slide` is never read as a whole.

        Parameters
        ----------
        axes : mapping of str to int or str, or str
        rows, columns : slice
            Within the frame, with a start and a stop.

        Raises
        ------
        InputError, OSError
            As `read`.
        """
        return self.read(axes).pixels[rows, columns]

    def checksum(self, axes: Axes | str) -> int:
        """Checksum of a frame's pixels; a frame that `is_slide` is never read as a whole.

        Raises
        ------
        InputError, OSError
            As `read`.
        """
        if self.is_slide(axes):
            return checksum_by_strips(
                self.format_of(axes), lambda *part: self.read_part(axes, *part)
            )
        return checksum(self.read(axes).pixels)

    def first_format(self) -> PageFormat:
        """Shape and type of the first frame that can be used.

        Raises
        ------
        InputError
            If there is none.
        """
        fit = next((key for key in self._frames if not self.unfit(key)), "")
        return self._format(fit or self.first_key())  # which says why there is none

    def plan(self) -> Plan:
        """What all frames have in common, and when each was taken; this reads all their metadata.

        Raises
        ------
        InputError
            If there is no frame, a frame's metadata is damaged, or frames differ
            in shape or type.
        """
        if self._plan is None or len(self._plan) != len(self):
            first = self.first_format()
            keys = self.axes_keys()
            for key in keys:
                if self.unfit(key):
                    raise self._unfit(key)
                if (form := self._format(key)) != first:
                    raise InputError(
                        f"{self.path} has frames of different formats: {key} is {form}, and "
                        f"{keys[0]} is {first}; a recording has one"
                    )
            pixel_um = plausible_pixel_um(pixel_um_of(self._metadata(keys[0]), self.summary))
            # Of all metadata only the times are kept: there may be millions of frames.
            said = [{name: said.get(name) for name in TIMES} for said in map(self._metadata, keys)]
            axes = tuple(_axes_of(key) for key in keys)
            self._plan = Plan(axes, elapsed_ms(said), first, pixel_um)
        return self._plan

    @abstractmethod
    def close(self) -> None:
        """Close all files until the next read; closing twice does no harm."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def _key(self, axes: Axes | str) -> str:
        key = axes if isinstance(axes, str) else canonical_axes(axes)
        if key not in self._frames:
            why = (
                "it is not written yet" if key in self.missing_keys() else "it is not in its index"
            )
            raise InputError(f"{self.path} has no frame {key}: {why}")
        return key

    @abstractmethod
    def _format(self, key: str) -> PageFormat: ...

    @abstractmethod
    def _metadata(self, key: str) -> dict[str, Any]: ...

    @abstractmethod
    def _pixels(self, key: str) -> Pixels: ...

    def _unfit(self, key: str) -> InputError:
        return InputError(f"frame {key} of {self.path} {self.unfit(key)}")

    def _damaged(self, what: str) -> InputError:
        return InputError(f"{self.path} is damaged or incomplete: {what}; copy the dataset again")


def _axes_of(key: str) -> dict[str, AxisValue]:
    axes: dict[str, AxisValue] = json.loads(key)
    return axes


ORDER = ("time", "position", "z", "channel")
#: If there are more channels than this, their names are not listed.
MAX_NAMES = 6


def _legible(dataset: Dataset, key: str) -> dict[str, Any]:
    """Metadata of a frame; empty if they are damaged, as this may be the only such frame."""
    with suppress(InputError):
        return dataset.metadata(key)
    return {}


def understood(dataset: Dataset) -> str:
    """A dataset in one line: axes and their sizes, channels, pixel size, plane distance, and source.

    Raises
    ------
    InputError
        If the metadata of the first frame cannot be read.
    """
    keys = [key for key in dataset.axes_keys() if not dataset.unfit(key)]
    if not keys:
        return f"{dataset.name or dataset.path}: no frames; by {dataset.source}"
    less = ""
    if unfit := [key for key in dataset.axes_keys() if dataset.unfit(key)]:
        less = (
            f"; besides, {counted(len(unfit))} that cannot be refocused, such as {unfit[0]}, which "
            f"{dataset.unfit(unfit[0])}"
        )
    # The values of each axis, and the first frame with each value.
    values: dict[str, dict[AxisValue, str]] = {}
    for key in keys:
        for axis, value in json.loads(key).items():
            values.setdefault(axis, {}).setdefault(value, key)
    order = [*(axis for axis in ORDER if axis in values), *(a for a in values if a not in ORDER)]
    sizes = " × ".join(f"{axis} {len(values[axis])}" for axis in order)
    summary = dataset.summary
    several = values.get("channel", {})
    few = len(several) <= MAX_NAMES
    names = [
        channel_label(value, summary, _legible(dataset, key) if few else {})
        for value, key in several.items()
    ]
    names = [name for name in names if name] or [n for n in [channel_label(None, summary)] if n]
    channels = f" (channels {', '.join(names)})" if 0 < len(names) <= MAX_NAMES else ""
    first = dataset.metadata(dataset.first_key())
    scale = scale_of(first, summary)
    pixel = f"{scale.pixel_um:g} µm a pixel" if scale.pixel_um else "pixel size not known"
    if stated := implausible_pixel_um(first, summary):
        pixel += f" (the stated {stated} µm is impossible for a light microscope)"
    step = f", planes {scale.z_um:g} µm apart" if scale.z_um else ""
    odd = ignored(first)
    if stated := implausible_z_step(summary):
        odd.append(f"distance of planes {stated}")
    if odd:
        step += f" (ignored, as no light microscope has it: {', '.join(odd)})"
    what = f"{counted(len(keys))} of {dataset.first_format()}: {sizes or 'no axes'}{channels}"
    return f"{dataset.name or dataset.path}: {what}; {pixel}{step}; by {dataset.source}{less}"

"""OME-Zarr of any writer as a dataset: images, plates and collections, finished or growing."""

from __future__ import annotations

import math
import time
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from refocusd.errors import InputError
from refocusd.formats.dataset import Dataset
from refocusd.formats.ome_zarr.store.chunks import StoredChunks, place_stamp
from refocusd.formats.ome_zarr.store.frame_notes import FrameNotes, frame_notes
from refocusd.formats.ome_zarr.store.grid import GridFrames
from refocusd.formats.ome_zarr.store.groups import (
    MAX_DEPTH,
    document_of,
    is_store,
    named_images,
    store_root,
)
from refocusd.formats.ome_zarr.store.image import OmeImage, part_of
from refocusd.formats.tiff.page import MAX_FRAME_BYTES, SLIDE_PX, PageFormat
from refocusd.frame import Axes, Pixels, canonical_axes, counted

#: Key in the summary metadata: path of the store whose layout the output gets.
STORE = "OmeZarrStore"
#: Frames that share a chunk are decoded together, up to this many bytes, and kept for the next one.
MAX_BLOCK_BYTES = 256 << 20
#: A chunk of several frames is rewritten for each: it counts once it is unchanged for this long.
SETTLE_S = 2.0
#: Writers leave out tiles that are all zero: a frame without them counts once unchanged for this long.
TILES_S = 10.0
#: Time between searches for all missing frames of a growing store; in between, only those that may
#: come next are looked for.
LOOK_AT_ALL_S = 10.0
#: Groups that hold no raw frames.
_OTHERS = frozenset({"labels", "tables", "OME", "refocusd"})


@dataclass(frozen=True, slots=True)
class _Image:
    """An image, and which of its frames are stored."""

    image: OmeImage
    stored: StoredChunks


class StoreReader(Dataset):
    """The frames of an OME-Zarr store, at full resolution; for one thread.

    A frame's axes are ``position`` (the path of its image in the store, such as ``B/03/0``; a
    single image has none), ``time``, ``channel`` (its name, if each has one of its own) and ``z``,
    as far as the image has these dimensions, whatever their length: frames keep their axes while
    the store grows.  A frame of which no chunk is stored was not acquired: it is missing, not black.

    Parameters
    ----------
    path : Path
        A plate, a well, an image, or a group of images.
    growing : bool
        Another program is writing it.  A frame counts once all of its chunks are stored; if a file
        holds several frames, or chunks are left out, once its files are unchanged for some seconds.
    only : str, optional
        Open only the image at this position, which is quicker for a plate of thousands.
    max_frame_bytes : int
        A frame that claims to be larger is an error.

    Raises
    ------
    InputError
        If it holds no image, or none that can be read.
    """

    source = "OME-Zarr metadata"
    _frames: GridFrames

    def __init__(
        self,
        path: Path,
        *,
        growing: bool = False,
        only: str | None = None,
        max_frame_bytes: int = MAX_FRAME_BYTES,
    ) -> None:
        super().__init__(path)
        root = store_root(self.path)
        #: The folder beside which the output goes: never within the store.
        self.place = root
        if root != self.path:
            inner = "_".join(self.path.relative_to(root).parts)
            self.name = f"{root.name.removesuffix('.zarr').removesuffix('.ome')}_{inner}.zarr"
            if "labels" in self.path.relative_to(root).parts:
                raise InputError(
                    f"{self.path} holds labels, not frames: give the image they lie in"
                )
        elif not self.name.endswith(".zarr"):
            self.name += ".zarr"  # its output is an OME-Zarr, and named as one
        self.catch_up_from = str(self.path)
        self._growing = growing
        self._only = only
        self._max_frame_bytes = max_frame_bytes
        self._frames = self._no_frames()
        self._images: dict[str, _Image] = {}
        #: Why the frames of an image cannot be used, by its position.
        self._refused: dict[str, str] = {}
        #: Images that the store names, but that are not there (yet).
        self._absent: list[str] = []
        self._stamps: dict[Path, tuple[int, int, int]] | None = None
        self._looked_at_all = -math.inf
        #: Why images of a growing store cannot be opened (yet), by their position; of which was warned.
        self._doubtful: dict[str, str] = {}
        self._told: dict[str, str] = {}
        self._block: tuple[object, Any] = (None, None)
        #: Notes on the image that was asked for last, by its position and its metadata's stamp.
        self._notes: dict[object, FrameNotes] = {}
        self.refresh()
        if not growing:
            self._check()
            if absent := self._frames.room - len(self._frames):
                self.source += f"; its arrays have room for {counted(absent)} never written"
            if self._absent:
                lost = f"{len(self._absent)} of its wells and images not found"
                self.source += f"; {lost}, such as {self._absent[0]}"

    @property
    def summary(self) -> dict[str, Any]:
        """Metadata of all frames, under Micro-Manager's names, and the path of the store."""
        summary: dict[str, Any] = {STORE: str(self.path)}
        for position, each in list(self._images.items())[:1]:
            if started := self._notes_of(position).started:
                summary["StartTime"] = started
            scale, labels = each.image.scale, each.image.labels
            summary |= {
                "PixelSize_um": scale.pixel_um,
                "z-step_um": scale.z_um,
                "Interval_ms": scale.interval_s and scale.interval_s * 1e3,
                "ChNames": list(labels) if any(labels) else None,
                "ChColors": list(each.image.colours),
            }
        return {name: value for name, value in summary.items() if value}

    @property
    def finished(self) -> bool:
        """Whether no more frames will come; the store itself never says so."""
        return not self._growing

    def refresh(self) -> list[str]:
        """Find the images and frames that were written since the last call, in the order of writing.

        Raises
        ------
        InputError
            If the store's metadata cannot be read.
        OSError
            If a growing store is not there (any more).
        """
        if not self.path.is_dir():
            if self._growing:
                raise FileNotFoundError(f"{self.path} is not there")
            raise InputError(f"{self.path} does not exist: give the folder of an OME-Zarr store")
        everywhere = not self._growing or time.monotonic() - self._looked_at_all > LOOK_AT_ALL_S
        if everywhere:
            self._looked_at_all = time.monotonic()
        self._take_up_images()
        # The files that are missing may lie deeper than stamps are taken.
        for position in list(self._doubtful) if everywhere else ():
            self._take_up(position, self.path / position)
        fresh = []
        for position, each in self._images.items():
            for index in self._found(position, each.stored, everywhere=everywhere):
                key = canonical_axes(each.image.axes_at(index))
                if self._growing and position in self._refused:
                    self._unusable[key] = f"the frame {_in_refused_image(self._refused[position])}"
                    continue
                self._frames.add(key, (position, index))
                if self._growing:
                    stamps = each.stored.stamps(index)
                    fresh.append((max((when for when, _ in stamps), default=0), key))
        return [key for _, key in sorted(fresh, key=lambda each: each[0])]

    def unusable(self, *, ended: bool = False) -> dict[str, str]:
        """As of any dataset; an image that cannot be opened counts as one frame in the end."""
        for position, why in self._doubtful.items() if ended else ():
            if position:
                key = canonical_axes({"position": position})
                self._unusable[key] = f"the frame {_in_refused_image(why)}"
        return super().unusable(ended=ended)

    def unfit(self, key: str) -> str:
        """Why the image of a frame cannot be used; empty if it can."""
        if not self._refused:
            return ""
        why = self._refused.get(self._frames[key][0])
        return _in_refused_image(why) if why else ""

    def is_whole(self, key: str) -> bool:
        """Whether a frame can be decoded; in a growing store it is decoded for this, and kept."""
        if not self._growing:
            return key in self
        position, index = self._frames[self._key(key)]
        each = self._images[position]
        try:
            pixels = self._decoded(each, position, index)
        except InputError:
            self._block = (None, None)
            return False
        # A chunk of several frames has zeros where the next ones will be.
        return each.stored.frames_a_file == 1 or bool(pixels.any())

    def read_part(self, axes: Axes | str, rows: slice, columns: slice) -> Pixels:
        """Part of a frame; only the chunks that it touches are decoded."""
        position, index = self._frames[self._usable(axes)]
        image = self._images[position].image
        try:
            part = np.asarray(image.array[part_of(index, rows, columns)])
        except Exception as error:
            # As in `_decoded`.
            raise self._damaged(
                f"a chunk of frame {index} of {image.folder} cannot be decoded ({error})"
            ) from error
        return np.ascontiguousarray(part, dtype=image.format.dtype)

    def is_slide(self, axes: Axes | str) -> bool:
        """Whether a frame is large, and is stored in parts that can be read one by one."""
        key = self._key(axes)
        if self.unfit(key):
            return False
        image = self._images[self._frames[key][0]].image
        return image.format.height * image.format.width > SLIDE_PX >= _tile_px(image)

    def close(self) -> None:
        """Forget what was decoded; no file stays open between reads."""
        self._block = (None, None)

    def _take_up_images(self, *, anew: bool = False) -> None:
        """Open images that are new, and arrays that have grown."""
        stamps = self._stamps_now()
        if stamps == self._stamps and not anew:
            # Metadata that are still illegible were not just being written.
            self._tell_doubtful()
            return
        self._stamps = stamps
        try:
            folders = self._folders()
        except InputError as error:
            if not self._growing:
                raise
            self._doubtful[""] = str(error)
            return
        self._doubtful.pop("", None)
        for position, folder in folders.items():
            self._take_up(position, folder)

    def _tell_doubtful(self) -> None:
        """Warn once of images that cannot be opened."""
        if self._doubtful and self._doubtful != self._told:
            self._told = dict(self._doubtful)
            first, *others = self._doubtful.values()
            more = f"; {counted(len(others), 'more image')} cannot be read either" if others else ""
            self._unusable[""] = first + more

    def _no_frames(self) -> GridFrames:
        return GridFrames()

    def _folders(self) -> dict[str, Path]:
        if self._only is not None:
            return {self._only: self.path / self._only}
        found, self._absent = named_images(self.path)
        return found

    def _take_up(self, position: str, folder: Path) -> None:
        before = self._images.get(position)
        try:
            image = OmeImage.open(folder, position)
        except InputError as error:
            if self._growing:
                self._doubtful[position] = str(error)
                return
            self._refuse(position, error)
            self._frames.refuse(position)
            return
        self._doubtful.pop(position, None)
        form = image.format
        trouble = image.trouble
        if form.nbytes > self._max_frame_bytes and _tile_px(image) > SLIDE_PX:
            trouble = f"has frames of {form}, above the limit of {self._max_frame_bytes} bytes"
        if trouble:
            self._refuse(position, InputError(f"{folder} {trouble}"))
        if before is not None and before.image.array.shape == image.array.shape:
            return
        stored = StoredChunks(image.array, folder / image.levels[0])
        self._images[position] = _Image(self._frames.take_up(position, image), stored)

    def _refuse(self, position: str, error: InputError) -> None:
        """Refuse all frames of an image, for this reason.

        Raises
        ------
        InputError
            If it is the only one.
        """
        if not self._growing and (not position or self._only is not None):
            raise error
        self._refused[position] = str(error)
        if self._growing:
            self._unusable[""] = str(error)

    def _stamps_now(self) -> dict[Path, tuple[int, int, int]]:
        """Stamps of the folders and files that change when images are added, or arrays grow."""
        if not self._growing:
            return {}
        places: list[Path] = []
        images = {each.image.folder: each.image for each in self._images.values()}
        # A well is one name and two folders, ``A/1``.
        groups = [(self.path, MAX_DEPTH + 1)]
        while groups:
            folder, depth = groups.pop()
            places += [folder, document_of(folder)]
            if image := images.get(folder):
                places += [folder / image.levels[0] / name for name in ("zarr.json", ".zarray")]
            elif depth:
                groups += [
                    (entry, depth - 1)
                    for entry in folder.iterdir()
                    if entry.is_dir() and entry.name not in _OTHERS
                ]
        return {path: stamp for path in places if (stamp := place_stamp(path)) is not None}

    def _found(
        self, position: str, stored: StoredChunks, *, everywhere: bool
    ) -> list[tuple[int, ...]]:
        """Frames of an image that were missing, and are stored now."""
        found: list[tuple[int, ...]] = []
        last: int | None = None
        for index in self._frames.absent(position):
            if not everywhere:
                # Time points come in order: after one without a frame there are no frames.
                last = index[0] + 1 if last is None and index else last
                if last is not None and index[0] > last:
                    break
            if self._is_there(stored, index):
                found.append(index)
                last = index[0] + 1 if index else None
        return found

    def _is_there(self, stored: StoredChunks, index: tuple[int, ...]) -> bool:
        state = stored.state(index)
        if not self._growing or state == "absent":
            return state != "absent"
        if state == "whole" and stored.frames_a_file == 1:
            return True
        rested_s = time.time() - max(when for when, _ in stored.stamps(index)) / 1e9
        return rested_s >= (SETTLE_S if state == "whole" else TILES_S)

    def _check(self) -> None:
        if not (self._images or self._refused):
            raise InputError(
                f"{self.path} is a Zarr group without an image of OME-Zarr: give a plate or an "
                "image, version 0.3 to 0.5"
            )
        good = {p: each.image for p, each in self._images.items() if p not in self._refused}
        if not good:
            raise InputError(next(iter(self._refused.values())))
        # A recording has one format: that of most of its images.
        forms = Counter(image.format for image in good.values())
        form = forms.most_common(1)[0][0]
        for position, image in good.items():
            if image.format != form:
                self._refused[position] = (
                    f"{image.folder} has frames of {image.format}, where most have {form}: give it by "
                    "itself"
                )

    def _format(self, key: str) -> PageFormat:
        each = self._images.get(self._frames[key][0])
        return each.image.format if each else self.first_format()

    def _metadata(self, key: str) -> dict[str, Any]:
        position, index = self._frames[key]
        if position not in self._images:
            return {}
        notes = self._notes_of(position)
        named = {"PositionName": notes.name} if notes.name else {}
        of_image = self._images[position].image.metadata_at(index)
        return {**of_image, **notes.frames.get(index, {}), **named}

    def _notes_of(self, position: str) -> FrameNotes:
        """The writer's notes on an image, and its name if it has one of its own."""
        image = self._images[position].image
        name = (position, place_stamp(document_of(image.folder)))
        if name not in self._notes:
            notes = frame_notes(self.place, image.folder, image.outer)
            # The place in a plate is more informative than any name.
            if not notes.name and position and "/" not in position:
                titles = [each.image.title for each in self._images.values()]
                notes = replace(notes, name=image.title if titles.count(image.title) == 1 else "")
            self._notes = {name: notes}
        return self._notes[name]

    def _pixels(self, key: str) -> Pixels:
        position, index = self._frames[self._usable(key)]
        return self._decoded(self._images[position], position, index)

    def _usable(self, axes: Axes | str) -> str:
        key = self._key(axes)
        if self.unfit(key):
            raise self._unfit(key)
        return key

    def _decoded(self, each: _Image, position: str, index: tuple[int, ...]) -> Pixels:
        """A frame, by way of the block of frames that is decoded with it."""
        form = each.image.format
        if form.nbytes > self._max_frame_bytes:
            raise InputError(
                f"frame {index} of {each.image.folder} has {form}, above the limit of "
                f"{self._max_frame_bytes} bytes for what is read as a whole"
            )
        size = each.stored.block
        if math.prod(size) * form.nbytes > MAX_BLOCK_BYTES:
            size = (1,) * len(index)
        start = tuple(at // n * n for at, n in zip(index, size, strict=True))
        # A block of a growing store is read again whenever its files have changed.
        stamps = each.stored.stamps(index) if self._growing else ()
        name = (position, start, stamps)
        if self._block[0] != name:
            self._block = (None, None)
            slices = tuple(slice(at, at + n) for at, n in zip(start, size, strict=True))
            try:
                self._block = (name, np.asarray(each.image.array[slices]))
            except Exception as error:
                # Others' data may make the codecs raise anything.
                raise self._damaged(
                    f"the chunk of frame {index} of {each.image.folder} cannot be decoded ({error})"
                ) from error
        inside = tuple(at - first for at, first in zip(index, start, strict=True))
        pixels = self._block[1][inside]
        return np.ascontiguousarray(pixels, dtype=form.dtype)


def _in_refused_image(why: str) -> str:
    return f"is in an image that cannot be used: {why}"


def _tile_px(image: OmeImage) -> int:
    """Pixels of a frame that one chunk holds."""
    return math.prod(image.array.chunks[-2:])


def store_of(summary: Any) -> Path | None:
    """The store that a raw dataset's summary metadata name; None if there is none, or it does not exist."""
    said = summary.get(STORE)
    if not isinstance(said, str) or not said:
        return None
    path = Path(said)
    return path if is_store(path) else None

"""Recognises a recording by its content, whatever its name and wherever it is."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import msgspec

from refocusd.errors import InputError
from refocusd.formats.dataset import Dataset
from refocusd.frame import checksum
from refocusd.ledger import Outcomes, was_taken_again

_NAMESPACE = uuid.UUID("5d8f0a3e-64b7-4f0c-9a53-2a6c1f1f0f53")
#: Times of day that microscopes note, of frames and of whole recordings.
_FRAME_TIMES = ("TimeReceivedByCore", "ReceivedTime", "Time")
_RECORDING_TIMES = ("StartTime", "DateAndTime", "Time")
#: Frames read to tell whether a recording is the one that was refocused, and their bytes in all.
_SAMPLES, _SAMPLE_NBYTES = 32, 64 << 20
#: Longest text in a recording's metadata that is compared; longer ones identify nothing.
_MAX_CHARS = 100


class FrameMark(msgspec.Struct, frozen=True):
    """One frame: its size in px, its type, its time, and the 64-bit XXH3 of its pixels in hex."""

    height: int
    width: int
    dtype: str
    checksum: str
    times: dict[str, str] = {}


class Recording(msgspec.Struct, frozen=True):
    """Fingerprint of a recording.

    Parameters
    ----------
    uuid : str
        Its own, where its format has one; otherwise empty.
    times : mapping of str to str
        When it was begun, by the names under which its metadata note it.
    frames : mapping of str to FrameMark
        First and last frame, by canonical axes.
    """

    uuid: str = ""
    times: dict[str, str] = {}
    frames: dict[str, FrameMark] = {}


@dataclass(frozen=True, slots=True)
class Recognition:
    """The result of comparing a recording with what is known about the one that was refocused.

    Parameters
    ----------
    compared : int
        Number of frames that could be compared.
    differing : tuple of str
        What differs, in words.
    absent : tuple of str
        Frames that were refocused, but that the recording does not have.
    another : bool
        Whether it is another recording, and not the same one with some changed frames.
    """

    compared: int
    differing: tuple[str, ...] = ()
    absent: tuple[str, ...] = ()
    another: bool = False

    @property
    def proved(self) -> bool:
        """Whether something could be compared, and all of it is the same."""
        return self.compared > 0 and not self.differing

    @property
    def what(self) -> str:
        """What differs first, and how much more."""
        more = len(self.differing) - 1
        return self.differing[0] + (f", and {more} more such" if more > 0 else "")


def without_replaced(recording: Recording, fates: Outcomes) -> Recording:
    """A fingerprint without the frames that were taken again: raw keeps the later ones."""
    frames = {k: mark for k, mark in recording.frames.items() if not was_taken_again(fates, k)}
    return msgspec.structs.replace(recording, frames=frames)


def fingerprint(dataset: Dataset, keys: Iterable[str] | None = None) -> Recording:
    """Fingerprint of a recording: at most two frames are read.

    Parameters
    ----------
    dataset : Dataset
    keys : iterable of str, optional
        Frames to read instead of the first and the last: of a growing recording only the first is
        certain.
    """
    marks = {}
    for key in ends(dataset) if keys is None else keys:
        # A damaged frame says nothing about the others.
        with suppress(InputError, OSError):
            marks[key] = _mark(dataset, key)
    summary = _summary(dataset)
    return Recording(_uuid(summary), _texts(summary, _RECORDING_TIMES), marks)


def ends(dataset: Dataset) -> list[str]:
    """The first and the last frame that can be used; one key if they are the same frame."""
    known = dataset.axes_keys()
    fit = (next((k for k in each if not dataset.unfit(k)), "") for each in (known, reversed(known)))
    return [key for key in dict.fromkeys(fit) if key]


def frame_names(recording: Recording) -> list[str]:
    """A name for each frame of a fingerprint, which the frames of other recordings do not have."""
    return [
        f"{key} {mark.height}x{mark.width} {mark.dtype} {mark.checksum}"
        for key, mark in recording.frames.items()
    ]


def noted(said: object) -> Recording:
    """The fingerprint in a file; an empty one if there is none."""
    try:
        return msgspec.convert(said, Recording)
    except msgspec.ValidationError:
        return Recording()


def samples(dataset: Dataset) -> int:
    """How many frames to read in order to recognise a recording, by their size."""
    if not len(dataset):
        return 0
    nbytes = max(1, dataset.first_format().nbytes)
    return max(2, min(_SAMPLES, _SAMPLE_NBYTES // nbytes))


def recognise(
    dataset: Dataset,
    before: Recording,
    checksums: Mapping[str, int],
    *,
    growing: bool = False,
) -> Recognition:
    """Compare a recording with what is known about the one that was refocused.

    Parameters
    ----------
    dataset : Dataset
    before : Recording
        Fingerprint of the one that was refocused.
    checksums : mapping of str to int
        64-bit XXH3 of the raw pixels of some frames that were refocused; all are read.
    growing : bool
        Frames that it does not have may still come.
    """
    known = dict.fromkeys((*before.frames, *checksums))
    present = [key for key in known if key in dataset]
    marks = {}
    for key in present:
        with suppress(InputError, OSError):
            if dataset.is_whole(key):
                marks[key] = _mark(dataset, key)
    summary = _summary(dataset)
    differing = {}
    for key, mark in marks.items():
        old = before.frames.get(key)
        same = old is None or _same(old, mark)
        if not same or f"{checksums.get(key, int(mark.checksum, 16)):016x}" != mark.checksum:
            differing[key] = f"frame {key} is another one"
    own = [
        f"its {name} is {new}, and was {old}"
        for name, old, new in (
            ("UUID", before.uuid, _uuid(summary)),
            *_both(before.times, _texts(summary, _RECORDING_TIMES)),
        )
        if old and new and old != new
    ]
    missing = set(dataset.missing_keys())
    absent = tuple(key for key in known if key not in dataset and key not in missing)
    strange = bool(absent) and not present and not growing
    none = [f"none of the frames refocused there is in it, such as {absent[0]}"] if strange else []
    return Recognition(
        compared=len(marks),
        differing=(*own, *none, *differing.values()),
        absent=absent,
        another=bool(own) or strange or (bool(marks) and len(differing) == len(marks)),
    )


def derived_id(dataset: Dataset, key: str, salt: str = "", pixels: int | None = None) -> str:
    """An id derived from the path and the first frame of a raw dataset: the same each time.

    Parameters
    ----------
    dataset : Dataset
    key : str
        Canonical axes of its first frame.
    salt : str
        Distinguishes recordings that begin alike.
    pixels : int, optional
        Checksum of that frame, if it has been read already.
    """
    form = dataset.format_of(key)
    place = os.path.normcase(dataset.path)
    shape = (form.height, form.width)
    pixels = dataset.checksum(key) if pixels is None else pixels
    content = [place, key, shape, form.dtype.name, pixels]
    return str(uuid.uuid5(_NAMESPACE, json.dumps([*content, salt] if salt else content)))


def _mark(dataset: Dataset, key: str) -> FrameMark:
    form = dataset.format_of(key)
    metadata: Mapping[str, Any]
    if dataset.is_slide(key):
        pixels, metadata = dataset.checksum(key), dataset.metadata(key)
    else:
        # Read in one go: a share may be slow, and fail now and then.
        frame = dataset.read(key)
        pixels, metadata = checksum(frame.pixels), frame.metadata
    times = _texts(metadata, _FRAME_TIMES)
    return FrameMark(form.height, form.width, form.dtype.name, f"{pixels:016x}", times)


def _summary(dataset: Dataset) -> Mapping[str, Any]:
    try:
        return dataset.summary
    except (InputError, OSError):  # damaged: the frames may be whole
        return {}


def _uuid(summary: Mapping[str, Any]) -> str:
    return _texts(summary, ("UUID",)).get("UUID", "")


def _texts(said: Mapping[str, Any], names: Iterable[str]) -> dict[str, str]:
    texts = ((name, said.get(name)) for name in names)
    return {
        name: text
        for name, text in texts
        if isinstance(text, str) and 0 < len(text) <= _MAX_CHARS and text.isascii()
    }


def _same(old: FrameMark, new: FrameMark) -> bool:
    if any(then != now for _, then, now in _both(old.times, new.times)):
        return False
    return msgspec.structs.replace(old, times=new.times) == new


def _both(old: Mapping[str, str], new: Mapping[str, str]) -> list[tuple[str, str, str]]:
    return [(name, old[name], new[name]) for name in old if name in new]

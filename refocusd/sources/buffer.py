"""Frames between the hook and the feed's thread: bounded, and each copied once at most."""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass
from typing import Any

import numpy as np

from refocusd.formats.tiff.page import Place
from refocusd.frame import Pixels

#: Most frames that wait to be read from disk, known by their axes only.
MAX_LATER = 100_000


@dataclass(slots=True)
class Held:
    """A frame in the buffer, or (with `place`) one that is still on disk only.

    `kept`: its pixels are the camera's own array, not a copy; others may read it.
    """

    axes: str
    taken_ns: int
    metadata: dict[str, Any]
    pixels: Pixels | None = None
    place: Place | None = None
    kept: bool = False


class FrameBuffer:
    """A queue of frames whose pixels take at most `nbytes`.

    When it is full the oldest frames make room, so that live stays fresh.  They are left to the
    raw dataset or, without one, named as missed.

    Parameters
    ----------
    nbytes : int
        Pixels held at most.

    Attributes
    ----------
    changed : threading.Condition
        Held while any attribute is used from outside; notified when frames come.
    keep_missed : bool
        Remember the axes of frames that went by: there is no raw dataset.
    missed : list of str
        Those axes.
    behind : int
        Frames that are left to the raw dataset, and that the daemon was not told of yet.
    """

    def __init__(self, nbytes: int) -> None:
        self.changed = threading.Condition()
        self.keep_missed = False
        self.missed: list[str] = []
        self.behind = 0
        self._room = nbytes
        self._held: deque[Held] = deque()
        self._spare: list[Pixels] = []

    def __len__(self) -> int:
        return len(self._held)

    @property
    def first(self) -> Held | None:
        """The oldest frame."""
        return self._held[0] if self._held else None

    def array_for(
        self, pixels: Pixels, *, displace: bool = True, keep: bool = False
    ) -> Pixels | None:
        """An array of that shape within the room: a spare, a new one, or the oldest frame's.

        Parameters
        ----------
        pixels : ndarray
        displace : bool
            The oldest frames make room; without, None means that it is full.
        keep : bool
            Make room for `pixels` themselves, and return them: nobody will write to that memory.
        """
        with self.changed:
            while True:
                while self._spare:
                    spare = self._spare.pop()
                    if not keep and spare.shape == pixels.shape and spare.dtype == pixels.dtype:
                        return spare
                    self._room += spare.nbytes
                if pixels.nbytes <= self._room:
                    self._room -= pixels.nbytes
                    return pixels if keep else np.empty_like(pixels)
                if not (displace and self._held):
                    return None
                oldest = self._held.popleft()
                self.miss(oldest.axes)
                self.give_back(oldest)

    def add(self, held: Held) -> None:
        """Queue a frame; the oldest goes where too many wait for the disk."""
        with self.changed:
            if len(self._held) >= MAX_LATER:
                self.miss(self._held.popleft().axes)
            self._held.append(held)
            self.changed.notify()

    def pop(self, *, newest: bool = False) -> Held:
        """Take the oldest frame, or the newest."""
        return self._held.pop() if newest else self._held.popleft()

    def give_back(self, held: Held) -> None:
        """The frame's pixels are copied elsewhere: its array may be used again, or is let go."""
        if held.pixels is None:
            return
        with self.changed:
            if held.kept:
                self._room += held.pixels.nbytes
            else:
                self._spare.append(held.pixels)

    def miss(self, axes: str) -> None:
        """Note a frame that is not submitted: counted if raw data has it, else named."""
        if not self.keep_missed:
            self.behind += 1
        elif len(self.missed) < MAX_LATER:
            self.missed.append(axes)

    def axes_left(self) -> list[str]:
        """Axes of what is still held."""
        return [held.axes for held in self._held]

    def clear(self) -> None:
        """Forget everything; the memory is free."""
        with self.changed:
            self._held.clear()
            self._spare.clear()

"""Frames between the hook and the feed's thread: a bounded buffer that copies each at most once."""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass
from typing import Any

import numpy as np

from refocusd.formats.tiff.page import Place
from refocusd.frame import Pixels

#: At most this many frames wait in the buffer, or are remembered by their axes.
MAX_LATER = 100_000


@dataclass(slots=True)
class Held:
    """A frame in the buffer, or with `place` one that is only on disk so far.

    If it is `kept`, its pixels are the camera's own array and not a copy; others may read it.
    """

    axes: str
    taken_ns: int
    metadata: dict[str, Any]
    pixels: Pixels | None = None
    place: Place | None = None
    kept: bool = False


class FrameBuffer:
    """A queue of frames whose pixels take at most `nbytes`.

    When it is full, the oldest frames make room, so that the live image stays current.  They are
    left to the catch-up from raw; without raw data, they are recorded as missed.

    Parameters
    ----------
    nbytes : int
        Bytes of pixels held at most.

    Attributes
    ----------
    changed : threading.Condition
        Must be held while any attribute is used from outside; notified when frames come.
    keep_missed : bool
        Whether to remember the axes of missed frames, because there is no raw dataset.
    missed : list of str
        Those axes.
    behind : int
        Frames that are left to the catch-up, and that were not reported to the daemon yet.
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
        """An array for a frame's pixels, or None if the buffer is full.

        Parameters
        ----------
        pixels : ndarray
            The array returned has its shape and dtype.
        displace : bool
            Whether the oldest frames make room for it.
        keep : bool
            Make room for `pixels` itself and return it: nobody will write to its memory.
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
        """Queue a frame; if too many wait, the oldest is missed."""
        with self.changed:
            if len(self._held) >= MAX_LATER:
                self.miss(self._held.popleft().axes)
            self._held.append(held)
            self.changed.notify()

    def pop(self, *, newest: bool = False) -> Held:
        """Remove and return the oldest frame, or the newest."""
        return self._held.pop() if newest else self._held.popleft()

    def give_back(self, held: Held) -> None:
        """Free a frame's array for another frame, now that its pixels have been copied elsewhere."""
        if held.pixels is None:
            return
        with self.changed:
            if held.kept:
                self._room += held.pixels.nbytes
            else:
                self._spare.append(held.pixels)

    def miss(self, axes: str) -> None:
        """Note a frame that is not submitted: count it if raw has it, otherwise remember its axes."""
        if not self.keep_missed:
            self.behind += 1
        elif len(self.missed) < MAX_LATER:
            self.missed.append(axes)

    def axes_left(self) -> list[str]:
        """Axes of the frames that are still held."""
        return [held.axes for held in self._held]

    def clear(self) -> None:
        """Forget all frames and free their memory."""
        with self.changed:
            self._held.clear()
            self._spare.clear()

"""Which frames a dataset holds, in eight bytes a frame."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import xxhash
from numpy.typing import NDArray

from refocusd.formats.tiff.page import PageFormat

#: New keys wait in a Python set until there are this many of them.
RECENT = 4096


class WrittenKeys:
    """A set of strings that keeps a 64-bit hash of each.

    Eight bytes a frame in a sorted array, and at most `RECENT` keys in a Python
    set (0.5 MiB).  Two of a million frames share a hash with a probability of
    3e-8; the second of them would be taken for written.
    """

    def __init__(self) -> None:
        self._sorted: NDArray[np.uint64] = np.empty(0, np.uint64)
        self._recent: set[int] = set()

    def __len__(self) -> int:
        return len(self._sorted) + len(self._recent)

    def __contains__(self, key: str) -> bool:
        hashed = _hash(key)
        if hashed in self._recent:
            return True
        place = int(np.searchsorted(self._sorted, np.uint64(hashed)))
        return place < len(self._sorted) and int(self._sorted[place]) == hashed

    def add(self, key: str) -> None:
        """Remember a key that is not in the set yet."""
        self._recent.add(_hash(key))
        if len(self._recent) >= RECENT:
            fresh = np.fromiter(self._recent, np.uint64, len(self._recent))
            self._sorted = np.sort(np.concatenate([self._sorted, fresh]))
            self._recent.clear()


@dataclass(slots=True)
class Written:
    """The frames of a dataset, as far as any writer must know them."""

    keys: WrittenKeys = field(default_factory=WrittenKeys)
    #: Of every frame; None before the first.
    format: PageFormat | None = None
    #: First byte behind the last whole record of the list of frames.
    end: int = 0


def _hash(key: str) -> int:
    # Names that came through JSON may hold lone surrogates.
    return xxhash.xxh3_64_intdigest(key.encode("utf-8", "surrogatepass"))

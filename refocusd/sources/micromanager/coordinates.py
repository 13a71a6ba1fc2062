"""The images that a growing acquisition may have: by its axes' lengths, minus those found."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from itertools import product

#: Slowest first, as acquisitions usually run; other axes come before them.
USUAL_ORDER = ("time", "position", "z", "channel")


class GrowingBox:
    """Coordinates within growing axes, each offered until it is found.

    Micro-Manager reports how many images there are and how long each axis is, but not
    which images came last.
    """

    def __init__(self) -> None:
        self._lengths: dict[str, int] = {}
        self._waiting: deque[dict[str, int]] = deque()

    def __len__(self) -> int:
        return len(self._waiting)

    def grow(self, lengths: Mapping[str, int]) -> None:
        """Wait for the coordinates that are new with these lengths of the axes.

        If there is a new axis, start from the beginning: images without it are
        different images.
        """
        # An axis of length 0 is not used by any image.
        new = {axis: lengths[axis] for axis in sorted(lengths, key=_rank) if lengths[axis] > 0}
        if set(new) != set(self._lengths):
            self._lengths = dict.fromkeys(new, 0)
            self._waiting.clear()
        grown = {axis: max(length, self._lengths[axis]) for axis, length in new.items()}
        self._waiting.extend(_between(self._lengths, grown))
        self._lengths = grown

    def next(self) -> dict[str, int] | None:
        """Remove and return the first coordinates that are waited for; None if there are none."""
        return self._waiting.popleft() if self._waiting else None

    def put_back(self, coordinates: dict[str, int]) -> None:
        """Wait for these coordinates again, after all others, because there was no image yet."""
        self._waiting.append(coordinates)


def _rank(axis: str) -> tuple[int, str]:
    return (USUAL_ORDER.index(axis) if axis in USUAL_ORDER else -1, axis)


def _between(old: Mapping[str, int], new: Mapping[str, int]) -> Iterator[dict[str, int]]:
    """Coordinates in the box `new` and not in `old`, each once."""
    axes = list(new)
    for i, axis in enumerate(axes):
        ranges = [
            *(range(old[before]) for before in axes[:i]),
            range(old[axis], new[axis]),
            *(range(new[after]) for after in axes[i + 1 :]),
        ]
        for values in product(*ranges):
            yield dict(zip(axes, values, strict=True))

"""Pairs of real frames, out of focus and in focus, as training batches.

Both frames of a pair are normalised with the offset and scale of the whole raw frame, as in the
engines, and are cropped, rotated and flipped in the same way.
"""

from __future__ import annotations

import itertools
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from refocusd.errors import InputError
from refocusd.frame import Pixels
from refocusd.imaging.normalise import CountsRange, counts_range
from refocusd_training.data.samples import MIN_SPAN, Batch

#: A frame on disk: the file or recording, and the index of the frame in it.
Place = tuple[str, int]
#: Frames are kept in memory up to this size, bytes; others are read again.
CACHE_BYTES = 1 << 30


@dataclass(frozen=True, slots=True)
class Pair:
    """Location of two frames of one field.

    Parameters
    ----------
    field, channel : str
    defocus_um : float
        Defocus of the raw frame, signed; NaN if it is not known.
    raw, truth : (str, int)
        Places, for `Frames`, of the frames out of focus and in focus.
    shift : (int, int)
        Shift of the truth relative to the raw frame, px, down and right.
    """

    field: str
    channel: str
    defocus_um: float
    raw: Place
    truth: Place
    shift: tuple[int, int] = (0, 0)


class Frames:
    """Reads frames from disk and caches those used last; safe for several threads.

    Parameters
    ----------
    read : callable
        Returns the pixels at a place; may raise `InputError`.
    cache_bytes : int
        Size of the cache.
    """

    def __init__(self, read: Callable[[Place], Pixels], cache_bytes: int = CACHE_BYTES) -> None:
        self._read = read
        self._most = cache_bytes
        self._kept: OrderedDict[Place, tuple[Pixels, CountsRange]] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def __call__(self, place: Place) -> tuple[Pixels, CountsRange]:
        """The frame, and its offset and scale."""
        with self._lock:
            if place in self._kept:
                self._kept.move_to_end(place)
                return self._kept[place]
            pixels = self._read(place)
            found = pixels, counts_range(pixels)
            self._kept[place] = found
            self._bytes += pixels.nbytes
            while self._bytes > self._most and len(self._kept) > 1:
                _, (oldest, _) = self._kept.popitem(last=False)
                self._bytes -= oldest.nbytes
            return found


class PairSource:
    """Batches of crops of pairs; see `SampleSource`.

    Parameters
    ----------
    train, validate : sequence of Pair
        Training draws channels evenly.
    frames : Frames
    description : mapping
    size, batch, seed : int
        See `open_samples`.
    validation_seed, validation_batches : int

    Raises
    ------
    InputError
        If there is no pair to train on.
    """

    def __init__(
        self,
        train: Sequence[Pair],
        validate: Sequence[Pair],
        frames: Frames,
        description: Mapping[str, object],
        *,
        size: int,
        batch: int,
        seed: int,
        validation_seed: int,
        validation_batches: int,
    ) -> None:
        if not train:
            raise InputError(
                "there is no pair to train on: give more fields, or smaller shares for validation "
                "and test"
            )
        self._train = _by_channel(train)
        self._validate = sorted(
            validate, key=lambda pair: (pair.defocus_um, pair.channel, pair.field)
        )
        self._frames = frames
        self._description = dict(description)
        self._size, self._batch, self._seed = size, batch, seed
        self._validation_seed = validation_seed
        self._validation_batches = validation_batches

    @property
    def description(self) -> dict[str, object]:
        """Describe the data: fields, split, channels and what was skipped."""
        return self._description

    def batches(self, first: int) -> Iterator[Batch]:
        """Yield the batches of step `first` and all later ones, without end."""
        for step in itertools.count(first):
            rng = np.random.default_rng([self._seed, step])
            chosen = []
            for _ in range(self._batch):
                pairs = self._train[int(rng.integers(len(self._train)))]
                chosen.append(pairs[int(rng.integers(len(pairs)))])
            yield self._collated(chosen, rng)

    def validation(self) -> list[Batch]:
        """Fixed batches, sorted by defocus: the fields of the validation side, spread evenly."""
        if not self._validate:
            return []
        count = self._validation_batches * self._batch
        places = np.linspace(0, len(self._validate) - 1, count).round().astype(int)
        rng = np.random.default_rng([self._validation_seed, 1 << 32])
        return [
            self._collated([self._validate[i] for i in places[at : at + self._batch]], rng)
            for at in range(0, count, self._batch)
        ]

    def _collated(self, pairs: Sequence[Pair], rng: np.random.Generator) -> Batch:
        raw, truth, span = [], [], []
        for pair in pairs:
            one, two = self._cut(pair, rng)
            raw.append(one)
            truth.append(two)
            low, high = np.percentile(two[::2, ::2], [0.1, 99.9])
            span.append(max(float(high - low), MIN_SPAN))
        return Batch(
            np.stack(raw)[:, None],
            np.stack(truth)[:, None],
            np.array(span, np.float32),
            np.array([pair.defocus_um for pair in pairs], np.float32),
        )

    def _cut(
        self, pair: Pair, rng: np.random.Generator
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        pixels, counts = self._frames(pair.raw)
        sharp, _ = self._frames(pair.truth)
        if pixels.shape != sharp.shape:
            raise InputError(f"the frames of {pair.field} differ in size: leave that field out")
        corner = []
        for side, shift in zip(pixels.shape, pair.shift, strict=True):
            low, high = max(0, -shift), side - self._size - max(0, shift)
            if high < low:
                raise InputError(
                    f"{pair.field} has frames of {pixels.shape[1]}x{pixels.shape[0]} px, and "
                    f"training frames have {self._size}: set a smaller size"
                )
            corner.append(int(rng.integers(low, high + 1)))
        (top, left), (down, right) = corner, pair.shift
        window = pixels[top : top + self._size, left : left + self._size]
        top, left = top + down, left + right
        target = sharp[top : top + self._size, left : left + self._size]
        turns, flip = int(rng.integers(4)), rng.random() < 0.5
        one, two = (
            np.ascontiguousarray(_turned(counts.normalise(part), turns, flip))
            for part in (window, target)
        )
        return one, two


def _turned(part: NDArray[np.float32], turns: int, flip: bool) -> NDArray[np.float32]:
    turned = np.rot90(part, turns)
    return turned[:, ::-1] if flip else turned


def _by_channel(pairs: Sequence[Pair]) -> list[list[Pair]]:
    names = sorted({pair.channel for pair in pairs})
    return [[pair for pair in pairs if pair.channel == name] for name in names]

"""Assigns images to training, validation and test; near-duplicates always to the same side.

Many BBBC038 images are neighbouring tiles of one field: the last row or column
of one continues in the first of the other.  Such edges correlate above 0.97,
those of unrelated images rarely above 0.9.  A few images show the same specimen again:
every pair is registered by masked normalised cross-correlation (D. Padfield,
IEEE Trans. Image Process. 21, 2706, 2012) on 4× reduced images over all shifts
that leave enough overlap.  Images that are linked in either way are one cluster, and a
cluster is drawn as a whole.  The result, `split.csv`, is part of the repository, because a split
is data.
"""

from __future__ import annotations

import csv
import hashlib
import io
import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np
import scipy.fft
import scipy.ndimage
from numpy.typing import NDArray
from scipy.cluster.hierarchy import DisjointSet

from refocusd.errors import InputError
from refocusd_training.data.images import pixels_digest

Side = Literal["train", "validate", "test", "excluded"]

#: Reduction before registration.
REDUCTION = 4
#: Smoothing before it, sigma in pixels, because a crop's offset need not be a multiple of 4.
SMOOTHING = 3.0
#: Correlation above which two images show the same specimen.  A crop reaches
#: it at any offset; unrelated images with few nuclei sometimes reach it by chance, and
#: joining a few of them does no harm.
DUPLICATE = 0.95
#: Correlation above which two edges continue each other.
CONTINUED = 0.95
#: Least overlap, as a share of the smaller image.
OVERLAP = 0.25
DIGEST_DIGITS = 16
#: If an earlier split has images of one cluster on several sides, the last of these wins.
_STRONGER: tuple[Side, ...] = ("validate", "test", "train")


@dataclass(frozen=True, slots=True)
class Entry:
    """One image of the split.

    Parameters
    ----------
    name : str
        File name.
    digest : str
        Leading hexadecimal digits of `pixels_digest`.
    cluster : int
        Images of one cluster show the same specimen, or parts of it.
    side : str
        ``train``, ``validate``, ``test`` or ``excluded``.
    reason : str
        Why it is excluded; empty otherwise.
    """

    name: str
    digest: str
    cluster: int
    side: Side
    reason: str = ""


def unusable(image: NDArray[np.generic]) -> str:
    """Why an image cannot serve as a sharp fluorescence specimen; empty if it can.

    It needs contrast (12 counts between P1 and P99.9), a dark background (median in the lower 60 %
    of this range), and edges (the 99.5th percentile of the gradient at a scale of 1 px is at
    least 6 % of the range per pixel).
    """
    values = image.astype(np.float32)
    low, median, high = np.percentile(values, [1, 50, 99.9])
    span = float(high - low)
    if span < 12:
        return "no contrast"
    if (median - low) / span > 0.6:
        return "bright background"
    gradient = scipy.ndimage.gaussian_gradient_magnitude(values, 1.0)
    if np.percentile(gradient, 99.5) / span < 0.06:
        return "blurred"
    return ""


def _reduced(image: NDArray[np.generic]) -> NDArray[np.float32]:
    smooth = scipy.ndimage.gaussian_filter(image.astype(np.float32), SMOOTHING)
    small = smooth[REDUCTION // 2 :: REDUCTION, REDUCTION // 2 :: REDUCTION]
    # The square root keeps a few bright nuclei from dominating the correlation.
    root = np.sqrt(np.maximum(small - small.min(), 0))
    return np.asarray((root - root.mean()) / (root.std() + 1e-6), dtype=np.float32)


class _Spectra:
    """Spectra of a reduced image for its correlations, on one grid."""

    def __init__(self, image: NDArray[np.float32], grid: tuple[int, int]) -> None:
        self.pixels = image.size
        self.image = scipy.fft.rfft2(image, grid)
        self.square = scipy.fft.rfft2(image**2, grid)
        self.mask = scipy.fft.rfft2(np.ones_like(image), grid)


def _peak(one: _Spectra, two: _Spectra, grid: tuple[int, int]) -> float:
    def shifted(first: NDArray[np.complex64], second: NDArray[np.complex64]) -> NDArray[np.float32]:
        return np.asarray(scipy.fft.irfft2(first * np.conj(second), grid), dtype=np.float32)

    overlap = np.maximum(shifted(one.mask, two.mask), 1.0)
    sum1 = shifted(one.image, two.mask)
    sum2 = shifted(one.mask, two.image)
    product = shifted(one.image, two.image) - sum1 * sum2 / overlap
    var1 = shifted(one.square, two.mask) - sum1**2 / overlap
    var2 = shifted(one.mask, two.square) - sum2**2 / overlap
    # An overlap without structures correlates by chance, so it must have a quarter of the variance.
    enough = (
        (overlap >= OVERLAP * min(one.pixels, two.pixels))
        & (var1 > 0.25 * overlap)
        & (var2 > 0.25 * overlap)
    )
    if not enough.any():
        return 0.0
    return float(np.max(product[enough] / np.sqrt(var1[enough] * var2[enough])))


def correlation(one: NDArray[np.generic], two: NDArray[np.generic]) -> float:
    """Largest masked normalised cross-correlation of two images over their shifts.

    Returns
    -------
    float
        1 for a crop and its source; 0 if no shift gives enough overlap.
    """
    first, second = _reduced(one), _reduced(two)
    grid = _grid(first.shape, second.shape)
    return _peak(_Spectra(first, grid), _Spectra(second, grid), grid)


def _continued(images: Sequence[NDArray[np.generic]]) -> list[tuple[int, int]]:
    """Pairs of equally large images of which one continues the other."""
    pairs: list[tuple[int, int]] = []
    by_shape: dict[tuple[int, ...], list[int]] = {}
    for i, image in enumerate(images):
        by_shape.setdefault(image.shape, []).append(i)
    for members in by_shape.values():
        roots = [np.sqrt(images[i].astype(np.float32)) for i in members]
        for ends in (
            (np.array([r[-1] for r in roots]), np.array([r[0] for r in roots])),
            (np.array([r[:, -1] for r in roots]), np.array([r[:, 0] for r in roots])),
        ):
            last, first = (edges - edges.mean(axis=1, keepdims=True) for edges in ends)
            spread = np.sqrt(np.outer((last**2).mean(axis=1), (first**2).mean(axis=1)))
            match = last @ first.T / last.shape[1] / np.maximum(spread, 1e-6)
            # Edges without structures (a spread under half a root count) are ignored.
            match[(spread < 0.25) | np.eye(len(members), dtype=bool)] = 0.0
            found = zip(*np.nonzero(match >= CONTINUED), strict=True)
            pairs.extend((members[int(i)], members[int(j)]) for i, j in found)
    return pairs


def _grid(one: tuple[int, ...], two: tuple[int, ...]) -> tuple[int, int]:
    sides = [scipy.fft.next_fast_len(a + b, real=True) for a, b in zip(one, two, strict=True)]
    return sides[0], sides[1]


def clusters_of(images: Sequence[NDArray[np.generic]]) -> list[int]:
    """Number of the cluster of each image; near-duplicates share one.

    Parameters
    ----------
    images : sequence of ndarray, shape (height, width)

    Returns
    -------
    list of int
        Numbered in order of first appearance.
    """
    reduced = [_reduced(image) for image in images]
    clusters = DisjointSet(range(len(images)))
    for i, j in _continued(images):
        clusters.merge(i, j)
    by_shape: dict[tuple[int, ...], list[int]] = {}
    for i, small in enumerate(reduced):
        by_shape.setdefault(small.shape, []).append(i)
    shapes = sorted(by_shape)
    for a, b in itertools.combinations_with_replacement(shapes, 2):
        grid = _grid(a, b)
        spectra = {i: _Spectra(reduced[i], grid) for i in {*by_shape[a], *by_shape[b]}}
        pairs = (
            itertools.combinations(by_shape[a], 2)
            if a == b
            else itertools.product(by_shape[a], by_shape[b])
        )
        for i, j in pairs:
            apart = not clusters.connected(i, j)
            if apart and _peak(spectra[i], spectra[j], grid) >= DUPLICATE:
                clusters.merge(i, j)
    numbers: dict[int, int] = {}
    return [numbers.setdefault(clusters[i], len(numbers)) for i in range(len(images))]


def make_split(
    images: Mapping[str, NDArray[np.generic]],
    held_out: Sequence[NDArray[np.generic]],
    *,
    seed: int,
    settled: Mapping[str, Side] | None = None,
    test: float = 0.15,
    validate: float = 0.08,
) -> list[Entry]:
    """Draw whole clusters for each side.

    A split with which networks were trained can be extended, and its clusters can be
    improved, without a training image ever becoming a test image: images with a side in an
    earlier split keep it, and a test or validation image that turns out to show the same specimen
    as a training image is excluded.

    Parameters
    ----------
    images : mapping of str to ndarray
        Images by file name.
    held_out : sequence of ndarray
        Images that show the same specimen as one of these are on the test side.
    seed : int
    settled : mapping of str to str, optional
        Sides of an earlier split, by file name.
    test, validate : float
        Approximate shares of the images.

    Returns
    -------
    list of Entry
        Sorted by name; they depend only on the arguments.

    Raises
    ------
    InputError
        If a held-out specimen is settled on the training side.
    """
    names = sorted(images)
    numbers = clusters_of([*(images[name] for name in names), *held_out])
    forced = set(numbers[len(names) :])
    members: dict[int, list[str]] = {}
    for name, number in zip(names, numbers, strict=False):
        members.setdefault(number, []).append(name)
    side_of: dict[int, Side] = dict.fromkeys(forced, "test")
    kept = settled or {}
    for number, inside in members.items():
        sides = {kept.get(name) for name in inside}
        if number in forced and "train" in sides:
            raise InputError(f"{inside} show a held-out specimen but were trained on: start again")
        for known in _STRONGER:
            if number not in forced and known in sides:
                side_of[number] = known
    order = sorted(set(members) - set(side_of))
    np.random.default_rng(seed).shuffle(order)
    tested = sum(len(members.get(n, ())) for n, side in side_of.items() if side == "test")
    validated = sum(len(members[n]) for n, side in side_of.items() if side == "validate")
    for number in order:
        size = len(members[number])
        if tested + size <= test * len(names):
            side_of[number] = "test"
            tested += size
        elif validated + size <= validate * len(names):
            side_of[number] = "validate"
            validated += size
        else:
            side_of[number] = "train"
    entries = []
    for name, number in zip(names, numbers, strict=False):
        reason = unusable(images[name])
        if side_of[number] == "train" and kept.get(name) in ("test", "validate"):
            reason = "shows what training saw"
        side: Side = "excluded" if reason else side_of[number]
        digest = pixels_digest(images[name])[:DIGEST_DIGITS]
        entries.append(Entry(name, digest, number, side, reason))
    return entries


def write_split(entries: Iterable[Entry], path: Path) -> None:
    """Write the entries as CSV in UTF-8, one image per line."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["name", "sha256", "cluster", "side", "reason"])
        for entry in entries:
            writer.writerow([entry.name, entry.digest, entry.cluster, entry.side, entry.reason])


def _shipped() -> str:
    return (
        resources.files("refocusd_training.data").joinpath("split.csv").read_text(encoding="utf-8")
    )


def load_split(path: Path | None = None) -> list[Entry]:
    """Read the entries of a split file; by default of the shipped one.

    Raises
    ------
    InputError
        If a line is not an entry.
    """
    text = _shipped() if path is None else path.read_text(encoding="utf-8")
    entries = []
    for number, row in enumerate(csv.DictReader(io.StringIO(text)), start=2):
        try:
            values = {**row, "digest": row["sha256"]}
            entries.append(msgspec.convert(values, Entry, strict=False))
        except (KeyError, msgspec.ValidationError) as error:
            raise InputError(f"line {number} of the split is not an entry ({error})") from error
    return entries


def split_digest(path: Path | None = None) -> str:
    """SHA-256 of a split file with normalised line ends, for a bundle's provenance."""
    text = _shipped() if path is None else path.read_text(encoding="utf-8")
    return hashlib.sha256(text.encode()).hexdigest()

"""Generated structures that are not nuclei: sharp images of filaments, membranes, puncta and textures.

A network that has only seen nuclei draws nuclei into everything.  These images have no round,
filled objects of one size; their scale varies by a factor of six, so that at any scale at which a
network works, some of them are as fine as its pixels.

Each generator takes the random generator and the shape, and returns float32 in [0, 1] with a dark
background near 0. The brightest 0.1 % of the pixels are clipped at 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeAlias

import numpy as np
import scipy.ndimage
import scipy.spatial
from numpy.typing import NDArray

Image: TypeAlias = NDArray[np.float32]
Points: TypeAlias = NDArray[np.float64]

#: Distance between the points of a curve, in units of its width (sigma).
STEP = 0.8


def filaments(rng: np.random.Generator, shape: tuple[int, int]) -> Image:
    """Curves of constant width: microtubules, stress fibres, vimentin, mitochondria.

    Parameters
    ----------
    rng : numpy.random.Generator
    shape : (height, width)

    Returns
    -------
    ndarray of float32, shape (height, width)
    """
    scale = _scale(rng, shape)
    width = scale * float(rng.uniform(0.6, 1.1))
    image = np.zeros(shape)
    for _ in range(int(rng.integers(1, 3))):
        image += rng.uniform(0.4, 1.0) * _drawn(*_curves(rng, shape, width), shape, width)
        width *= float(rng.uniform(1.5, 2.5))
    if rng.random() < 0.3:
        image += rng.uniform(0.3, 1.0) * _speckle(rng, shape, scale, 0.0005)
    return _exposed(rng, image, scale)


def membranes(rng: np.random.Generator, shape: tuple[int, int]) -> Image:
    """Outlines: sheets of touching cells, single cells with ruffled borders, vacuoles.

    Parameters
    ----------
    rng : numpy.random.Generator
    shape : (height, width)

    Returns
    -------
    ndarray of float32, shape (height, width)
    """
    scale = _scale(rng, shape)
    width = scale * float(rng.uniform(0.6, 1.3))
    cell = min(scale * float(rng.uniform(12.0, 40.0)), min(shape) / 3)
    outlines = _sheet if rng.random() < 0.5 else _contours
    points, weights = outlines(rng, shape, width, cell)
    points += _displacement(rng, points, shape, cell)
    image = _drawn(points, weights, shape, width)
    if rng.random() < 0.6:  # Membranes inside the cell, or out of the plane.
        fill = scipy.ndimage.gaussian_filter(image, cell / 4)
        image += (
            rng.uniform(0.2, 1.0)
            * fill
            * np.maximum(_field(rng, shape, 2 * width, cell) + rng.uniform(0.5, 3.0), 0)
        )
    return _exposed(rng, image, scale)


def puncta(rng: np.random.Generator, shape: tuple[int, int]) -> Image:
    """Spots and small rings, scattered or clustered: vesicles, pores, beads, transcripts.

    Parameters
    ----------
    rng : numpy.random.Generator
    shape : (height, width)

    Returns
    -------
    ndarray of float32, shape (height, width)
    """
    scale = _scale(rng, shape)
    crowd = None
    if rng.random() < 0.6:
        crowd = _field(rng, shape, 10 * scale, 40 * scale)
        crowd = np.maximum(crowd - np.percentile(crowd, rng.uniform(20, 75)), 0)
    image = np.zeros(shape)
    for _ in range(int(rng.integers(1, 4))):
        density = _log_uniform(rng, 5e-4, 2e-2) / scale**2
        spots = _speckle(rng, shape, scale * float(rng.uniform(0.5, 2.2)), density, crowd)
        image += rng.uniform(0.3, 1.0) * spots
    if crowd is not None and rng.random() < 0.5:
        image += rng.uniform(0.0, 0.3) * crowd / max(float(crowd.max()), 1e-6)
    return _exposed(rng, image, scale)


def textures(rng: np.random.Generator, shape: tuple[int, int]) -> Image:
    """Random fields inside patches without a sharp border: cytoplasm, reticulum, chromatin, tissue.

    Parameters
    ----------
    rng : numpy.random.Generator
    shape : (height, width)

    Returns
    -------
    ndarray of float32, shape (height, width)
    """
    scale = _scale(rng, shape)
    fine, coarse = scale * rng.uniform(0.6, 1.5), scale * rng.uniform(3.0, 30.0)
    angle = float(rng.uniform(0, math.pi)) if rng.random() < 0.4 else None
    grain = _field(rng, shape, fine, coarse, angle)
    kind = rng.integers(4)
    if kind == 0:
        image = np.maximum(grain + rng.uniform(0.5, 2.0), 0)
    elif kind == 1:  # Zero crossings of a random field are a net of ridges.
        image = np.exp(-((grain / rng.uniform(0.1, 0.4)) ** 2))
    elif kind == 2:
        image = np.exp(rng.uniform(0.5, 1.2) * grain)
    else:
        image = np.maximum(grain - rng.uniform(0.3, 1.2), 0)
    if rng.random() < 0.8:
        patch = _field(rng, shape, 15 * scale, 60 * scale)
        patch = patch - np.percentile(patch, rng.uniform(10, 70))
        image = image * np.clip(patch / rng.uniform(0.05, 1.0), 0, 1)
    return _exposed(rng, image, scale)


#: All of them, for a source that draws one.
GENERATORS: tuple[Callable[[np.random.Generator, tuple[int, int]], Image], ...] = (
    filaments,
    membranes,
    puncta,
    textures,
)


def _scale(rng: np.random.Generator, shape: tuple[int, int]) -> float:
    return _log_uniform(rng, 1.0, min(6.0, max(min(shape) / 25, 1.2)))


def _log_uniform(rng: np.random.Generator, low: float, high: float) -> float:
    return math.exp(rng.uniform(math.log(low), math.log(high)))


def _exposed(rng: np.random.Generator, image: NDArray[np.float64], scale: float) -> Image:
    """Scale an image to [0, 1]; half of the images get the haze of structures out of the plane."""
    if rng.random() < 0.5:
        haze = scipy.ndimage.zoom(
            scipy.ndimage.gaussian_filter(image[::4, ::4], 2.5 * scale), 4, order=1
        )
        haze = haze[: image.shape[0], : image.shape[1]]
        image = image + rng.uniform(0.0, 0.7) * haze
    top = float(np.percentile(image, 99.9))
    if top <= 0:  # Everything bright is smaller than 0.1 % of the pixels, or there is nothing.
        top = float(image.max()) or 1.0
    return np.clip(image / top, 0.0, 1.0).astype(np.float32)


def _drawn(
    points: Points, weights: NDArray[np.float64], shape: tuple[int, int], width: float
) -> NDArray[np.float64]:
    """Draw points (row, column) as Gaussian spots of standard deviation `width`; lines peak at about 1."""
    inside = np.all((points > 0) & (points < np.array(shape) - 1.001), axis=-1)
    points, weights = points[inside], weights[inside]
    first = points.astype(np.intp)
    (down, right), (up, left) = (points - first).T, (1 - points + first).T
    index = first[:, 0] * shape[1] + first[:, 1]
    image = np.zeros(shape[0] * shape[1])
    shares = (
        (0, up * left),
        (1, up * right),
        (shape[1], down * left),
        (shape[1] + 1, down * right),
    )
    for offset, share in shares:
        image += np.bincount(index + offset, share * weights, image.size)
    return scipy.ndimage.gaussian_filter(image.reshape(shape), width, truncate=4.0) * width**2


def _curves(
    rng: np.random.Generator, shape: tuple[int, int], width: float
) -> tuple[Points, NDArray[np.float64]]:
    """Points and weights of random walks with persistence: a mesh, asters, bundles, or short worms."""
    step = STEP * width
    area = shape[0] * shape[1] / width**2
    kind = rng.integers(4)
    worms = kind == 3
    reach = rng.uniform(8, 25) if worms else rng.uniform(60, 250)  # In widths.
    number = max(int(area * _log_uniform(rng, 0.1, 1.0) / (2 * reach)), 5)
    steps = max(int(reach / STEP), 4)
    start = rng.uniform(-0.1, 1.1, (number, 2)) * shape
    heading = rng.uniform(0, 2 * math.pi, number)
    if kind == 1:
        centres = rng.uniform(0, 1, (int(rng.integers(1, 6)), 2)) * shape
        start = centres[rng.integers(len(centres), size=number)]
        start = start + rng.normal(0, 4 * width, start.shape)
    elif kind == 2:
        coarse = _field(rng, shape, 60 * width, 200 * width)
        rows, columns = (np.clip(start, 0, np.array(shape) - 1).astype(int)).T
        heading = rng.uniform(0, math.pi) + 0.6 * coarse[rows, columns]
        heading = heading + rng.normal(0, 0.06, number)
    memory = rng.uniform(4, 15) if worms else rng.uniform(40, 400)
    turns = rng.normal(0, math.sqrt(2 * STEP / memory), (number, steps))
    angles = heading[:, None] + np.cumsum(turns, axis=1)
    moves = step * np.stack([np.sin(angles), np.cos(angles)], axis=-1)
    points = start[:, None] + np.cumsum(moves, axis=1)
    along = np.arange(steps)
    length = steps * rng.uniform(0.3, 1.0, (number, 1))
    wave = rng.uniform(0, 2 * math.pi, (number, 1)) + along * rng.uniform(0.02, 0.3, (number, 1))
    bright = rng.lognormal(0, 0.5, (number, 1)) * (1 + rng.uniform(0, 0.6) * np.sin(wave))
    weights = bright * (along < length)
    return points.reshape(-1, 2), weights.reshape(-1)


def _sheet(
    rng: np.random.Generator, shape: tuple[int, int], width: float, cell: float
) -> tuple[Points, NDArray[np.float64]]:
    """Borders of touching cells: the edges of a Voronoi diagram, each of its own brightness."""
    rows, columns = (int(side / cell) + 5 for side in shape)
    grid = np.stack(np.meshgrid(np.arange(rows), np.arange(columns), indexing="ij"), axis=-1)
    seeds = (grid.reshape(-1, 2) - 2 + rng.uniform(-0.45, 0.45, (rows * columns, 2))) * cell
    diagram = scipy.spatial.Voronoi(seeds)
    edges = np.array([ridge for ridge in diagram.ridge_vertices if ridge[0] >= 0])
    first, last = diagram.vertices[edges[:, 0]], diagram.vertices[edges[:, 1]]
    length = np.minimum(np.linalg.norm(last - first, axis=1), 4 * cell)
    count = np.maximum((length / (STEP * width)).astype(int), 1)
    bright = rng.lognormal(0, 0.35, len(count)) * (rng.random(len(count)) > rng.uniform(0, 0.25))
    edge = np.repeat(np.arange(len(count)), count)
    place = (np.arange(len(edge)) - np.repeat(np.cumsum(count) - count, count)) / count[edge]
    return first[edge] + place[:, None] * (last - first)[edge], bright[edge]


def _contours(
    rng: np.random.Generator, shape: tuple[int, int], width: float, cell: float
) -> tuple[Points, NDArray[np.float64]]:
    """Closed outlines of single cells: ellipses with random lobes, some with vacuoles inside."""
    number = max(int(shape[0] * shape[1] / (3 * cell) ** 2 * rng.uniform(0.3, 1.5)), 3)
    radius = cell * rng.lognormal(0, 0.3, number)
    centres = rng.uniform(0, 1, (number, 2)) * shape
    if rng.random() < 0.5:
        inner = rng.integers(number, size=3 * number)
        centres = np.concatenate(
            [centres, centres[inner] + rng.normal(0, 0.35 * cell, (3 * number, 2))]
        )
        radius = np.concatenate([radius, radius[inner] * rng.uniform(0.06, 0.3, 3 * number)])
    steps = int(2 * math.pi * 1.5 * cell / (STEP * width))
    turn = np.linspace(0, 2 * math.pi, steps, endpoint=False)
    lobes = np.ones((len(radius), steps))
    for order in range(2, 9):
        size = rng.normal(0, rng.uniform(0.1, 0.35) / order, (len(radius), 1))
        lobes += size * np.cos(order * turn + rng.uniform(0, 2 * math.pi, (len(radius), 1)))
    outline = np.stack([np.sin(turn), np.cos(turn)], axis=-1) * (radius[:, None] * lobes)[..., None]
    points = centres[:, None] + outline
    ruffle = 1 + rng.uniform(0, 0.8) * np.sin(
        turn * rng.integers(1, 7) + rng.uniform(0, 2 * math.pi, (len(radius), 1))
    )
    # The same light per length of outline, whatever its radius.
    weights = rng.lognormal(0, 0.3, (len(radius), 1)) * ruffle * radius[:, None] / (1.5 * cell)
    return points.reshape(-1, 2), weights.reshape(-1)


def _displacement(
    rng: np.random.Generator, points: Points, shape: tuple[int, int], cell: float
) -> Points:
    """A smooth shift of each point, by which straight edges become wavy."""
    rows, columns = np.clip(points, 0, np.array(shape) - 1).astype(int).T
    shift = [_field(rng, shape, cell / 8, cell / 2)[rows, columns] for _ in range(2)]
    return rng.uniform(0.01, 0.06) * cell * np.stack(shift, axis=-1)


def _speckle(
    rng: np.random.Generator,
    shape: tuple[int, int],
    width: float,
    density: float,
    crowd: NDArray[np.float64] | None = None,
) -> NDArray[np.float64]:
    """Spots of log-normal brightness, `density` per pixel, more where `crowd` is high; some are rings."""
    number = max(int(density * shape[0] * shape[1]), 12)
    if crowd is None:
        points = rng.uniform(0, 1, (number, 2)) * shape
    else:
        chance = np.cumsum(crowd)
        pixels = np.searchsorted(chance, rng.uniform(0, chance[-1], number))
        points = np.stack(np.unravel_index(pixels, shape), axis=-1) + rng.uniform(0, 1, (number, 2))
    weights = rng.lognormal(0, rng.uniform(0.1, 0.9), number)
    if rng.random() < 0.25:
        radius = width * rng.uniform(2.0, 4.0) * rng.lognormal(0, 0.2, (number, 1))
        turn = np.linspace(0, 2 * math.pi, 24, endpoint=False)
        ring = np.stack([np.sin(turn), np.cos(turn)], axis=-1) * radius[..., None]
        points = (points[:, None] + ring).reshape(-1, 2)
        weights = np.repeat(weights / 6, 24)
    return _drawn(points, weights, shape, width) * 2 * math.pi


def _field(
    rng: np.random.Generator,
    shape: tuple[int, int],
    fine: float,
    coarse: float,
    angle: float | None = None,
) -> NDArray[np.float64]:
    """A Gaussian random field of mean 0 and variance 1, with structures of `fine` to `coarse` pixels.

    Its power falls as 1/f^3 between the two; `angle` stretches it threefold in one direction.
    Coarse fields are drawn on a coarser grid.
    """
    skip = max(int(fine / 2), 1)
    small = tuple(-(-side // skip) + 1 for side in shape)
    rows = np.fft.fftfreq(small[0])[:, None] / skip
    columns = np.fft.rfftfreq(small[1])[None] / skip
    if angle is not None:
        cos, sin = math.cos(angle), math.sin(angle)
        rows, columns = 1.7 * (cos * rows + sin * columns), (cos * columns - sin * rows) / 1.7
    square = rows**2 + columns**2
    power = (square + (0.5 / coarse) ** 2) ** -0.75 * np.exp(-2 * (math.pi * fine) ** 2 * square)
    noise = np.fft.rfft2(rng.standard_normal(small)) * power
    noise[0, 0] = 0
    field = np.fft.irfft2(noise, s=small)
    field /= max(float(field.std()), 1e-12)
    if skip > 1:
        field = scipy.ndimage.zoom(field, skip, order=3, grid_mode=True, mode="nearest")
    return np.asarray(field[: shape[0], : shape[1]], np.float64)

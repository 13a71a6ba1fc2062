"""An endless stream of training batches, simulated while the network trains.

One thread simulates ahead (numpy and scipy release the interpreter's lock).
Transfer functions come from a bank that is renewed continuously, because they
take longer to compute than an exposure.  A stream depends only on its
seed, not on timing.
"""

from __future__ import annotations

import itertools
import math
import queue
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

import numpy as np
import scipy.ndimage
from numpy.typing import NDArray

from refocusd_training.simulate.blur import Defocus, best_focus_um
from refocusd_training.simulate.camera import Camera
from refocusd_training.simulate.depth import (
    blurred_layers,
    depths_um,
    layer_transfers,
    layers_of,
)
from refocusd_training.simulate.imperfections import uneven, with_debris
from refocusd_training.simulate.ranges import (
    DEFAULT_RANGES,
    TRAINED_DEPTH_UM,
    Ranges,
    draw_camera,
    draw_defocus,
    draw_optics,
    draw_peak,
)
from refocusd_training.simulate.scene import Scene, expose_scene
from refocusd_training.simulate.specimen import window
from refocusd_training.simulate.structures import GENERATORS

#: Surroundings of a training frame, reflected or real, px: wider than the widest
#: trained disc (36 µm at NA 0.5: 35 px) and its rings.
MARGIN = 64
#: Share of frames that show only noise, which must stay empty.
EMPTY_SHARE = 0.03
#: Share of frames that are normalised as part of a larger, brighter frame.
DIMMED_SHARE = 0.25
#: Least range of a truth, in network units, by which the errors of a frame, even an empty one,
#: are divided.
MIN_SPAN = 0.5


#: Independent random streams of one seed.
_FRAMES, _TRANSFERS = 0, 1


@dataclass(frozen=True, slots=True)
class Batch:
    """A step's frames, in network units.

    Parameters
    ----------
    raw, truth : ndarray of float32, shape (batch, 1, size, size)
        Input of the network, and its wanted output.
    span : ndarray of float32, shape (batch,)
        Range of each truth.
    defocus_um : ndarray of float32, shape (batch,)
        Distance of each raw frame from focus in um, signed; NaN if it is unknown, or if the frame
        shows nothing.
    """

    raw: NDArray[np.float32]
    truth: NDArray[np.float32]
    span: NDArray[np.float32]
    defocus_um: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class _Transfers:
    """One drawn microscope; transfer functions of shape (layers, height, width // 2 + 1)."""

    unfocused: NDArray[np.float32]
    in_focus: NDArray[np.float32]
    defocus_um: float


@dataclass(frozen=True, slots=True)
class Exposure:
    """A frame before it reaches the camera: everything that is drawn at random except the noise.

    Parameters
    ----------
    layers : ndarray of float32, shape (layers, height, width)
        Light of the specimen, with `MARGIN` px around the frame.
    unfocused, in_focus : ndarray of float32, shape (layers, height, width // 2 + 1)
        Transfer function of each layer.
    camera : Camera
    peak : float
    haze, shading : ndarray of float32, shape (height, width) or (1, 1)
        Background light and vignetting, see `expose_scene`; without the margin.
    defocus_um : float
        NaN for a frame that shows nothing.
    """

    layers: NDArray[np.float32]
    unfocused: NDArray[np.float32]
    in_focus: NDArray[np.float32]
    camera: Camera
    peak: float
    haze: NDArray[np.float32]
    shading: NDArray[np.float32]
    defocus_um: float


class SampleStream:
    """Draws batches of simulated frames.

    Parameters
    ----------
    specimens : sequence of ndarray of float32, shape (height, width)
        Flux, see `flux_of`.  Larger specimens are drawn more often, up to 4 times.
    size : int
        Side of a training frame, px.
    batch : int
        Frames per batch.
    bank : int
        Number of transfer functions that are kept; one is renewed with each batch.
    seed : int
    ranges : Ranges
        Ranges of optics and cameras.
    channels : sequence of int, optional
        Number of each specimen's channel; channels are drawn evenly.
    layers : int
        Layers of a specimen; 1 is a plane, which may have a thickness.
    depth_um : pair of float
        Range from which the depth of several layers is drawn, in um.
    """

    def __init__(
        self,
        specimens: Sequence[NDArray[np.float32]],
        *,
        size: int,
        batch: int,
        bank: int,
        seed: int,
        ranges: Ranges = DEFAULT_RANGES,
        channels: Sequence[int] | None = None,
        layers: int = 1,
        depth_um: tuple[float, float] = TRAINED_DEPTH_UM,
    ) -> None:
        self._ranges = ranges
        self._layers = layers
        self._depth_um = depth_um
        self._specimens = specimens
        self._size = size
        self._batch = batch
        self._bank_size = bank
        self._seed = seed
        areas = np.array([flux.size for flux in specimens], dtype=np.float64)
        weights = np.clip(areas / 256**2, 1.0, 4.0)
        if channels is not None:
            numbers, index = np.unique(np.asarray(channels), return_inverse=True)
            for number in range(len(numbers)):
                weights[index == number] /= weights[index == number].sum()
        self._probabilities = weights / weights.sum()

    def __iter__(self) -> Iterator[Batch]:
        """Yield batches without end, from the first step."""
        return self.batches(0)

    def batches(self, first: int) -> Iterator[Batch]:
        """Yield the batches of step `first` and all later ones.

        A batch depends only on the seed and its step, so that a resumed run
        gets the same batches as an uninterrupted one.
        """
        for rng, bank in self._steps(first):
            frames = [self._frame(rng, bank) for _ in range(self._batch)]
            yield collate(frames, rng)

    def exposures(self, first: int) -> Iterator[tuple[list[Exposure], NDArray[np.float32]]]:
        """Yield exposures for `simulate.torch_exposure`, from step `first` on.

        Yields
        ------
        list of Exposure
            Exposures of a step, with the same distribution as those of `batches`, but not equal to them.
        ndarray of float32, shape (batch,)
            Factor by which each frame's range is multiplied; see `collate`.
        """
        for rng, bank in self._steps(first):
            drawn = [self._exposure(rng, bank) for _ in range(self._batch)]
            yield drawn, np.array([_dimming(rng) for _ in drawn], np.float32)

    def _steps(self, first: int) -> Iterator[tuple[np.random.Generator, Sequence[_Transfers]]]:
        """Random numbers of each step, and the transfer functions to draw from."""
        side = self._size + 2 * MARGIN
        bank = deque(
            (self._drawn_transfers(first + i, side) for i in range(self._bank_size)),
            maxlen=self._bank_size,
        )
        for step in itertools.count(first):
            yield np.random.default_rng([self._seed, _FRAMES, step]), bank
            bank.append(self._drawn_transfers(step + self._bank_size, side))

    def _drawn_transfers(self, number: int, side: int) -> _Transfers:
        rng = np.random.default_rng([self._seed, _TRANSFERS, number])
        optics = draw_optics(rng, self._ranges)
        defocus = draw_defocus(rng, self._ranges, optics)
        focus_um = best_focus_um(optics) if self._ranges.best_focus else 0.0
        depths = [0.0]
        if self._layers > 1:
            depths = depths_um(float(rng.uniform(*self._depth_um)), self._layers)
            defocus = replace(defocus, thickness_um=0.0)
        focused = Defocus(focus_um, defocus.thickness_um)
        in_focus = layer_transfers(optics, focused, depths, (side, side))
        if defocus.um == 0:
            return _Transfers(in_focus, in_focus, 0.0)
        placed = replace(defocus, um=focus_um + defocus.um)
        unfocused = layer_transfers(optics, placed, depths, (side, side))
        return _Transfers(unfocused, in_focus, defocus.um)

    def _frame(self, rng: np.random.Generator, bank: Sequence[_Transfers]) -> tuple[Scene, float]:
        """A frame, and its distance from focus in um."""
        drawn = self._exposure(rng, bank)
        inner = (slice(MARGIN, MARGIN + self._size),) * 2
        if math.isnan(drawn.defocus_um):
            unfocused = in_focus = drawn.layers[0]
        else:
            unfocused, in_focus = blurred_layers(drawn.layers, drawn.unfocused, drawn.in_focus)
        scene = expose_scene(
            unfocused[inner],
            in_focus[inner],
            drawn.camera,
            peak=drawn.peak,
            haze=drawn.haze,
            shading=drawn.shading,
            rng=rng,
        )
        return scene, drawn.defocus_um

    def _exposure(self, rng: np.random.Generator, bank: Sequence[_Transfers]) -> Exposure:
        side = self._size + 2 * MARGIN
        camera, peak = draw_camera(rng, self._ranges), draw_peak(rng, self._ranges)
        if rng.random() < 0.1 and self._ranges.bits is None:
            camera = Camera(
                camera.offset, camera.gain, camera.read_noise, camera.hot_fraction, bits=8
            )
        haze = np.full((1, 1), rng.uniform(0.0, 0.1), np.float32)
        shading = np.ones((1, 1), np.float32)
        if self._ranges.uneven_share:
            haze, shading = uneven(rng, self._size, float(haze[0, 0]), self._ranges.uneven_share)
        if rng.random() < EMPTY_SHARE:
            empty = np.zeros((self._layers, side, side), np.float32)
            nothing = np.zeros((self._layers, side, side // 2 + 1), np.float32)
            return Exposure(empty, nothing, nothing, camera, peak, haze, shading, math.nan)
        if self._ranges.structures_share and rng.random() < self._ranges.structures_share:
            flux = GENERATORS[int(rng.integers(len(GENERATORS)))](rng, (side, side))
        else:
            index = int(rng.choice(len(self._specimens), p=self._probabilities))
            zoom = float(rng.uniform(0.8, 1.6)) if rng.random() < 0.5 else 1.0
            flux = window(self._specimens[index], side, zoom, rng)
        if rng.random() < 0.3:
            # Structures of one image differ in brightness more than 8-bit sources show.
            flux = flux ** np.float32(rng.uniform(0.8, 1.5))
        if rng.random() < 0.3:
            glow = scipy.ndimage.uniform_filter(flux[::8, ::8], 15, mode="nearest")
            flux = flux + np.float32(rng.uniform(0, 0.3)) * np.kron(
                glow, np.ones((8, 8), np.float32)
            )
        if self._ranges.debris_share and rng.random() < self._ranges.debris_share:
            flux = with_debris(rng, flux)
        drawn = bank[int(rng.integers(len(bank)))]
        layers = layers_of(flux, self._layers, rng) if self._layers > 1 else flux[np.newaxis]
        return Exposure(
            layers, drawn.unfocused, drawn.in_focus, camera, peak, haze, shading, drawn.defocus_um
        )


def _dimming(rng: np.random.Generator) -> float:
    """Factor by which the frame that contains this part is brighter; 1 for most."""
    return float(rng.uniform(1.0, 2.5)) if rng.random() < DIMMED_SHARE else 1.0


def collate(frames: Sequence[tuple[Scene, float]], rng: np.random.Generator) -> Batch:
    """Make a batch of frames.

    Parameters
    ----------
    frames : sequence of (Scene, float)
        Frames of one size, each with its defocus in um.
    rng : numpy.random.Generator
        Draws which frames are normalised as part of a larger, brighter one.
    """
    raw, truth, span = [], [], []
    for scene, _ in frames:
        counts = scene.range
        scale = np.float32(counts.scale * _dimming(rng))
        raw.append((scene.raw.astype(np.float32) - np.float32(counts.offset)) / scale)
        truth.append((scene.truth - np.float32(counts.offset)) / scale)
        low, high = np.percentile(truth[-1][::2, ::2], [0.1, 99.9])
        span.append(max(float(high - low), MIN_SPAN))
    return Batch(
        np.stack(raw)[:, None],
        np.stack(truth)[:, None],
        np.array(span, np.float32),
        np.array([um for _, um in frames], np.float32),
    )


Item = TypeVar("Item")


class Prefetched(Generic[Item]):
    """Runs an endless iterator in one thread, a few items ahead; a context manager.

    Parameters
    ----------
    stream : iterator
        Iterator over batches or exposures.
    ahead : int
        Largest number of items that are drawn but not yet taken.
    """

    def __init__(self, stream: Iterator[Item], ahead: int = 4) -> None:
        self._stream = stream
        self._queue: queue.Queue[Item | BaseException] = queue.Queue(ahead)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._fill, name="simulator", daemon=True)

    def __enter__(self) -> Prefetched[Item]:
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._stop.set()
        while self._thread.is_alive():
            # The thread may wait for room in the queue: make room until it sees the event.
            try:
                self._queue.get(timeout=0.05)
            except queue.Empty:
                continue
        self._thread.join()

    def take(self) -> Item:
        """Take the next item; errors of the simulation are raised here."""
        item = self._queue.get()
        if isinstance(item, BaseException):
            raise item
        return item

    def _fill(self) -> None:
        try:
            for batch in self._stream:
                self._queue.put(batch)
                if self._stop.is_set():
                    return
        except BaseException as error:  # noqa: BLE001 - raised by `take`
            self._queue.put(error)

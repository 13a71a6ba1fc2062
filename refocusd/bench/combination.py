"""Orders to measuring processes, and their results."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import msgspec

from refocusd.config import EngineOptions


class Combination(msgspec.Struct, frozen=True):
    """One engine at one frame size.

    Parameters
    ----------
    model : str
        A bundle's name or folder.
    options : EngineOptions
    shape : (int, int)
        Height and width, px.
    """

    model: str
    options: EngineOptions
    shape: tuple[int, int]

    @property
    def name(self) -> str:
        """Name for messages and plots."""
        height, width = self.shape
        tiles = f" tiles {self.options.tile_px or 'auto'}×{self.options.tile_batch or 'auto'}"
        tiled = bool(self.options.tile_px or self.options.tile_batch)
        return f"{self.model} {self.options.backend} {self.options.precision} {width}x{height}" + (
            tiles if tiled else ""
        )


class Order(msgspec.Struct, frozen=True):
    """What a measuring process has to do.

    Parameters
    ----------
    combination : Combination
    frames : int
        Number of frames that are timed.
    sample : str
        File (npy) for the refocused sample frame; empty for none.
    rates : bool
        Measure the device instead of the engine.
    warm_frames : int
        Number of frames before the first that is timed.
    """

    combination: Combination
    frames: int
    sample: str = ""
    rates: bool = False
    warm_frames: int = 3


class Rates(msgspec.Struct, frozen=True):
    """Best rates of a device.

    Parameters
    ----------
    flops : float
        Floating-point (or integer) operations per second of a large matrix product.
    copied : float
        Bytes per second that a large copy reads and writes.
    by : str
        Libraries that they were measured with.
    """

    flops: float
    copied: float
    by: str


class Report(msgspec.Struct, frozen=True):
    """The result of a measuring process.

    Parameters
    ----------
    refused : str
        Why the combination cannot be measured here; empty if it was measured.
    engine_ms, worker_ms : list of float
        Times of each frame, ms: the network alone, and the worker's whole job.
    built_s : float
        Time to build the engine and warm it up, s.
    peak_mib : float or None
        Peak memory of the process, MiB; None if the system does not report it.
    backend, precision, device, key : str
        Those of the engine that ran, see `EngineDescription`.
    rates : Rates, optional
    """

    refused: str = ""
    engine_ms: list[float] = []
    worker_ms: list[float] = []
    built_s: float = 0.0
    peak_mib: float | None = None
    backend: str = ""
    precision: str = ""
    device: str = ""
    key: str = ""
    rates: Rates | None = None


class Quality(msgspec.Struct, frozen=True):
    """Difference between an engine and the f32 engine on the sample frame.

    Parameters
    ----------
    max_counts, p999_counts : float
        Largest absolute difference and its 99.9th percentile.
    psnr_db : float or None
        See `refocusd.imaging.quality.psnr`; None if the frames are equal.
    """

    max_counts: float
    p999_counts: float
    psnr_db: float | None


class Result(msgspec.Struct, frozen=True):
    """All results of one combination.

    Parameters
    ----------
    combination : Combination
    refused : str
        Why there are no figures; empty if there are.
    rounds : list of Report
        One for each round, each from a fresh process.
    flops, bytes : float
        Operations for one whole frame, and the least number of bytes that it moves through memory.
    rates : Rates, optional
    quality : Quality, optional
    """

    combination: Combination
    refused: str = ""
    rounds: list[Report] = []
    flops: float = 0.0
    bytes: float = 0.0
    rates: Rates | None = None
    quality: Quality | None = None

    @property
    def engine_ms(self) -> list[float]:
        """Times of the network alone in all rounds, sorted, ms."""
        return sorted(ms for found in self.rounds for ms in found.engine_ms)

    @property
    def worker_ms(self) -> list[float]:
        """Times of the worker's whole job in all rounds, sorted, ms."""
        return sorted(ms for found in self.rounds for ms in found.worker_ms)

    @property
    def fps(self) -> float:
        """Frames per second of one worker, from its median time."""
        return 1e3 / percentile(self.worker_ms, 50)

    @property
    def roofline_ms(self) -> float | None:
        """The least time per frame that this device could take, ms; None if its rates are unknown.

        max(FLOPs / matmul rate, bytes / copy rate): S. Williams et al. 2009, Commun. ACM 52:65.
        """
        if self.rates is None or not self.flops:
            return None
        return 1e3 * max(self.flops / self.rates.flops, self.bytes / self.rates.copied)

    @property
    def of_roofline(self) -> float | None:
        """Speed of the network alone relative to the limit of the device, 1 at the limit."""
        limit = self.roofline_ms
        return None if limit is None else limit / percentile(self.engine_ms, 50)

    @property
    def peak_mib(self) -> float | None:
        """The largest peak of all rounds, MiB."""
        peaks = [found.peak_mib for found in self.rounds if found.peak_mib is not None]
        return max(peaks, default=None)

    def as_json(self) -> dict[str, Any]:
        """All figures, as plain values."""
        figures: dict[str, Any] = msgspec.to_builtins(self)
        if self.refused:
            return figures
        for name, times in (("engine", self.engine_ms), ("worker", self.worker_ms)):
            for percent in (50, 95, 99):
                figures[f"{name}_ms_p{percent}"] = percentile(times, percent)
            figures[f"{name}_ms_p50_interval95"] = list(median_interval(times))
        for name in ("fps", "roofline_ms", "of_roofline", "peak_mib"):
            figures[name] = getattr(self, name)
        return figures


def percentile(ordered: Sequence[float], percent: float) -> float:
    """Percentile of sorted values by nearest rank, so that it is one of them."""
    return ordered[max(0, math.ceil(percent / 100 * len(ordered)) - 1)]


def median_interval(ordered: Sequence[float]) -> tuple[float, float]:
    """95 % interval of the median of sorted values, without assuming a distribution.

    By order statistics (H. A. David and H. N. Nagaraja, Order Statistics, section 7.1),
    in the normal approximation of the binomial; the whole range if there are few values.
    """
    half = 1.96 * math.sqrt(len(ordered)) / 2
    middle = len(ordered) / 2
    low, high = math.floor(middle - half), math.ceil(middle + half)
    return ordered[max(0, low)], ordered[min(len(ordered) - 1, high)]

"""Gain of refocusing by stain and width of the blur, for frames as they are written; also of Richardson-Lucy.

    python -m benchmarks.quality.specimens --data FOLDER... [--frames 60] [--json FILE]

Each FOLDER holds sharp images of one kind; frames are simulated from those held out from training (one in
five, by name), with PSFs of all families, noise, debris, haze and clipping.  The engines are not told the blur.

``user`` is Richardson-Lucy as users run it: 30 iterations with one PSF, a Gaussian whose width is that of the
blur with an error of a third (one standard deviation).  ``oracle`` is Richardson-Lucy with total variation and
the true PSF; the truth decides which iteration and which weight are the best.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import scipy.fft
from numpy.typing import NDArray
from refocusd_training.blur.frames import Exposure, SharpImage, expose, load_sharp
from refocusd_training.blur.psfs import CYCLES, FAMILIES, transfer_functions
from refocusd_training.deconvolution import Transfer, richardson_lucy
from refocusd_training.evaluation.measures.objects import (
    IsolatedObjects,
    ObjectRatios,
    object_figures,
)
from rich.console import Console
from rich.table import Table

from benchmarks.shared.machine import machine
from refocusd.config import EngineOptions
from refocusd.engines.choose import build_engine
from refocusd.engines.engine import Engine
from refocusd.frame import Pixels
from refocusd.imaging.quality import psnr
from refocusd.worker.refocus import refocus_frame

Floats = NDArray[np.float32]

BINS_PX = (0.7, 1.7, 3.0, 8.0, 20.0, 42.0)
#: Larger frames are left out, as the oracle takes long; pixels of a frame.
MOST_PX = 300_000
#: Frames that lose more than this count as worse than raw, dB.
WORSE_DB = 0.1
_USER_ITERATIONS, _USER_OFF = 30, 0.33
_LOOKED_AT = frozenset({5, 10, 20, 35, 60, 100})
_VARIATIONS = (0.002, 0.02)
ENGINES = {
    "default": ("live-fluorescence", EngineOptions()),
    "live-nuclei": ("live-nuclei", EngineOptions()),
    "deconvolution": ("", EngineOptions(backend="deconvolution")),
}
WAYS = (*ENGINES, "user", "oracle")


class Frame:
    """One simulated frame, its truth and its blur."""

    def __init__(self, exposure: Exposure, gains: Floats, off: float) -> None:
        self.exposure = exposure
        self.raw, self.truth = exposure.frame, exposure.truth
        self.before_db = psnr(self.raw, self.truth, affine=True)
        self._gains, self._off = gains, off
        base = np.percentile(self.raw, 1)
        self._light = self.raw.astype(np.float32) - np.float32(base)

    def gained(self, image: NDArray[np.generic]) -> float:
        """PSNR minus that of raw, dB, both after the best offset and gain."""
        return psnr(image, self.truth, affine=True) - self.before_db

    def by_user(self) -> float:
        """Gain of Richardson-Lucy as users run it, dB."""
        width = self.exposure.added_px * float(np.exp(_USER_OFF * self._off))
        gains = np.exp(-2 * (np.pi * CYCLES) ** 2)
        *_, light = richardson_lucy(self._light, _by(gains, width), _USER_ITERATIONS)
        return self.gained(light)

    def by_oracle(self) -> float:
        """The largest gain of Richardson-Lucy with total variation, dB."""
        known = _by(self._gains, self.exposure.added_px)
        return max(
            self.gained(light)
            for weight in _VARIATIONS
            for number, light in enumerate(
                richardson_lucy(self._light, known, max(_LOOKED_AT), total_variation=weight), 1
            )
            if number in _LOOKED_AT
        )


def _by(gains: NDArray[np.floating], width_px: float) -> Transfer:
    """A transfer function of this form and width, for the half-spectrum of any image shape."""

    def transfer(shape: tuple[int, int]) -> Floats:
        rows = scipy.fft.fftfreq(shape[0])[:, None]
        cycles = np.hypot(rows, scipy.fft.rfftfreq(shape[1])) * width_px
        return np.asarray(np.interp(cycles, CYCLES, gains, right=0.0), dtype=np.float32)

    return transfer


def _frames(images: Sequence[SharpImage], count: int, seed: int) -> Iterator[Frame]:
    rng = np.random.default_rng(seed)
    chances = np.array([image.weight for image in images])
    transfers = np.concatenate([transfer_functions(family, 8, rng) for family in FAMILIES])
    while count:
        one, other = rng.choice(len(images), 2, p=chances / chances.sum())
        row = rng.integers(len(transfers))
        made = expose(images[one], images[other], transfers[row : row + 1], rng)
        if made is not None and made.frame.size <= MOST_PX:
            count -= 1
            yield Frame(made, transfers[row], float(rng.normal()))


def _written(engine: Engine, raw: Pixels) -> tuple[Pixels, bool]:
    """The frame that the daemon writes, and whether it is other than the raw frame."""
    facts = refocus_frame(engine, raw, out := np.empty_like(raw))
    return out, facts.written in ("refocused", "deconvolved")


def measured(
    images: Sequence[SharpImage], engines: Mapping[str, Engine], count: int, seed: int
) -> list[dict[str, float | str]]:
    """One row for each range of blur widths: gains, and areas and light of isolated objects."""
    found: list[tuple[Frame, dict[str, float], dict[str, ObjectRatios], bool]] = []
    for frame in _frames(images, count, seed):
        gains, sizes, changed = {}, {}, {}
        objects = IsolatedObjects(frame.truth)
        for name, engine in engines.items():
            out, changed[name] = _written(engine, frame.raw)
            gains[name], sizes[name] = frame.gained(out), objects.compare(out)
        gains["user"], gains["oracle"] = frame.by_user(), frame.by_oracle()
        sizes["raw"] = objects.compare(frame.raw)
        found.append((frame, gains, sizes, changed["default"]))
    rows = []
    for low, high in pairwise(BINS_PX):
        within = [each for each in found if low <= each[0].exposure.sigma_px < high]
        if not within:
            continue
        row: dict[str, float | str] = {"low_px": low, "high_px": high, "frames": len(within)}
        row["raw_db"] = _mean(frame.before_db for frame, *_ in within)
        for way in WAYS:
            row[f"{way}_gain_db"] = _mean(gains[way] for _, gains, *_ in within)
        refocused = [gains["default"] for _, gains, _, changed in within if changed]
        row["refocused_share"] = round(len(refocused) / len(within), 3)
        row["refocused_gain_db"] = _mean(refocused) if refocused else 0.0
        row["worse_share"] = _mean(gains["default"] < -WORSE_DB for _, gains, *_ in within)
        row["worst_db"] = round(min(gains["default"] for _, gains, *_ in within), 2)
        for name in ("raw", "default"):
            figures = object_figures([sizes[name] for _, _, sizes, _ in within])
            row |= {f"{name}_{key}": round(value, 3) for key, value in figures.items()}
        rows.append(row)
    return rows


def _mean(values: Iterable[float]) -> float:
    return round(float(np.mean([*values])), 3)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, nargs="+", required=True)
    parser.add_argument("--frames", type=int, default=60, help="of each folder")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    engines = {name: build_engine(*how) for name, how in ENGINES.items()}
    kinds = {}
    for folder in arguments.data:
        images = [image for image in load_sharp([folder]) if image.test]
        table = Table(
            f"{folder.name}: blur, px",
            *("frames", "raw, dB", *WAYS, "not passed through", "worse", "area", "light"),
        )
        kinds[folder.name] = measured(images, engines, arguments.frames, arguments.seed)
        for row in kinds[folder.name]:
            table.add_row(
                f"{row['low_px']}-{row['high_px']}",
                str(row["frames"]),
                f"{row['raw_db']:.1f}",
                *(f"{row[f'{way}_gain_db']:+.1f}" for way in WAYS),
                f"{row['refocused_share']:.0%}: {row['refocused_gain_db']:+.1f}",
                f"{row['worse_share']:.0%}, {row['worst_db']:.1f} dB",
                f"{row['default_object_area']:.2f} ({row['default_area_within_15']:.0%})",
                f"{row['default_object_light']:.2f} ({row['default_light_within_5']:.0%})",
            )
        Console(width=170).print(table)
    if arguments.json:
        document = {"machine": machine(), "kinds": kinds}
        arguments.json.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

"""Whether the later frames of a time-lapse gain as much as the first.

    python -m benchmarks.quality.time_lapse --data FOLDER... [--streams 30] [--frames 40] [--json FILE]

Each FOLDER holds sharp images.  Each stream shows one of those held out from training, blurred once and recorded
repeatedly with new noise.  The blur is measured in the first frame, and its uncertainty grows from frame to
frame: ``by focus score`` as in the daemon, ``constant`` by the same amount for each frame.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from refocusd_training.blur.frames import Exposure, SharpImage, expose, load_sharp
from refocusd_training.blur.psfs import FAMILIES, transfer_functions
from rich.console import Console
from rich.table import Table

from benchmarks.shared.machine import machine
from refocusd.config import EngineOptions
from refocusd.engines.choose import build_engine
from refocusd.engines.engine import Engine
from refocusd.imaging.hot_pixels import pixel_noise
from refocusd.imaging.quality import psnr
from refocusd.worker import blurs
from refocusd.worker.refocus import refocus_frame

BINS_PX = ((2.2, 4.0), (4.0, 8.0), (8.0, 24.0))
#: Larger frames are left out, as they take long; pixels of a frame.
MOST_PX = 200_000
MODEL = "live-fluorescence"


def exposures(images: Sequence[SharpImage], count: int, seed: int) -> list[Exposure]:
    """Out-of-focus frames through PSFs of all families."""
    rng = np.random.default_rng(seed)
    transfers = np.concatenate([transfer_functions(family, 8, rng) for family in FAMILIES])
    chances = np.array([image.weight for image in images])
    found: list[Exposure] = []
    while len(found) < count:
        one, other = rng.choice(len(images), 2, p=chances / chances.sum())
        row = rng.integers(len(transfers))
        made = expose(images[one], images[other], transfers[row : row + 1], rng)
        if made is None or made.frame.size > MOST_PX:
            continue
        if BINS_PX[0][0] <= made.sigma_px < BINS_PX[-1][1]:
            found.append(made)
    return found


def stream(engine: Engine, exposure: Exposure, frames: int, seed: int) -> tuple[list[float], float]:
    """The gain of each frame over raw, dB, and the engine's mean time, ms."""
    rng = np.random.default_rng(seed)
    first = exposure.frame
    noise = float(pixel_noise(first.astype(np.float32)))
    gains, times = [], []
    known = blurs.Blurs()
    for _ in range(frames):
        noisy = np.rint(first + rng.normal(0, noise, first.shape))
        raw = np.empty_like(first)
        np.copyto(raw, noisy.clip(0, np.iinfo(first.dtype).max), casting="unsafe")
        out = np.empty_like(raw)
        facts = refocus_frame(engine, raw, out, stream=known.of("stream"))
        before = psnr(raw, exposure.truth, affine=True)
        gains.append(psnr(out, exposure.truth, affine=True) - before)
        times.append(facts.engine_ms)
    return gains, float(np.mean(times))


def measured(engine: Engine, given: Sequence[Exposure], frames: int) -> list[dict[str, Any]]:
    """One row for each range of blur widths."""
    rows = []
    quarter = max(1, frames // 4)
    for low, high in BINS_PX:
        chosen = [each for each in given if low <= each.sigma_px < high]
        if not chosen:
            continue
        found = [stream(engine, each, frames, seed) for seed, each in enumerate(chosen)]
        gains = np.array([gain for gain, _ in found])
        rows.append(
            {
                "low_px": low,
                "high_px": high,
                "streams": len(chosen),
                "first_quarter_db": round(float(gains[:, :quarter].mean()), 2),
                "last_quarter_db": round(float(gains[:, -quarter:].mean()), 2),
                "engine_ms": round(float(np.mean([ms for _, ms in found])), 1),
            }
        )
    return rows


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, nargs="+", required=True)
    parser.add_argument("--streams", type=int, default=30)
    parser.add_argument("--frames", type=int, default=40, help="of each stream")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    images = [image for image in load_sharp(arguments.data) if image.test]
    given = exposures(images, arguments.streams, arguments.seed)
    engine = build_engine(MODEL, EngineOptions(threads=1))
    found = {"by focus score": measured(engine, given, arguments.frames)}
    with mock.patch.object(blurs, "SLOW_DRIFT", blurs.DRIFT):
        found["constant"] = measured(engine, given, arguments.frames)
    table = Table("uncertainty", "blur, px", "streams", "first quarter, dB", "last quarter", "ms")
    for name, rows in found.items():
        for row in rows:
            table.add_row(
                name,
                f"{row['low_px']}-{row['high_px']}",
                str(row["streams"]),
                f"{row['first_quarter_db']:+.2f}",
                f"{row['last_quarter_db']:+.2f}",
                f"{row['engine_ms']:.1f}",
            )
    Console().print(table)
    if arguments.json:
        document = {"machine": machine(), "frames": arguments.frames, "uncertainty": found}
        arguments.json.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

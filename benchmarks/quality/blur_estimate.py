"""Error of the blur's width estimated from one frame: from the frame's features alone, and by the engine.

    python -m benchmarks.quality.blur_estimate --data FOLDER... [--frames 280] [--json FILE]

Each FOLDER holds sharp images.  Frames are simulated from those held out for testing (one in five, by
name), as `refocusd train blur` does, with PSFs of all families.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Sequence
from contextlib import closing
from itertools import pairwise
from pathlib import Path

import numpy as np
from refocusd_training.blur.frames import blurred_frame, load_sharp
from refocusd_training.blur.psfs import FAMILIES, transfer_functions
from rich.console import Console
from rich.table import Table

from benchmarks.shared.machine import machine
from refocusd.config import EngineOptions
from refocusd.engines.choose import build_engine
from refocusd.imaging.blur import estimate_blur

BINS_PX = (0.7, 3.0, 8.0, 20.0, 42.0)
#: Larger frames are left out, as they take long; pixels of a frame.
MOST_PX = 300_000


def measured(folders: Sequence[Path], frames: int, model: str, seed: int) -> list[dict[str, float]]:
    """For each frame, the blur's true width, its estimate from features, and the engine's final one, px."""
    rng = np.random.default_rng(seed)
    images = [image for image in load_sharp(folders) if image.test]
    chances = np.array([image.weight for image in images])
    transfers = {family: transfer_functions(family, 12, rng) for family in FAMILIES}
    rows: list[dict[str, float]] = []
    with closing(build_engine(model, EngineOptions())) as engine:
        while len(rows) < frames:
            one, other = rng.choice(len(images), 2, p=chances / chances.sum())
            family = FAMILIES[rng.integers(len(FAMILIES))]
            made = blurred_frame(images[one], images[other], transfers[family], rng)
            if made is None or made[0].size > MOST_PX:
                continue
            raw, true_px = made
            alone, found = estimate_blur(raw), engine.refocus(raw, np.empty_like(raw)).blur
            if alone is not None and found is not None:
                rows.append({"true": true_px, "features": alone.sigma_px, "engine": found.sigma_px})
    return rows


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, nargs="+", required=True)
    parser.add_argument("--frames", type=int, default=280)
    parser.add_argument("--model", default="live-fluorescence")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    rows = measured(arguments.data, arguments.frames, arguments.model, arguments.seed)
    table = Table("true blur px", "frames", "by features: median, 80 %, bias", "engine: the same")
    summary = []
    for low, high in pairwise(BINS_PX):
        within = [row for row in rows if low <= row["true"] < high]
        told = {"low_px": low, "high_px": high, "frames": len(within)}
        cells = []
        for name in ("features", "engine"):
            apart = np.array([math.log(row[name] / row["true"]) for row in within])
            off = np.abs(np.exp(apart) - 1)
            figures = [float(v) for v in (np.median(off), np.percentile(off, 80), np.median(apart))]
            told |= dict(
                zip((f"{name}_median", f"{name}_p80", f"{name}_bias"), figures, strict=True)
            )
            cells.append("{:.0%}, {:.0%}, {:+.0%}".format(*figures))
        table.add_row(f"{low:g}-{high:g}", str(len(within)), *cells)
        summary.append(told)
    Console().print(table)
    if arguments.json:
        document = {"model": arguments.model, "machine": machine(), "by_width": summary}
        arguments.json.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

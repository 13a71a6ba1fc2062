"""Time per frame as a function of the blur's width: frames with wide blurs are processed at fewer pixels.

    python -m benchmarks.speed.blur_time [--model NAME] [--precision auto] [--json FILE]

Frames of the shipped specimen, 520×696 px, go through the engine alone, which is told the blur's width.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from statistics import median

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.shared.machine import machine
from refocusd.config import EngineOptions, Precision
from refocusd.demo.specimen import Specimen
from refocusd.engines.choose import build_engine
from refocusd.engines.engine import BlurEngine
from refocusd.imaging.blur import KNOWN, BlurEstimate

WIDTHS_PX = (1.0, 2.0, 3.0, 4.0, 6.0, 9.0, 13.0, 20.0, 40.0)
SHAPE = (520, 696)
ROUNDS = 11


def measured(model: str, precision: Precision) -> Iterator[tuple[float, float]]:
    """Each width of the blur in px, and the median time of a frame in ms."""
    field = Specimen().frame("DAPI", 16.0, 10.0, np.random.default_rng(0))
    repeats = [-(-want // have) for want, have in zip(SHAPE, field.shape, strict=True)]
    raw = np.ascontiguousarray(np.tile(field, repeats)[: SHAPE[0], : SHAPE[1]])
    # An engine caches results of the last frame, so successive frames must differ.
    frames = [np.roll(raw, 16 * shift, 1) for shift in range(ROUNDS)]
    out = np.empty_like(raw)
    with closing(build_engine(model, EngineOptions(precision=precision))) as engine:
        assert isinstance(engine, BlurEngine)
        for width in WIDTHS_PX:
            blur = BlurEstimate(width, KNOWN, "optics")
            for frame in frames:  # warm-up: compiles the network for the size at this blur
                engine.refocus(frame, out, blur)
            times = []
            for frame in frames:
                begun = time.perf_counter()
                engine.refocus(frame, out, blur)
                times.append((time.perf_counter() - begun) * 1e3)
            yield width, median(times)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="live-fluorescence")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    table = Table("blur px", "ms a frame", "frames a second")
    rows = []
    for width, spent_ms in measured(arguments.model, arguments.precision):
        table.add_row(f"{width:g}", f"{spent_ms:.1f}", f"{1e3 / spent_ms:.1f}")
        rows.append({"blur_px": width, "ms": round(spent_ms, 2)})
    Console().print(table)
    if arguments.json:
        document = {"model": arguments.model, "machine": machine(), "rows": rows}
        arguments.json.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

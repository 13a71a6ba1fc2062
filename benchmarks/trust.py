"""What verdicts are worth: empty fields, pictures of something else, clipped frames, cost.

    python -m benchmarks.trust [--fields 1000] [--backend deconvolution] [--transmitted FILE] [--json FILE]

Every frame goes through `refocusd.worker.refocus.refocus_frame`, as in a worker.  An object is
invented if the written frame has a peak of a Laplacian of Gaussian above 6 robust standard deviations
of that of raw, of at least 5 counts, where raw has none.  Met is: 99 % of the empty fields are called empty
and none has an invented object; 99 % of the frames in focus are left as they are; 95 % of all others are
not trusted.  How good the probability of an error is
says `refocusd train trust`, which fits it.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from refocusd_training.trust import pictures
from rich.console import Console
from rich.table import Table
from scipy.ndimage import gaussian_laplace, maximum_filter, uniform_filter, zoom

from refocusd.config import EngineOptions
from refocusd.demo.specimen import Specimen
from refocusd.engines.choose import build_engine
from refocusd.engines.engine import Engine
from refocusd.frame import Pixels
from refocusd.imaging.field_evidence import examine_field
from refocusd.imaging.pair_evidence import examine_pair
from refocusd.worker.refocus import refocus_frame

Draw = Callable[[np.random.Generator], Pixels]
#: Scales of the Laplacian of Gaussian, px.
SCALES_PX = (2.0, 4.0, 8.0)
ROBUST_SIGMAS, COUNTS = 6.0, 5.0


def peaks(frame: Pixels, noise_of: Pixels, scale: float) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Where a frame has objects of about this scale."""
    found, noise = (
        -(scale**2) * gaussian_laplace(pixels.astype(np.float32), scale)
        for pixels in (frame, noise_of)
    )
    robust = float(np.median(np.abs(noise - np.median(noise)))) / 0.6745
    high = maximum_filter(found, round(2 * scale) * 2 + 1) == found
    return np.asarray(high & (found > max(ROBUST_SIGMAS * robust, COUNTS)))


def invented(raw: Pixels, written: Pixels) -> int:
    """Objects of a written frame that raw does not have."""
    if np.array_equal(raw, written):
        return 0
    count = 0
    for scale in SCALES_PX:
        there = maximum_filter(peaks(raw, raw, scale), round(4 * scale) * 2 + 1)
        count += int(np.count_nonzero(peaks(written, raw, scale) & ~there))
    return count


def clipped_nuclei(rng: np.random.Generator) -> Pixels:
    """Blurred nuclei of which a tenth of the pixels is at the end of the scale."""
    specimen = Specimen()
    z_um = specimen.focus.at() + rng.uniform(4, 24)
    raw = specimen.frame("DAPI", z_um, 10.0, rng)
    np.minimum(raw, np.uint16(np.percentile(raw, 90)), out=raw)
    return raw


def wrong_scale(rng: np.random.Generator) -> Pixels:
    """Blurred nuclei whose pixels are four times as large, or as small, as those of training."""
    specimen = Specimen()
    raw = specimen.frame("DAPI", specimen.focus.at() + rng.uniform(4, 24), 10.0, rng)
    if rng.random() < 0.5:
        return np.rint(zoom(raw[:174, :174].astype(np.float32), 4, order=1)).astype(np.uint16)
    tiled = np.tile(raw, (4, 4)).astype(np.float32)
    return np.rint(uniform_filter(tiled, 4)[::4, ::4]).astype(np.uint16)


def in_focus(rng: np.random.Generator) -> Pixels:
    """Sharp nuclei."""
    specimen = Specimen()
    return specimen.frame("DAPI", specimen.focus.at(), 10.0, rng)


def met(name: str, row: Mapping[str, Any]) -> bool:
    """Whether a kind of pictures fares as it must."""
    frames = row["frames"]
    if name.startswith("empty"):
        return bool(row["called_empty"] >= 0.99 * frames and not row["invented_objects"])
    if name == "in focus":
        return bool(row["written"].get("raw", 0) >= 0.99 * frames)
    return bool(row["verdicts"].get("trusted", 0) <= 0.05 * frames)


def verdicts(engine: Engine, draw: Draw, count: int, seed: int) -> dict[str, Any]:
    """Verdicts on so many pictures, and what was written of them."""
    rng = np.random.default_rng(seed)
    said: Counter[str] = Counter()
    written: Counter[str] = Counter()
    empty = objects = 0
    for _ in range(count):
        raw = draw(rng)
        out = np.empty_like(raw)
        facts = refocus_frame(engine, raw, out)
        said[facts.verdict] += 1
        written[facts.written] += 1
        empty += facts.reasons[:1] != [] and facts.reasons[0].startswith("empty field")
        objects += invented(raw, out)
    return {
        "frames": count,
        "verdicts": dict(said),
        "written": dict(written),
        "called_empty": empty,
        "invented_objects": objects,
    }


def cost_ms(engine: Engine, repeats: int = 20) -> dict[str, float]:
    """Medians for 696×520 px: the engine, and the evidence."""
    raw = np.tile(Specimen().frame("DAPI", 12.0, 10.0, np.random.default_rng(0)), (2, 2))
    raw = np.ascontiguousarray(raw[:520, :696])
    out = np.empty_like(raw)
    engine.refocus(raw, out)
    times: dict[str, list[float]] = {"engine_ms": [], "evidence_ms": []}
    for _ in range(repeats):
        begun = time.perf_counter()
        found = engine.refocus(raw, out)
        refocused = time.perf_counter()
        field = examine_field(raw)
        assert field is not None
        examine_pair(field, raw, out, found.blur, found.expected_error)
        times["engine_ms"].append((refocused - begun) * 1e3)
        times["evidence_ms"].append((time.perf_counter() - refocused) * 1e3)
    return {name: round(float(np.median(values)), 2) for name, values in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument(
        "--fields", type=int, default=1000, help="empty fields; a tenth of the rest"
    )
    parser.add_argument("--backend", default="deconvolution")
    parser.add_argument("--model", default="live-nuclei")
    parser.add_argument("--transmitted", type=Path, help="a TIFF stack in transmitted light")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    engine = build_engine(arguments.model, EngineOptions(backend=arguments.backend))
    rest = max(10, arguments.fields // 10)
    kinds: dict[str, tuple[Draw, int]] = {
        f"empty: {kind}": (
            lambda rng, kind=kind: pictures.empty_field(kind, rng),  # type: ignore[misc]
            arguments.fields // len(pictures.EMPTY),
        )
        for kind in pictures.EMPTY
    }
    kinds |= {
        "brightfield": (pictures.brightfield, rest),
        "photographs": (pictures.photograph, rest),
        "checkerboards": (pictures.checkerboard, rest),
        "noise": (pictures.clouds, rest),
        "a tenth clipped": (clipped_nuclei, rest),
        "pixel size off by 4": (wrong_scale, rest),
        "in focus": (in_focus, rest),
    }
    if arguments.transmitted:
        stack = tifffile.imread(arguments.transmitted)
        images = list(stack.reshape(-1, *stack.shape[-2:]))
        kinds["transmitted light"] = (lambda rng: pictures.transmitted(images, rng), rest)
    found = {name: verdicts(engine, draw, count, 99) for name, (draw, count) in kinds.items()}
    table = Table("pictures", "frames", "trusted", "called empty", "invented objects", "met")
    for name, row in found.items():
        trusted = row["verdicts"].get("trusted", 0)
        numbers = (row["frames"], trusted, row["called_empty"], row["invented_objects"])
        row["met"] = met(name, row)
        table.add_row(name, *map(str, numbers), "yes" if row["met"] else "NO")
    console = Console()
    console.print(table)
    cost = cost_ms(engine)
    console.print(cost)
    if arguments.json:
        result = {"backend": arguments.backend, "cost": cost, "pictures": found}
        arguments.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

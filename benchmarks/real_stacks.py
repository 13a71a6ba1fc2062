"""What is gained on real through-focus stacks: raw, the shipped network, deconvolution.

    python -m benchmarks.real_stacks --data FOLDER [--json FILE] [--png FILE]

FOLDER holds the stacks that `STACKS` names.  Truth is each stack's sharpest plane; for the nucleus
that was imaged by a confocal microscope as well, that plane too.  Every frame is judged as
the worker writes it, frames that pass through included: PSNR after an affine fit, 16 px border,
range between the 0.1st and 99.9th percentile of the truth.  The picture shows, of each stack, the
frames that deconvolution changed and gained least on, worst first.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from scipy.ndimage import gaussian_filter

from refocusd.config import Backend, EngineOptions
from refocusd.engines.choose import build_engine
from refocusd.frame import Pixels
from refocusd.imaging.quality import best_focus, focus_score, psnr
from refocusd.worker.worker import refocus_frame

__all__ = ["STACKS", "Row", "Stack", "load_stack", "measured"]

RESULTS = Path(__file__).parent / "results"
ENGINES: Mapping[str, Backend] = {"network": "openvino", "deconvolution": "deconvolution"}
#: Rows of the picture for each stack, and the side of what is shown of a frame, px.
SHOWN, SIDE_PX = 3, 200


@dataclass(frozen=True, slots=True)
class Stack:
    """A stack through focus, and what its planes are to look like.

    Parameters
    ----------
    name : str
    planes : ndarray, shape (planes, height, width)
    truths : dict of str to (int, ndarray)
        By name: the plane that is left out of the judgement (-1 for none), and the sharp frame.
    """

    name: str
    planes: NDArray[Any]
    truths: Mapping[str, tuple[int, Pixels]]


def _by_sharpest(path: Path) -> Stack:
    planes = tifffile.imread(path)
    sharpest = best_focus([focus_score(plane) for plane in planes])
    return Stack(path.stem, planes, {"sharpest plane": (sharpest, planes[sharpest])})


def _with_confocal(path: Path) -> Stack:
    both = tifffile.imread(path)
    planes, confocal = np.ascontiguousarray(both[:, 1]), both[:, 0]
    sharpest = best_focus([focus_score(plane) for plane in planes])
    # The confocal plane of that depth: the one most like it.
    like = int(np.argmax([psnr(planes[sharpest], plane, affine=True) for plane in confocal]))
    truths = {
        "sharpest plane": (sharpest, planes[sharpest]),
        f"confocal plane {like}": (-1, np.ascontiguousarray(confocal[like])),
    }
    return Stack(path.stem, planes, truths)


STACKS: Mapping[str, Callable[[Path], Stack]] = {
    "neubias_dna_widefield_confocal.tif": _with_confocal,
    "faim_beads_E07_s2_w1.tif": _by_sharpest,
    "faim_beads_E08_s1_w2.tif": _by_sharpest,
    "dfnn_mitochondria_stack.tif": _by_sharpest,
}


def load_stack(folder: Path, name: str) -> Stack:
    """One of `STACKS`."""
    return STACKS[name](folder / name)


@dataclass(frozen=True, slots=True)
class Row:
    """One plane against one truth: PSNR in dB, blur in px, what was done."""

    stack: str
    truth: str
    plane: int
    from_truth: int
    raw_db: float
    network_db: float
    deconvolution_db: float
    network_verdict: str
    deconvolution_verdict: str
    blur_px: float | None
    blur_uncertainty: float | None


def measured(stack: Stack, model: str = "live-nuclei") -> Iterator[tuple[Row, dict[str, Pixels]]]:
    """Every plane but the truth itself, with the frames: ``raw``, one an engine, ``truth``."""
    written: dict[str, list[tuple[Pixels, Any]]] = {}
    for name, backend in ENGINES.items():
        with closing(build_engine(model, EngineOptions(backend, "f32", threads=1))) as engine:
            written[name] = []
            for plane in stack.planes:
                raw = np.ascontiguousarray(plane)
                out = np.empty_like(raw)
                written[name].append((out, refocus_frame(engine, raw, out)))
    sharpest = stack.truths["sharpest plane"][0]
    for name, (left_out, truth) in stack.truths.items():
        for plane, raw in enumerate(stack.planes):
            if plane == left_out:
                continue
            network, deconvolved = (written[engine][plane] for engine in ENGINES)
            row = Row(
                stack.name,
                name,
                plane,
                plane - sharpest,
                psnr(raw, truth, affine=True),
                psnr(network[0], truth, affine=True),
                psnr(deconvolved[0], truth, affine=True),
                network[1].verdict,
                deconvolved[1].verdict,
                deconvolved[1].blur_px,
                deconvolved[1].blur_uncertainty,
            )
            frames = {"raw": raw, "network": network[0], "deconvolution": deconvolved[0]}
            yield row, {**frames, "truth": truth}


def summary(rows: Sequence[Row]) -> dict[str, float]:
    """Means, and the worst that each did against raw."""
    raw = np.array([row.raw_db for row in rows])
    found: dict[str, float] = {"planes": len(rows), "raw_db": float(raw.mean())}
    for name in ENGINES:
        gain = np.array([getattr(row, f"{name}_db") for row in rows]) - raw
        found |= {
            f"{name}_gain_db": float(gain.mean()),
            f"{name}_best_gain_db": float(gain.max()),
            f"{name}_worst_gain_db": float(gain.min()),
            f"{name}_planes_below_raw": int((gain < -0.1).sum()),
        }
    return found


def draw(found: Sequence[tuple[Row, dict[str, Pixels]]], path: Path) -> None:
    """The frames on which deconvolution gained least, on the truth's grey scale by the fit."""
    changed = [one for one in found if one[0].deconvolution_verdict == "refocused"]
    changed.sort(key=lambda one: one[0].deconvolution_db - one[0].raw_db)
    worst = [
        one
        for stack in STACKS
        for one in [one for one in changed if one[0].stack == Path(stack).stem][:SHOWN]
    ]
    cell, text = SIDE_PX + 6, 14
    sheet = Image.new("L", (4 * cell, len(worst) * (cell + text)), 255)
    pen = ImageDraw.Draw(sheet)
    for index, (row, frames) in enumerate(worst):
        top = index * (cell + text)
        labels = (
            f"{row.stack[:12]} {row.plane} raw {row.raw_db:.1f} dB",
            f"network {row.network_db:.1f}",
            f"deconvolution {row.deconvolution_db:.1f} ({row.blur_px or 0:.1f} px)",
            row.truth,
        )
        truth = frames["truth"].astype(np.float64)
        low, high = np.percentile(truth, (0.5, 99.8))
        rows, columns = _brightest(truth)
        for column, (frame, label) in enumerate(zip(frames.values(), labels, strict=True)):
            pen.text((column * cell + 2, top), label, fill=0)
            fitted = np.polyval(
                np.polyfit(frame.ravel().astype(np.float64), truth.ravel(), 1), frame
            )
            shown = np.clip((fitted - low) / max(high - low, 1e-9) * 255, 0, 255).astype(np.uint8)
            part = shown[rows, columns]
            sheet.paste(Image.fromarray(part), (column * cell, top + text))
    sheet.save(path)


def _brightest(truth: NDArray[np.float64]) -> tuple[slice, slice]:
    """The part of a frame that is shown: about its brightest structure."""
    top, left = np.unravel_index(int(gaussian_filter(truth, 20).argmax()), truth.shape)
    starts = [
        int(np.clip(at - SIDE_PX // 2, 0, max(0, side - SIDE_PX)))
        for at, side in zip((top, left), truth.shape, strict=True)
    ]
    return slice(starts[0], starts[0] + SIDE_PX), slice(starts[1], starts[1] + SIDE_PX)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--json", type=Path, default=RESULTS / "real_stacks.json")
    parser.add_argument("--png", type=Path, default=RESULTS / "real_stacks.png")
    arguments = parser.parse_args()
    found: list[tuple[Row, dict[str, Pixels]]] = []
    for name in STACKS:
        found += measured(load_stack(arguments.data, name))
    groups: dict[str, list[Row]] = {}
    for row, _ in found:
        groups.setdefault(f"{row.stack}, {row.truth}", []).append(row)
    sums = {name: summary(rows) for name, rows in groups.items()}
    result = {"summary": sums, "planes": [asdict(row) for row, _ in found]}
    arguments.json.write_text(_as_json(result), encoding="utf-8")
    draw(found, arguments.png)
    for name, figures in sums.items():
        print(name, {key: round(value, 2) for key, value in figures.items()})
    return 0


def _as_json(result: dict[str, Any]) -> str:
    """One line a plane: short, and a change of one plane is a change of one line."""
    planes = ",\n  ".join(json.dumps(plane, separators=(",", ":")) for plane in result["planes"])
    return f'{{"summary": {json.dumps(result["summary"])},\n "planes": [\n  {planes}\n]}}\n'


if __name__ == "__main__":
    raise SystemExit(main())

"""A bundle against specimens and microscopes it never saw, beside Richardson-Lucy.

Frames are simulated from the test side of the split (and, where the folder
holds them, from BBBC006 fields that no training image shows) with the
microscopes of `ranges.HELD_OUT`.  The truth is the noise-free expectation of
the in-focus frame by the same optics and camera; the network runs through the
engine that ships, so what is measured is what a user gets.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from rich.table import Table

from refocusd.config import EngineOptions
from refocusd.engines.bundle import load_bundle
from refocusd.engines.openvino import OpenVinoEngine
from refocusd.engines.verdict import verdict
from refocusd.errors import InputError
from refocusd.frame import Pixels
from refocusd.optics import Optics
from refocusd.quality import Quality, compare, focus_score, psnr
from refocusd_training.data import find_images, read_image
from refocusd_training.deconvolution import richardson_lucy
from refocusd_training.simulate.blur import Defocus
from refocusd_training.simulate.ranges import HELD_OUT, Setting
from refocusd_training.simulate.scene import Scene, simulate_frame
from refocusd_training.simulate.specimen import flux_of
from refocusd_training.split import load_split

__all__ = [
    "LEVELS_UM",
    "METHODS",
    "Case",
    "Result",
    "evaluate",
    "held_out_cases",
    "print_table",
    "scene_of",
    "summary",
    "write_json",
]

LEVELS_UM = (0.0, 4.0, 8.0, 16.0, 32.0)
#: Levels of the average: out of focus only.
AVERAGED_UM = (4.0, 8.0, 16.0, 32.0)
METHODS = ("input", "refocused", "as written", "refocused bf16", "RL 12 um PSF", "RL true PSF")
#: Smaller images leave too little beside the borders.
MIN_SIDE = 360
#: Of larger ones the middle is taken: Richardson-Lucy's time goes with the area.
MAX_SIDE = 480
BBBC006 = "BBBC006_z_aligned__*__w1_*.png"
#: As a user would run it: nominal optics, one PSF in the middle of the range.
USER_OPTICS = Optics(0.45, 0.461)
USER_DEFOCUS = Defocus(12.0)
USER_ITERATIONS = 30
BEST_OF_ITERATIONS = frozenset(range(10, 101, 10))

DEFINITION = (
    "PSNR in dB over the whole frame less a 16 px border; range = 0.1-99.9 percentile of the truth; "
    "truth = noise-free expectation of the in-focus frame, same optics and camera; 'affine' after "
    "the least-squares offset and gain"
)


@dataclass(frozen=True, slots=True)
class Case:
    """One specimen in front of one microscope."""

    specimen: str
    group: str
    flux: NDArray[np.float32]
    setting: Setting


@dataclass(frozen=True, slots=True)
class Result:
    """One method on one frame."""

    specimen: str
    group: str
    setting: str
    defocus_um: float
    method: str
    quality: Quality


def held_out_cases(data: Path, *, limit: int | None = None) -> list[Case]:
    """Specimens of the test side, each with one held-out microscope in turn.

    Parameters
    ----------
    data : Path
        Folder with the BBBC038 images at any depth, and BBBC006 fields if any.
    limit : int, optional
        At most so many cases, spread evenly.

    Raises
    ------
    InputError
        If images are missing or none is large enough.
    """
    names = [entry.name for entry in load_split() if entry.side == "test"]
    images = [
        (name, "BBBC038", read_image(path)) for name, path in find_images(data, names).items()
    ]
    fields = sorted(data.rglob(BBBC006)) or sorted(data.parent.rglob(BBBC006))
    images += [(path.name, "BBBC006", read_image(path)) for path in fields]
    large = [item for item in images if min(item[2].shape) >= MIN_SIDE]
    if not large:
        raise InputError(f"{data} holds no test image of at least {MIN_SIDE} px")
    if limit is not None and limit < len(large):
        large = [large[round(i * (len(large) - 1) / max(limit - 1, 1))] for i in range(limit)]
    return [
        Case(name, group, _middle(flux_of(image)), HELD_OUT[i % len(HELD_OUT)])
        for i, (name, group, image) in enumerate(large)
    ]


def _middle(flux: NDArray[np.float32]) -> NDArray[np.float32]:
    top, left = (max(0, (side - MAX_SIDE) // 2) for side in flux.shape)
    return flux[top : top + MAX_SIDE, left : left + MAX_SIDE]


def scene_of(case: Case, defocus_um: float) -> Scene:
    """The frame of a case at a level; its noise depends on nothing else."""
    seed = zlib.crc32(f"{case.specimen} {case.setting.name} {defocus_um}".encode())
    rng = np.random.default_rng(seed)
    return simulate_frame(case.flux, case.setting, Defocus(defocus_um), rng)


def _refocused(engine: OpenVinoEngine, raw: Pixels) -> Pixels:
    out = np.empty_like(raw)
    engine.refocus(raw, out)
    return out


def _user_deconvolved(scene: Scene) -> NDArray[np.float32]:
    offset = np.float32(scene.range.offset)
    light = scene.raw - offset
    *_, estimate = richardson_lucy(light, USER_OPTICS, USER_DEFOCUS, USER_ITERATIONS)
    return np.asarray(estimate + offset, dtype=np.float32)


def _best_deconvolved(scene: Scene, optics: Optics, defocus_um: float) -> Quality:
    """The iteration with the best PSNR (affine): an oracle chooses."""
    offset = np.float32(scene.range.offset)
    iterations = richardson_lucy(
        scene.raw - offset, optics, Defocus(defocus_um), max(BEST_OF_ITERATIONS)
    )
    best = max(
        (
            estimate + offset
            for number, estimate in enumerate(iterations, start=1)
            if number in BEST_OF_ITERATIONS
        ),
        key=lambda estimate: psnr(estimate, scene.truth, affine=True),
    )
    return compare(best, scene.truth, register=False)


def evaluate(
    bundle: Path | str,
    cases: Sequence[Case],
    *,
    levels: Iterable[float] = LEVELS_UM,
    deconvolve: bool = True,
) -> list[Result]:
    """Every method on every case at every level.

    Parameters
    ----------
    bundle : Path or str
        Folder, or the name of a shipped bundle.
    cases : sequence of Case
    levels : iterable of float
        Defocus in micrometres.
    deconvolve : bool
        Also run Richardson-Lucy, which takes most of the time.
    """
    loaded = load_bundle(bundle)
    f32 = OpenVinoEngine(loaded, EngineOptions(precision="f32"))
    auto = OpenVinoEngine(loaded)
    results = []
    frames = [(case, level) for level in levels for case in cases]
    for case, level in track(frames, "evaluating", console=Console(stderr=True)):
        scene = scene_of(case, level)
        refocused = _refocused(f32, scene.raw)
        found = {
            "input": compare(scene.raw, scene.truth, register=False),
            "refocused": compare(refocused, scene.truth, register=False),
        }
        # What a user gets: the worker passes frames through that are in focus already.
        said = verdict(focus_score(scene.raw), focus_score(refocused))
        found["as written"] = found["input" if said == "in focus" else "refocused"]
        if auto.description.precision == "bf16":
            frame = _refocused(auto, scene.raw)
            found["refocused bf16"] = compare(frame, scene.truth, register=False)
        if deconvolve:
            found["RL 12 um PSF"] = compare(_user_deconvolved(scene), scene.truth, register=False)
            optics = case.setting.optics
            found["RL true PSF"] = _best_deconvolved(scene, optics, level)
        results += [
            Result(case.specimen, case.group, case.setting.name, level, method, quality)
            for method, quality in found.items()
        ]
    return results


def _means(results: Iterable[Result]) -> dict[str, dict[str, float]]:
    by_method: dict[str, list[Quality]] = {}
    for result in results:
        by_method.setdefault(result.method, []).append(result.quality)
    return {
        method: {
            name: round(fmean(getattr(quality, name) for quality in found), 4)
            for name in ("psnr_db", "psnr_affine_db", "ssim", "pearson")
        }
        for method, found in by_method.items()
    }


def summary(results: Sequence[Result]) -> dict[str, object]:
    """Means by level, over the out-of-focus levels, by microscope and by specimen group."""
    levels = sorted({result.defocus_um for result in results})
    averaged = [result for result in results if result.defocus_um in AVERAGED_UM]
    settings = sorted({result.setting for result in results})
    groups = sorted({result.group for result in results})
    return {
        "definition": DEFINITION,
        "frames_per_level": len({(r.specimen, r.setting) for r in results}),
        "by_defocus_um": {
            f"{level:g}": _means(r for r in results if r.defocus_um == level) for level in levels
        },
        "mean_4_8_16_32_um": _means(averaged),
        "by_microscope": {
            name: _means(r for r in averaged if r.setting == name) for name in settings
        },
        "in_focus_by_microscope": {
            name: _means(r for r in results if r.setting == name and r.defocus_um == 0)
            for name in settings
        },
        "by_specimens": {name: _means(r for r in averaged if r.group == name) for name in groups},
    }


def _rounded(quality: Quality) -> dict[str, float]:
    return {name: round(value, 4) for name, value in asdict(quality).items()}


def write_json(path: Path, bundle: Path | str, results: Sequence[Result]) -> None:
    """Summary and every single figure, with what was measured, as JSON."""
    loaded = load_bundle(bundle)
    document = {
        "model_id": loaded.model_id,
        "onnx_sha256": hashlib.sha256(loaded.onnx.read_bytes()).hexdigest(),
        "microscopes": [asdict(setting) for setting in HELD_OUT],
        **summary(results),
        "frames": [{**asdict(result), "quality": _rounded(result.quality)} for result in results],
    }
    path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def print_table(results: Sequence[Result], console: Console | None = None) -> None:
    """PSNR by level and method, as is and after the affine fit."""
    table = Table(title="PSNR in dB, as is | after affine fit")
    table.add_column("defocus (um)", justify="right")
    methods = [name for name in METHODS if any(r.method == name for r in results)]
    for method in methods:
        table.add_column(method, justify="right")
    rows = [
        (f"{level:g}", [r for r in results if r.defocus_um == level])
        for level in sorted({r.defocus_um for r in results})
    ]
    rows.append(("mean 4-32", [r for r in results if r.defocus_um in AVERAGED_UM]))
    for name, part in rows:
        means = _means(part)
        cells = (
            f"{means[m]['psnr_db']:.2f} | {means[m]['psnr_affine_db']:.2f}" if m in means else ""
            for m in methods
        )
        table.add_row(name, *cells)
    (console or Console()).print(table)
    (console or Console()).print(DEFINITION, style="dim")

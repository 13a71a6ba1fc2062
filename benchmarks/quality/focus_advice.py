"""Error of the defocus estimated from one frame, on specimens and microscopes not seen in training.

    python benchmarks/quality/focus_advice.py --data FOLDER [--json FILE] [--limit N]

FOLDER holds the BBBC038 images (`refocusd train fetch-bbbc038`) and, if available,
BBBC006 in-focus fields.  Each test specimen is simulated at 0-48 um and refocused by the
shipped engine; three ways to find the distance are compared:

- ``measured``: from the spectra before and after, with the true optics (as from a profile);
- ``assumed``: the same with the documented default optics, as without a profile;
- ``curve``: from the ratio of the focus scores before and after, on the focus curve of one specimen.

Errors are those of the distance without its sign.  ``within_1`` and ``within_2`` are the shares of
errors within one and two stated uncertainties (0.68 and 0.95 for a normal distribution), among
estimates that are not saturated and have enough confidence.  Takes about two minutes on two cores.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import numpy as np
from refocusd_training.evaluation.cases import Case, held_out_cases
from refocusd_training.simulate.blur import Defocus
from refocusd_training.simulate.camera import Camera
from refocusd_training.simulate.ranges import Setting
from refocusd_training.simulate.scene import simulate_frame
from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks.quality.focus_curve import FocusCurve
from refocusd.config import EngineOptions
from refocusd.engines.runtimes.openvino import OpenVinoEngine
from refocusd.frame import Pixels
from refocusd.imaging.defocus import DEFAULT_OPTICS, DefocusEstimate, estimate_defocus
from refocusd.imaging.optics import Optics
from refocusd.imaging.quality import focus_score
from refocusd.models.bundle import load_bundle
from refocusd.profiles.profile import FocusSection, Measured

RESULTS = Path(__file__).parents[1] / "results" / "focus_advice.json"
LEVELS_UM = (0.0, 1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0, 20.0, 25.0, 30.0, 36.0, 40.0, 48.0)
WAYS = ("measured", "assumed", "curve")
#: Within the training ranges, unlike the microscopes of the held-out cases.
TRAINED = Setting("trained", Optics(0.45, 0.461), Camera(100, 1.0, 3.0), 900.0)
#: The tracker does not use estimates of lower confidence.
BELIEVED = 0.1


@dataclass(frozen=True, slots=True)
class Row:
    """The estimate for one frame by one of `WAYS`."""

    specimen: str
    setting: str
    defocus_um: float
    way: str
    estimate: DefocusEstimate
    ms: float


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--json", type=Path, default=RESULTS)
    parser.add_argument("--limit", type=int, default=16, help="specimens")
    arguments = parser.parse_args()
    engine = OpenVinoEngine(load_bundle("live-nuclei"), EngineOptions(precision="f32", threads=1))
    cases = held_out_cases(arguments.data, limit=arguments.limit)
    rows = list(estimates(engine, cases))
    table = summary(rows)
    print_table(table)
    about = {
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "specimens": len(cases),
        "engine": engine.description.model_id,
        "levels": table,
    }
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    arguments.json.write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
    return 0


def estimates(engine: OpenVinoEngine, cases: list[Case]) -> Iterable[Row]:
    curve = focus_curve(cases[0])
    rng = np.random.default_rng(6)
    # The first specimen gives the curve and is therefore left out here.
    for case in track(cases[1:], "frames"):
        for setting in (TRAINED, case.setting):
            for um in LEVELS_UM:
                # A random side of focus: they differ with spherical aberration, and a user does not know which it is.
                side = 1 if rng.random() < 0.5 else -1
                raw = simulate_frame(case.flux, setting, Defocus(side * um), rng).raw
                out = np.empty_like(raw)
                engine.refocus(raw, out)
                for way in WAYS:
                    begun = time.perf_counter()
                    found = judge(way, raw, out, setting.optics, curve)
                    ms = (time.perf_counter() - begun) * 1e3
                    yield Row(case.specimen, setting.name, um, way, found, ms)


def judge(way: str, raw: Pixels, out: Pixels, optics: Optics, curve: FocusCurve) -> DefocusEstimate:
    if way == "measured":
        return estimate_defocus(raw, out, optics, measured=True)
    if way == "assumed":
        return estimate_defocus(raw, out, DEFAULT_OPTICS)
    after = focus_score(out)
    distance = curve.distance_at(focus_score(raw) / after) if after > 0 else None
    if distance is None:
        return DefocusEstimate(float(curve.distance_um[-1]), 10.0, 0.0)
    return DefocusEstimate(distance.value, max(distance.uncertainty, 0.1), 1.0)


def focus_curve(case: Case) -> FocusCurve:
    """The focus curve of one specimen, as `refocusd calibrate focus` would measure it."""
    rng = np.random.default_rng(7)
    z = [float(value) for value in np.arange(-48.0, 48.1, 2.0)]
    scores = [focus_score(simulate_frame(case.flux, TRAINED, Defocus(um), rng).raw) for um in z]
    section = FocusSection(
        metric="focus_score",
        best_um=Measured(value=0.0, uncertainty=0.2),
        z_um=z,
        curves={"focus_score": scores},
    )
    return FocusCurve.of(section)


def summary(rows: list[Row]) -> list[dict[str, object]]:
    table: list[dict[str, object]] = []
    for way in WAYS:
        for group in ("trained", "held-out"):
            for um in LEVELS_UM:
                some = [
                    row
                    for row in rows
                    if (row.way, row.defocus_um) == (way, um)
                    and (row.setting == "trained") == (group == "trained")
                ]
                table.append({"way": way, "optics": group, "defocus_um": um} | figures(some))
    return table


def figures(rows: list[Row]) -> dict[str, object]:
    said = [row for row in rows if row.estimate.confidence >= BELIEVED]
    told = [row for row in said if not row.estimate.saturated]
    errors = np.array([row.estimate.distance_um - row.defocus_um for row in told])
    stated = np.array([row.estimate.uncertainty_um for row in told])
    return {
        "frames": len(rows),
        "believed": len(said) / len(rows),
        "saturated": sum(row.estimate.saturated for row in said) / max(1, len(said)),
        "confidence": round(fmean(row.estimate.confidence for row in rows), 3),
        "ms": round(float(np.median([row.ms for row in rows])), 2),
        **(
            {
                "bias_um": round(float(errors.mean()), 2),
                "mae_um": round(float(np.abs(errors).mean()), 2),
                "stated_um": round(float(np.median(stated)), 2),
                "within_1": round(float((np.abs(errors) <= stated).mean()), 3),
                "within_2": round(float((np.abs(errors) <= 2 * stated).mean()), 3),
            }
            if len(told)
            else {}
        ),
    }


def print_table(table: list[dict[str, object]]) -> None:
    columns: tuple[str, ...] = ("way", "optics", "defocus_um", "mae_um", "bias_um", "stated_um")
    columns += ("within_1", "within_2", "saturated", "believed", "confidence", "ms")
    shown = Table(*columns)
    for row in table:
        values = (row.get(name, "-") for name in columns)
        shown.add_row(*(f"{v:.2f}" if isinstance(v, float) else str(v) for v in values))
    Console(width=140).print(shown)


if __name__ == "__main__":
    raise SystemExit(main())

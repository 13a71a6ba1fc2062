"""Speed of the CPU engine at each precision, compared with the same network in eager torch.

    python -m benchmarks.speed.cpu_engine [--size 696x520] [--rounds 40] [--json FILE]

Every round runs each contender once, in a new random order, on the same frame and with the
same number of threads, so that other load on the machine affects all alike.  Ratios are taken
within rounds; their 95 % interval is Student's t on the logarithms.  Two times are reported:
of the network alone, and (engines only) of a frame in the worker: normalisation, network, counts,
focus scores, verdict.  Takes a minute on two cores.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
from scipy.stats import t as student_t

from benchmarks.shared.machine import machine
from refocusd.config import EngineOptions, Precision
from refocusd.demo.specimen import Specimen
from refocusd.engines.runtimes.openvino import OpenVinoEngine, engine_threads
from refocusd.errors import EngineError
from refocusd.frame import Pixels
from refocusd.models.bundle import ModelBundle, load_bundle
from refocusd.worker.refocus import refocus_frame

RESULTS = Path(__file__).parents[1] / "results" / "cpu_engine.json"
EAGER = "torch eager f32"
PRECISIONS: tuple[Precision, ...] = ("f32", "bf16", "int8")
#: Rounds that are not counted, in which memory, caches and the processor's clock settle.
WARM_UP = 3

#: Runs one frame; returns the times in ms of the network alone and of the worker (None without one).
Contender = Callable[[], tuple[float, float | None]]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", default="live-nuclei", help="folder or shipped name")
    parser.add_argument("--int8", type=Path, help="int8 ONNX, where the bundle has none")
    parser.add_argument("--size", default="696x520", help="width x height, px")
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--json", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    console = Console()
    width, height = (int(side) for side in arguments.size.split("x"))
    threads = engine_threads(arguments.threads)
    bundle = load_bundle(arguments.model)
    if arguments.int8:
        bundle = replace(bundle, variants={**bundle.variants, "int8": arguments.int8})
    about = machine()
    raw = frame(height, width)
    contenders: dict[str, Contender] = {EAGER: eager(bundle, raw, threads)}
    missing: dict[str, str] = {}
    for precision in PRECISIONS:
        options = EngineOptions(precision=precision, threads=threads)
        try:
            engine = OpenVinoEngine(bundle, options)
        except EngineError as error:
            missing[precision] = str(error)
            console.print(f"without {precision}: {error}")
        else:
            contenders[f"OpenVINO {precision}"] = in_worker(engine, raw)
    times = measure(contenders, arguments.rounds)
    results = {name: summary(times[name], times[EAGER]) for name in contenders}
    console.print(table(results, f"{width}×{height} px, {threads} threads, {bundle.model_id}"))
    document = {
        "machine": about,
        "model": bundle.model_id,
        "model_sha256": bundle.sha256,
        "size_px": [width, height],
        "threads_count": threads,
        "rounds_count": arguments.rounds,
        "results": results,
        "not_measured": missing,
    }
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    arguments.json.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    return 0


def frame(height: int, width: int) -> Pixels:
    """A field of the demo's specimen, 8 um out of focus, repeated to the size."""
    field = Specimen().frame("DAPI", 8.0, 10.0, np.random.default_rng(0))
    repeats = (-(-height // field.shape[0]), -(-width // field.shape[1]))
    whole: Pixels = np.tile(field, repeats)[:height, :width].copy()
    return whole


def eager(bundle: ModelBundle, raw: Pixels, threads: int) -> Contender:
    """The network in eager torch."""
    import torch
    from refocusd_training.networks import build_described
    from safetensors.torch import load_file

    torch.set_num_threads(threads)
    network = build_described(bundle.network or {"name": "live"}).eval()
    network.load_state_dict(load_file(bundle.folder / "weights.safetensors"))
    normalised = bundle.counts_range(raw).normalise(raw)
    step = bundle.size_multiple
    below, right = (-side % step for side in raw.shape)
    padded = torch.from_numpy(np.pad(normalised, ((0, below), (0, right)), mode="reflect"))

    def run() -> tuple[float, None]:
        with torch.inference_mode():
            begun = time.perf_counter()
            network(padded[None, None])
            return (time.perf_counter() - begun) * 1e3, None

    return run


def in_worker(engine: OpenVinoEngine, raw: Pixels) -> Contender:
    """An engine, with everything else that a worker does with a frame."""
    out = np.empty_like(raw)

    def run() -> tuple[float, float]:
        facts = refocus_frame(engine, raw, out, pass_in_focus=False, untrusted="mark")
        return facts.engine_ms, facts.worker_ms

    return run


def measure(
    contenders: dict[str, Contender], rounds: int
) -> dict[str, list[tuple[float, float | None]]]:
    """Times of each contender, round by round."""
    rng = np.random.default_rng(0)
    names = list(contenders)
    times: dict[str, list[tuple[float, float | None]]] = {name: [] for name in names}
    for number in range(WARM_UP + rounds):
        for index in rng.permutation(len(names)):
            found = contenders[names[index]]()
            if number >= WARM_UP:
                times[names[index]].append(found)
    return times


def summary(
    times: Sequence[tuple[float, float | None]], reference: Sequence[tuple[float, float | None]]
) -> dict[str, Any]:
    """Medians, frames per second, and how many times as fast as the reference."""
    network = np.array([ms for ms, _ in times])
    found: dict[str, Any] = {
        "network_p50_ms": round(float(np.median(network)), 2),
        "network_p95_ms": round(float(np.percentile(network, 95)), 2),
    }
    worker = [ms for _, ms in times if ms is not None]
    if worker:
        middle = float(np.median(worker))
        found |= {
            "worker_p50_ms": round(middle, 2),
            "worker_p95_ms": round(float(np.percentile(worker, 95)), 2),
            "worker_p50_frames_per_s": round(1e3 / middle, 1),
        }
    if times is not reference and len(times) > 1:
        logs = np.log([slow[0] / fast[0] for slow, fast in zip(reference, times, strict=True)])
        half = float(student_t.ppf(0.975, len(logs) - 1) * logs.std(ddof=1) / math.sqrt(len(logs)))
        mean = float(logs.mean())
        found |= {
            "faster_than_eager_ratio": round(math.exp(mean), 3),
            "faster_than_eager_low_ratio": round(math.exp(mean - half), 3),
            "faster_than_eager_high_ratio": round(math.exp(mean + half), 3),
        }
    return found


def table(results: dict[str, dict[str, Any]], title: str) -> Table:
    shown = Table(
        "", "network p50 ms", "p95", "worker p50 ms", "fps", "× eager (95 %)", title=title
    )
    for name, found in results.items():
        ratio = "1"
        if "faster_than_eager_ratio" in found:
            ratio = "{} ({}-{})".format(
                *(found[f"faster_than_eager_{part}ratio"] for part in ("", "low_", "high_"))
            )
        shown.add_row(
            name,
            str(found["network_p50_ms"]),
            str(found["network_p95_ms"]),
            str(found.get("worker_p50_ms", "")),
            str(found.get("worker_p50_frames_per_s", "")),
            ratio,
        )
    return shown


if __name__ == "__main__":
    raise SystemExit(main())

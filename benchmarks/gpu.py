"""Everything that needs a GPU: tests, latencies of the engines, copies, TensorRT.

    benchmarks/gpu.sh [--json FILE] [--rehearse]

Latency is measured from counts in the computer's memory to refocused counts there: offset and scale,
upload, network, rounding, download.  The bound is that of `refocusd bench`: the minimum time
for the network's arithmetic and memory traffic at the rates measured on this card.  The
ResNet-34 U-net has random weights, which take the same time as trained ones.  The default model is given
a blur of the width that its network is made for, so that the whole frame goes through it once, as in a stream.
It has no bound, as its work per frame depends on the blur.  What cannot be measured is listed with the
reason; the figures are written after every step.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
import torch
from refocusd_training.networks import NetworkConfig, build_described, build_network, description_of
from rich.console import Console
from rich.table import Table
from safetensors.torch import save_file
from torch.utils.flop_counter import FlopCounterMode

from refocusd.bench.combination import Rates, percentile
from refocusd.bench.machine import machine
from refocusd.bench.measure import measured_rates, sample_frame
from refocusd.bench.session import Work
from refocusd.config import EngineOptions, Precision
from refocusd.engines.choose import available_backends
from refocusd.engines.engine import Engine
from refocusd.engines.runtimes.tensorrt import TensorRtEngine, probe, tensorrt_scale_network
from refocusd.engines.runtimes.torch import TorchEngine, TorchScaleNetwork
from refocusd.engines.scaled import ScaledEngine
from refocusd.errors import EngineError, RefocusdError
from refocusd.imaging.blur import KNOWN, BlurEstimate
from refocusd.models.bundle import ModelBundle, load_bundle

ROOT = Path(__file__).resolve().parents[1]
RESULTS = Path(__file__).parent / "results"
GROUP = "refocusd.networks"
#: Time limit for the tests of one file, s.
TESTS_S = 60.0
#: No measurement starts later than this after the beginning, s.
LAST_BEGIN_S = 360.0
#: Frames that are not counted, before the others.
WARM_FRAMES = 5
#: Side of the frame for which operations are counted; the work of convolutions is proportional to the area.
COUNTED_PX = 256
COPY_RUNS = 20
#: The blur, in px, given to models that work at the scale of the blur.
BLUR = BlurEstimate(3.0, KNOWN, "optics")
RESNET = NetworkConfig(name="resnet34")

Device = Literal["cuda", "cpu"]
Figures = dict[str, Any]


@dataclass(frozen=True)
class Plan:
    """The extent of the measurements, and their device."""

    device: Device
    shapes: tuple[tuple[int, int], ...]
    precisions: tuple[Precision, ...]
    frames: int
    seconds: float


CARD = Plan("cuda", ((2048, 2048), (1024, 1024), (520, 696)), ("f16", "f32"), 300, 12.0)
REHEARSAL = Plan("cpu", ((64, 96),), ("f32",), 3, 5.0)


@dataclass
class Notebook:
    """The figures so far, written to disk after every step."""

    file: Path | None
    begun: float = field(default_factory=time.monotonic)
    found: Figures = field(default_factory=dict)

    def keep(self, name: str, figures: Any) -> None:
        """Add figures under a name, and write the file."""
        self.found[name] = figures
        self.found["elapsed_s"] = round(time.monotonic() - self.begun, 1)
        if self.file is not None:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            self.file.write_text(json.dumps(self.found, indent=1) + "\n", encoding="utf-8")

    @property
    def late(self) -> bool:
        """Whether it is too late to start another measurement."""
        return time.monotonic() - self.begun > LAST_BEGIN_S


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rehearse", action="store_true", help="tiny, on the CPU")
    parser.add_argument("--json", type=Path, help="default: results/gpu.json; none in a rehearsal")
    arguments = parser.parse_args()
    plan = REHEARSAL if arguments.rehearse else CARD
    if plan.device == "cuda" and not torch.cuda.is_available():
        print("torch finds no NVIDIA card; --rehearse runs this on the CPU", file=sys.stderr)
        return 2
    file = arguments.json or (None if arguments.rehearse else RESULTS / "gpu.json")
    console, notes = Console(width=120, markup=False, highlight=False), Notebook(file)
    with tempfile.TemporaryDirectory(prefix="refocusd-gpu-") as name:
        folder = Path(name)
        offer_networks(folder)
        notes.keep("rehearsal", arguments.rehearse)
        notes.keep("machine", {**machine(), "gpu": gpu(plan.device)})
        notes.keep("backends", {name: why or "works" for name, why in available_backends().items()})
        notes.keep("tests", gpu_tests(folder))
        notes.keep("copies", copies(plan))
        rates = rates_of(plan)
        notes.keep("rates", msgspec.to_builtins(rates))
        rows = []
        for row in engine_rows(plan, folder, rates, lambda: notes.late):
            rows.append(row)
            notes.keep("engines", rows)
            console.print(" ".join(f"{key}={value}" for key, value in row.items()))
    show(console, notes.found)
    return 1 if any("failed" in said for said in notes.found["tests"].values()) else 0


def offer_networks(folder: Path) -> None:
    """Make the networks' entry points available in a checkout that is not installed."""
    if entry_points(group=GROUP):
        return
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    about = folder / "site" / "refocusd-0.dist-info"
    about.mkdir(parents=True)
    lines = [f"{key} = {value}" for key, value in project["entry-points"][GROUP].items()]
    text = "\n".join([f"[{GROUP}]", *lines, ""])
    (about / "entry_points.txt").write_text(text, encoding="utf-8")
    (about / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: refocusd\nVersion: 0\n", encoding="utf-8"
    )
    sys.path.append(str(about.parent))


def gpu(device: Device) -> str:
    if device == "cpu":
        return "none: a rehearsal on the CPU"
    card = torch.cuda.get_device_properties(0)
    return f"{card.name}, sm{card.major}{card.minor}, CUDA {torch.version.cuda}"


# -- the card itself -----------------------------------------------------------------------


def copies(plan: Plan) -> Figures:
    """Median times of copying one frame of 16-bit pixels in each direction."""
    height, width = plan.shapes[0]
    there = torch.zeros((height, width), dtype=torch.int16, device=plan.device)
    pinned = torch.zeros((height, width), dtype=torch.int16, pin_memory=plan.device == "cuda")
    plain = torch.zeros((height, width), dtype=torch.int16)
    ways: dict[str, Callable[[], Any]] = {
        "up_pinned": lambda: there.copy_(pinned, non_blocking=True),
        "up_plain": lambda: there.copy_(plain),
        "down_pinned": lambda: pinned.copy_(there, non_blocking=True),
        "down_plain": lambda: plain.copy_(there),
    }
    found: Figures = {"frame_px": [height, width]}
    for name, copy in ways.items():
        times = sorted(timed(copy, plan.device) for _ in range(COPY_RUNS))
        found[f"{name}_p50_ms"] = round(percentile(times, 50), 4)
    return found


def timed(job: Callable[[], Any], device: Device) -> float:
    """Duration of a job, ms, including the card's work."""
    begun = time.perf_counter()
    job()
    if device == "cuda":
        torch.cuda.synchronize()
    return (time.perf_counter() - begun) * 1e3


def rates_of(plan: Plan) -> dict[str, Rates]:
    """The card's rates by precision; empty in a rehearsal."""
    if plan.device == "cpu":
        return {}
    found: dict[str, Rates] = {}
    for precision in plan.precisions:
        found[precision] = measured_rates("cuda", precision)
        torch.cuda.empty_cache()
    return found


# -- engines -------------------------------------------------------------------------------


def engine_rows(
    plan: Plan, folder: Path, rates: Mapping[str, Rates], late: Callable[[], bool]
) -> Iterator[Figures]:
    """Figures of every engine at every size, or the reason why it was refused."""
    default = load_bundle("live-fluorescence")
    for bundle in (load_bundle("live-nuclei"), random_resnet(folder), default):
        work = counted(bundle) if bundle.fine_sigma_px is None else None
        for precision in plan.precisions:
            for backend, build in builders(plan.device).items():
                about: Figures = {
                    "model": bundle.model_id,
                    "backend": backend,
                    "precision": precision,
                }
                if late():
                    yield about | {"refused": "no time left"}
                    continue
                options = EngineOptions(precision=precision)
                try:
                    engine = build(bundle, options)
                except RefocusdError as error:
                    yield about | {"refused": str(error)}
                    continue
                try:
                    for shape in plan.shapes:
                        if not late():
                            yield about | measured(engine, bundle, shape, plan, work, rates)
                except RefocusdError as error:
                    yield about | {"refused": str(error)}
                finally:
                    engine.close()


def builders(device: Device) -> dict[str, Callable[[ModelBundle, EngineOptions], Engine]]:
    """The backends to measure; TensorRT is always tried, and the reason noted if it is refused."""

    def by_torch(bundle: ModelBundle, options: EngineOptions) -> Engine:
        if bundle.fine_sigma_px is None:
            return TorchEngine(bundle, options, device)
        return ScaledEngine(bundle, TorchScaleNetwork(bundle, options, device), BLUR)

    def by_tensorrt(bundle: ModelBundle, options: EngineOptions) -> Engine:
        if bundle.fine_sigma_px is None:
            return TensorRtEngine(with_onnx(bundle), options)
        return ScaledEngine(bundle, tensorrt_scale_network(with_onnx(bundle), options), BLUR)

    return {"cuda" if device == "cuda" else "torch-cpu": by_torch, "tensorrt": by_tensorrt}


def measured(
    engine: Engine,
    bundle: ModelBundle,
    shape: tuple[int, int],
    plan: Plan,
    work: Work | None,
    rates: Mapping[str, Rates],
) -> Figures:
    """Latency of frames of one size."""
    raw = sample_frame(shape)
    out = np.empty_like(raw)
    begun = time.perf_counter()
    engine.warm_up(shape)
    ready_s = time.perf_counter() - begun
    for _ in range(WARM_FRAMES):
        engine.refocus(raw, out)
    whole: list[float] = []
    network: list[float] = []
    stop = time.perf_counter() + plan.seconds
    while len(whole) < plan.frames and time.perf_counter() < stop:
        begun = time.perf_counter()
        network.append(engine.refocus(raw, out).engine_ms)
        whole.append((time.perf_counter() - begun) * 1e3)
    whole.sort()
    network.sort()
    found: Figures = {
        "size_px": list(shape),
        "frames_count": len(whole),
        "ready_s": round(ready_s, 2),
        "p50_ms": round(percentile(whole, 50), 3),
        "p95_ms": round(percentile(whole, 95), 3),
        "p99_ms": round(percentile(whole, 99), 3),
        "p50_frames_per_s": round(1e3 / percentile(whole, 50), 1),
        "network_p50_ms": round(percentile(network, 50), 3),
    }
    precision = engine.description.precision
    if work is not None and precision in rates:
        limit = bound_ms(work, bundle, shape, precision, rates[precision])
        found["bound_ms"] = round(limit, 3)
        found["network_to_bound_ratio"] = round(percentile(network, 50) / limit, 2)
    if plan.device == "cuda":
        # TensorRT allocates memory outside torch; the card's own figure includes both.
        free, total = torch.cuda.mem_get_info()
        found["card_used_mib"] = round((total - free) / 2**20)
    return found


def bound_ms(
    work: Work, bundle: ModelBundle, shape: tuple[int, int], precision: str, rates: Rates
) -> float:
    """The minimum time of a frame of this size, ms; see `refocusd bench`."""
    step = bundle.size_multiple
    height, width = (-(-side // step) * step for side in shape)
    here = replace(work, pixels=height * width)
    flops = work.flops * here.pixels / work.pixels
    return 1e3 * max(flops / rates.flops, here.least_bytes(precision) / rates.copied)


def counted(bundle: ModelBundle) -> Work:
    """The network's work on a small frame, counted by torch without computing it."""
    assert bundle.network is not None
    network = build_described(bundle.network).to("meta").eval()
    frame = torch.empty((1, 1, COUNTED_PX, COUNTED_PX), device="meta")
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        network(frame)
    weights = sum(one.numel() for one in network.parameters())
    return Work(float(counter.get_total_flops()), weights, COUNTED_PX**2)


def random_resnet(folder: Path) -> ModelBundle:
    """A bundle of the reference method's network with random weights.

    Frames of up to 2048 px are not tiled, so that the network's receptive field does not matter.
    """
    network = build_network(RESNET).eval()
    weights = folder / "resnet34.safetensors"
    save_file({name: one.contiguous() for name, one in network.state_dict().items()}, weights)
    return replace(
        load_bundle("live-nuclei"),
        folder=folder,
        model_id="resnet34-random",
        sha256="random" + "0" * 58,
        size_multiple=network.size_multiple,
        weights=weights,
        onnx=folder / "resnet34.onnx",
        network=description_of(RESNET),
        variants={},
    )


def with_onnx(bundle: ModelBundle) -> ModelBundle:
    """The same bundle with its ONNX file, which is made first if it is missing; only with TensorRT."""
    if why := probe():
        raise EngineError(why)
    if not bundle.onnx.exists():
        try:
            from refocusd_training.export.onnx import export_onnx
        except ImportError as error:
            raise EngineError(f"its ONNX cannot be made here: {error}") from error
        export_onnx(build_network(RESNET).eval(), bundle.onnx)
    return bundle


# -- tests ---------------------------------------------------------------------------------


def gpu_tests(folder: Path) -> dict[str, str]:
    """Run the tests marked ``gpu``; the last line of the output for every file."""
    # The tests and their child processes also need the entry points that `offer_networks` wrote.
    paths = [str(folder / "site"), *filter(None, [os.environ.get("PYTHONPATH")])]
    around = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    # This machine's versions of packages are not ours to choose; their warnings must not fail a test.
    how = ["-m", "gpu", "-q", "--noconftest", "-p", "no:cacheprovider", "-W", "default"]
    found: dict[str, str] = {}
    for name, why_not in (
        ("tests/engines/test_cuda.py", ""),
        ("tests/engines/test_tensorrt.py", probe()),
    ):
        if why_not:
            found[name] = f"not run: {why_not}"
            continue
        command = [sys.executable, "-m", "pytest", *how, name]
        try:
            done = subprocess.run(
                command, cwd=ROOT, env=around, capture_output=True, text=True, timeout=TESTS_S,
                check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            found[name] = f"failed: not done after {TESTS_S:g} s"
            continue
        lines = done.stdout.strip().splitlines() or [f"status {done.returncode}"]
        found[name] = f"failed: {lines[-1]}" if done.returncode else lines[-1]
        if done.returncode:
            print("\n".join(lines[-40:]))
    return found


def show(console: Console, found: Figures) -> None:
    """Print a summary at the end."""
    head = ("", "px", "p50 ms", "p95", "p99", "fps", "network", "bound", "× bound")
    keys = ("p50_ms", "p95_ms", "p99_ms", "p50_frames_per_s", "network_p50_ms", "bound_ms")
    table = Table(*head, title=found["machine"]["gpu"])
    refused = {}
    for row in found["engines"]:
        name = f"{row['model']} {row['backend']} {row['precision']}"
        if "refused" in row:
            refused[name] = row["refused"]
            continue
        height, width = row["size_px"]
        figures = (str(row.get(key, "")) for key in (*keys, "network_to_bound_ratio"))
        table.add_row(name, f"{width}×{height}", *figures)
    for name, said in (found["tests"] | found["copies"]).items():
        console.print(f"{name}: {said}")
    for name, why in refused.items():
        console.print(f"not measured: {name}: {why}")
    console.print(table)


if __name__ == "__main__":
    raise SystemExit(main())

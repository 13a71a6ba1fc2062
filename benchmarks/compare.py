"""refocusd compared with other methods that sharpen blurred frames, on the same frames in one run.

    python -m benchmarks.compare [--quick] [--stacks FOLDER] [--json FILE] [--plot FILE]

Frames are the demo's specimen at 4, 8, 16 and 32 um of defocus, and (--stacks) the planes of real
stacks whose optics `real_stacks.toml` gives.  Richardson-Lucy is run with the PSF of each frame's true
defocus, which a user does not have, and with the PSF of one defocus for all frames, as a user would
run it.  All methods process each frame in turn, so that other load on the computer affects all alike.

The plot shows only ratios: times as fast as Richardson-Lucy by scikit-image, and dB of PSNR above
the frame as acquired; the JSON has the definitions of both.  Methods that are not installed, or need a
GPU or weights that are not available, are listed with the reason.  CARE-like networks need weights:
--csbdeep FOLDER (a saved CARE model) and --careamics FILE (a checkpoint).
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import scipy.fft
from numpy.typing import NDArray
from refocusd_training.evaluation.methods import Exposure
from refocusd_training.evaluation.pair import REAL_DEFINITION
from refocusd_training.evaluation.stacks import read_notes, stack_pairs
from refocusd_training.simulate.blur import Defocus, transfer
from rich.console import Console
from rich.table import Table

from refocusd.bench.machine import busy_share, machine
from refocusd.config import EngineOptions, Precision
from refocusd.demo.specimen import Specimen
from refocusd.engines.choose import build_engine
from refocusd.engines.engine import Engine, EngineDescription
from refocusd.engines.runtimes.openvino import engine_threads
from refocusd.engines.runtimes.torch import TorchScaleNetwork
from refocusd.engines.scaled import ScaledEngine
from refocusd.errors import RefocusdError
from refocusd.imaging.normalise import counts_range
from refocusd.imaging.optics import Optics
from refocusd.imaging.quality import psnr
from refocusd.models.bundle import ModelBundle, load_bundle
from refocusd.worker.refocus import refocus_frame

NOTES = Path(__file__).parent / "quality" / "real_stacks.toml"
MODEL = "live-fluorescence"
PSF_SIDE = 127
ITERATIONS = 30
DEFOCUS_UM = (4.0, 8.0, 16.0, 32.0)
#: Defocus of the one PSF for all frames, in the middle of the range.
USER_DEFOCUS_UM = 12.0
PRECISIONS: tuple[Precision, ...] = ("f32", "bf16")
#: Times are compared with those of this method.
BASE = "Richardson-Lucy, scikit-image, one PSF"

Image = NDArray[Any]
Refocus = Callable[[Exposure], Image]


@dataclass
class Method:
    """One method and its measurements, one for each frame."""

    name: str
    refocus: Refocus
    ms: list[float] = field(default_factory=list)
    psnr_affine_db: list[float] = field(default_factory=list)

    def figures(self) -> dict[str, Any]:
        """Its figures for the JSON."""
        p50, p95 = np.percentile(self.ms, (50, 95))
        return {
            "latency_p50_ms": round(float(p50), 2),
            "latency_p95_ms": round(float(p95), 2),
            "frames_per_s": round(1e3 * len(self.ms) / sum(self.ms), 2),
            "psnr_affine_db": round(statistics.mean(self.psnr_affine_db), 3),
        }


# -- refocusd, and its network in other runtimes ---------------------------------------------


def as_written(engine: Engine) -> Refocus:
    """What refocusd writes; the time includes that of the verdict."""

    def refocus(exposure: Exposure) -> Image:
        out = np.empty_like(exposure.raw)
        refocus_frame(engine, exposure.raw, out)
        return out

    return refocus


def engine_alone(engine: Engine) -> Refocus:
    """The engine's output, without a verdict."""

    def refocus(exposure: Exposure) -> Image:
        out = np.empty_like(exposure.raw)
        engine.refocus(exposure.raw, out)
        return out

    return refocus


def refocusd_engine(model: str, backend: Any, precision: Precision) -> Engine:
    engine = build_engine(model, EngineOptions(backend, precision))
    if (became := engine.description.precision) != precision:
        raise RefocusdError(f"it computes in {became} here")
    return engine


def torch_eager(bundle: ModelBundle) -> Engine:
    import torch

    torch.set_num_threads(engine_threads())
    return ScaledEngine(bundle, TorchScaleNetwork(bundle, EngineOptions(precision="f32"), "cpu"))


class OrtNetwork:
    """A bundle's graph in ONNX Runtime on the CPU, as a network for `ScaledEngine`."""

    def __init__(self, bundle: ModelBundle) -> None:
        import onnxruntime

        how = onnxruntime.SessionOptions()
        how.intra_op_num_threads = engine_threads()
        self.onnx = bundle.onnx
        self._session = onnxruntime.InferenceSession(
            str(bundle.onnx), how, providers=["CPUExecutionProvider"]
        )
        self.outputs = tuple(port.name for port in self._session.get_outputs())
        self.description = EngineDescription.of_bundle(
            bundle, "onnxruntime", "f32", "CPU", f"onnxruntime-{onnxruntime.__version__}"
        )

    def run(self, batch: NDArray[np.float32]) -> tuple[NDArray[np.float32], ...]:
        """All outputs of the graph for a batch."""
        entry = self._session.get_inputs()[0].name
        return tuple(np.asarray(answer) for answer in self._session.run(None, {entry: batch}))

    def close(self) -> None:
        """Do nothing; the session has nothing to release."""


# -- Richardson-Lucy -------------------------------------------------------------------------


@lru_cache(maxsize=256)
def psf_of(optics: Optics, defocus_um: float) -> NDArray[np.float32]:
    """The PSF in a square of `PSF_SIDE` px with sum 1; cached, as a user would make it only once."""
    side = 4 * PSF_SIDE
    image = scipy.fft.irfft2(transfer(optics, Defocus(defocus_um), (side, side)), s=(side, side))
    first = side // 2 - PSF_SIDE // 2
    middle = slice(first, first + PSF_SIDE)
    psf = np.maximum(np.fft.fftshift(image)[middle, middle], 0).astype(np.float32)
    return np.asarray(psf / psf.sum(), np.float32)


def richardson_lucy(deconvolve: Callable[[Image, Image], Image], *, true: bool) -> Refocus:
    """Deconvolve the light above background; frames are padded by mirroring, to avoid ringing at the borders."""

    def refocus(exposure: Exposure) -> Image:
        assert exposure.optics is not None
        assert exposure.defocus_um is not None
        psf = psf_of(exposure.optics, exposure.defocus_um if true else USER_DEFOCUS_UM)
        light = np.maximum(exposure.raw - np.float32(exposure.range.offset), 0).astype(np.float32)
        margin = PSF_SIDE // 2
        found = deconvolve(np.pad(light, margin, mode="symmetric"), psf)
        height, width = exposure.raw.shape
        inner = found[margin : margin + height, margin : margin + width]
        return np.asarray(inner + np.float32(exposure.range.offset))

    return refocus


def by_scikit_image() -> Callable[[Image, Image], Image]:
    from skimage import restoration

    function: Any = restoration.richardson_lucy
    return lambda light, psf: np.asarray(
        function(light, psf, num_iter=ITERATIONS, clip=False, filter_epsilon=1e-3)
    )


def by_red_lion_fish() -> Callable[[Image, Image], Image]:
    import RedLionfishDeconv  # type: ignore[import-not-found]

    def deconvolve(light: Image, psf: Image) -> Image:
        # RedLionfish takes volumes; a frame is a volume of one plane.
        found = RedLionfishDeconv.doRLDeconvolutionFromNpArrays(
            light[None], psf[None], niter=ITERATIONS, method="cpu"
        )
        return np.asarray(found[0])

    return deconvolve


# -- networks that users train ---------------------------------------------------------------


def csbdeep(folder: Path | None) -> Refocus:
    from csbdeep.models import CARE  # type: ignore[import-not-found]

    if folder is None:
        raise RefocusdError("it has no weights of its own: name a saved model with --csbdeep")
    model = CARE(config=None, name=folder.name, basedir=str(folder.parent))
    return lambda exposure: np.asarray(model.predict(exposure.raw, "YX"))


def careamics(checkpoint: Path | None) -> Refocus:
    from careamics import CAREamist  # type: ignore[import-not-found]

    if checkpoint is None:
        raise RefocusdError("it has no weights of its own: name a checkpoint with --careamics")
    careamist = CAREamist(source=checkpoint)

    def refocus(exposure: Exposure) -> Image:
        image = exposure.raw.astype(np.float32)
        found = careamist.predict(source=image, data_type="array", axes="YX")
        return np.asarray(np.squeeze(found[0]))

    return refocus


# -- the comparison --------------------------------------------------------------------------


def makers(arguments: argparse.Namespace) -> dict[str, Callable[[], Refocus]]:
    """A function for each method, by the method's name, that builds it."""
    model = load_bundle(MODEL)
    wanted: dict[str, Callable[[], Refocus]] = {
        f"refocusd {MODEL} {precision}, as written": lambda p=precision: as_written(  # type: ignore[misc]
            refocusd_engine(MODEL, "openvino", p)
        )
        for precision in PRECISIONS
    }
    wanted |= {
        f"the same network, OpenVINO {precision}": lambda p=precision: engine_alone(  # type: ignore[misc]
            refocusd_engine(MODEL, "openvino", p)
        )
        for precision in PRECISIONS
    }
    wanted |= {
        "the same network, ONNX Runtime f32": lambda: engine_alone(
            ScaledEngine(model, OrtNetwork(model))
        ),
        "the same network, torch eager f32": lambda: engine_alone(torch_eager(model)),
        "refocusd deconvolution, no network": lambda: engine_alone(
            build_engine(MODEL, EngineOptions("deconvolution"))
        ),
        BASE: lambda: richardson_lucy(by_scikit_image(), true=False),
        "Richardson-Lucy, scikit-image, true PSF": lambda: richardson_lucy(
            by_scikit_image(), true=True
        ),
        "Richardson-Lucy, RedLionfish, one PSF": lambda: richardson_lucy(
            by_red_lion_fish(), true=False
        ),
        "CSBDeep (CARE)": lambda: csbdeep(arguments.csbdeep),
        "CAREamics": lambda: careamics(arguments.careamics),
    }
    return wanted


def built(arguments: argparse.Namespace, missing: dict[str, str]) -> Iterator[Method]:
    """The methods that work on this machine; the reasons why others do not are added to `missing`."""
    for name, make in makers(arguments).items():
        try:
            yield Method(name, make())
        except ImportError as error:
            missing[name] = f"{error.name or error} is not installed"
        except (RefocusdError, RuntimeError, OSError) as error:
            missing[name] = str(error).splitlines()[0]


def exposures(stacks: Path | None, *, quick: bool) -> Iterator[Exposure]:
    """Frames of the demo's specimen, and planes of real stacks whose optics are known."""
    specimen, choose = Specimen(), np.random.default_rng(0)
    channels = specimen.channels[:1] if quick else specimen.channels
    for channel in channels:
        for um in DEFOCUS_UM[1:3] if quick else DEFOCUS_UM:
            raw = specimen.frame(channel, specimen.focus.at() + um, 10.0, choose)
            truth = specimen.truth(channel)
            if quick:
                raw, truth = np.ascontiguousarray(raw[:160, :160]), truth[:160, :160]
            optics = specimen.optics(channel)
            yield Exposure(raw, truth, counts_range(raw), optics.pixel_um, optics, um)
    if stacks is None:
        return
    for pair in stack_pairs(stacks, read_notes(NOTES), limit=2 if quick else 8):
        if pair.optics is None or not pair.defocus_um:
            continue
        truth = pair.truth.astype(np.float32)
        optics, um = pair.optics, pair.defocus_um
        yield Exposure(pair.raw, truth, counts_range(pair.raw), pair.pixel_um, optics, um)


def measure(methods: list[Method], frames: list[Exposure]) -> None:
    """Run all methods on each frame in turn, and add time and PSNR to each method."""
    for method in methods:
        method.refocus(frames[0])
    for frame in frames:
        for method in methods:
            begun = time.perf_counter()
            image = method.refocus(frame)
            method.ms.append((time.perf_counter() - begun) * 1e3)
            method.psnr_affine_db.append(psnr(image, frame.truth, affine=True))


def ratios(found: list[Method], raw_db: float) -> dict[str, tuple[float, float]]:
    """For each method, how many times as fast it is as `BASE` (median over frames), and its gain over raw in dB."""
    base = next(method for method in found if method.name == BASE)
    return {
        method.name: (
            round(float(np.median(np.array(base.ms) / np.array(method.ms))), 3),
            round(statistics.mean(method.psnr_affine_db) - raw_db, 3),
        )
        for method in found
    }


def draw(path: Path, points: dict[str, tuple[float, float]], processor: str) -> None:
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter

    figure = Figure(figsize=(9, 4.5), layout="constrained")
    axes = figure.add_subplot()
    for index, (name, (speed, gain)) in enumerate(points.items()):
        axes.plot(speed, gain, color=f"C{index % 10}", marker="osD^v"[index // 4 % 5],
                  linestyle="none", label=name)  # fmt: skip
    axes.axhline(0.0, color="0.5", linestyle="--", label="as acquired")
    axes.set(xscale="log", xlabel="times as fast as Richardson-Lucy (scikit-image)")
    axes.set(ylabel="PSNR gained over raw (dB)", title=processor)
    for which in (axes.xaxis.set_major_formatter, axes.xaxis.set_minor_formatter):
        which(
            FuncFormatter(
                lambda times, _: f"{times:g}" if times in (0.5, 1, 2, 3, 5, 10, 20) else ""
            )
        )
    axes.grid(visible=True, which="both", alpha=0.2)
    figure.legend(loc="outside right upper", fontsize="small")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small frames: does it run?")
    parser.add_argument("--stacks", type=Path, help="folder of through-focus stacks")
    parser.add_argument("--csbdeep", type=Path, help="folder of a saved CARE model")
    parser.add_argument("--careamics", type=Path, help="checkpoint of CAREamics")
    parser.add_argument("--json", type=Path, help="the figures")
    parser.add_argument("--plot", type=Path, help="the plot of ratios (needs matplotlib)")
    arguments = parser.parse_args()
    console = Console(soft_wrap=True)
    busy = busy_share()
    missing: dict[str, str] = {}
    methods = list(built(arguments, missing))
    frames = list(exposures(arguments.stacks, quick=arguments.quick))
    measure(methods, frames)
    raw_db = statistics.mean(psnr(each.raw, each.truth, affine=True) for each in frames)
    points = ratios(methods, raw_db)
    table = Table("method", "p50 ms", "p95 ms", "frames/s", "times as fast", "dB over raw")
    for method in methods:
        figures, (speed, gain) = method.figures(), points[method.name]
        cells = (figures[f"latency_p{p}_ms"] for p in (50, 95))
        table.add_row(
            method.name,
            *map(str, cells),
            str(figures["frames_per_s"]),
            f"{speed:.2f}",
            f"{gain:+.2f}",
        )
    console.print(table)
    for name, reason in missing.items():
        console.print(f"not measured: {name}: {reason}", markup=False)
    about = machine()
    report = {
        "machine": about,
        "busy_before_share": busy,
        "quick": arguments.quick,
        "frames": len(frames),
        "psnr": REAL_DEFINITION,
        "as_acquired_psnr_affine_db": round(raw_db, 3),
        "methods": {method.name: method.figures() for method in methods},
        "times_as_fast_and_db_over_raw": points,
        "not_measured": missing,
    }
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    if arguments.plot:
        draw(arguments.plot, points, str(about["cpu"]))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

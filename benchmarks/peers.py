"""refocusd's engines beside what else refocuses a frame: speed and quality, the same frames.

    python benchmarks/peers.py [--quick] [--data FOLDER] [--model NAME] [--frames N]

Frames are simulated at 4, 8, 16 and 32 um of defocus with optics and a camera that
training never draws, from the shipped sample picture or the sharp images in FOLDER.
The sample is of the image set that the shipped model was trained on: its PSNR says that
the runtimes agree; for how good the model is, give held-out images with --data.
Writes benchmarks/results/peers.json and peers.png.  What is not installed, or needs a
GPU that is not there, is listed with the reason.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import scipy.fft
from numpy.typing import NDArray
from refocusd_training.evaluation.cases import AVERAGED_UM, Case, channel_cases
from refocusd_training.evaluation.methods import USER_DEFOCUS, USER_OPTICS, Exposure
from refocusd_training.evaluation.results import exposure_of
from refocusd_training.simulate.blur import Defocus, transfer
from refocusd_training.simulate.ranges import HELD_OUT
from refocusd_training.simulate.specimen import flux_of
from rich.console import Console
from rich.table import Table

from refocusd.bench.machine import busy_share, machine
from refocusd.bench.measure import sample_frame
from refocusd.config import EngineOptions, Precision
from refocusd.engines.choose import build_engine
from refocusd.engines.openvino import engine_threads
from refocusd.errors import RefocusdError
from refocusd.imaging.optics import Optics
from refocusd.imaging.quality import psnr
from refocusd.models.bundle import ModelBundle, load_bundle

RESULTS = Path(__file__).parent / "results"
PSF_SIDE = 127
ITERATIONS = 30

Image = NDArray[Any]
Refocus = Callable[[Exposure], Image]


@dataclass
class Peer:
    """One method, and what was measured of it."""

    name: str
    refocus: Refocus
    speed_only: bool = False
    ms: list[float] = field(default_factory=list)
    psnr_db: list[float] = field(default_factory=list)
    psnr_affine_db: list[float] = field(default_factory=list)

    def figures(self) -> dict[str, Any]:
        """What the JSON says of it."""
        means = {} if self.speed_only else {
            "psnr_db": statistics.mean(self.psnr_db),
            "psnr_affine_db": statistics.mean(self.psnr_affine_db),
        }  # fmt: skip
        return {"ms_p50": statistics.median(self.ms), "ms": self.ms, **means}


def engine_peer(name: str, model: str, backend: Any, precision: Precision) -> Peer:
    engine = build_engine(model, EngineOptions(backend, precision))
    about = engine.description
    if about.backend != backend or about.precision != precision:
        raise RefocusdError(f"it became {about.backend} {about.precision}")

    def refocus(exposure: Exposure) -> Image:
        out = np.empty_like(exposure.raw)
        engine.refocus(exposure.raw, out)
        return out

    return Peer(name, refocus)


def network_peer(
    name: str, bundle: ModelBundle, infer: Callable[[Image], Image], *, speed_only: bool = False
) -> Peer:
    """A network in another runtime, with the same normalisation around it."""

    def refocus(exposure: Exposure) -> Image:
        raw = exposure.raw
        counts = bundle.counts_range(raw)
        step = bundle.size_multiple
        padded: Image = np.pad(
            raw.astype(np.float32), [(0, -side % step) for side in raw.shape], mode="reflect"
        )
        normalised = ((padded - np.float32(counts.offset)) / np.float32(counts.scale))[None, None]
        answer = infer(np.ascontiguousarray(normalised, np.float32))[0, 0]
        answer = answer[: raw.shape[0], : raw.shape[1]] * counts.scale + counts.offset
        limit = np.iinfo(raw.dtype).max
        return np.asarray(np.clip(np.rint(answer), 0, limit), raw.dtype)

    return Peer(name, refocus, speed_only)


def torch_peer(bundle: ModelBundle, name: Literal["live", "resnet34"]) -> Peer:
    """Eager torch: the bundle's own network, or the reference method's with random weights."""
    import torch
    from refocusd_training.networks import NetworkConfig, build_described, build_network

    torch.set_num_threads(engine_threads())
    random = name != "live"
    network: torch.nn.Module
    if random:
        network = build_network(NetworkConfig(name=name))
    else:
        from safetensors.torch import load_file

        if bundle.weights is None:
            raise RefocusdError("the bundle holds no weights for torch")
        network = build_described(bundle.network or {"name": "live"})
        network.load_state_dict(load_file(bundle.weights))
    network.eval()

    def infer(batch: Image) -> Image:
        with torch.inference_mode():
            answer: Image = network(torch.from_numpy(batch)).numpy()
        return answer

    label = f"torch eager f32, {name}" + (" (random weights: speed only)" if random else "")
    return network_peer(label, bundle, infer, speed_only=random)


def onnxruntime_peer(bundle: ModelBundle) -> Peer:
    import onnxruntime

    how = onnxruntime.SessionOptions()
    how.intra_op_num_threads = engine_threads()
    session = onnxruntime.InferenceSession(
        str(bundle.onnx), how, providers=["CPUExecutionProvider"]
    )
    entry = session.get_inputs()[0].name
    return network_peer(
        "ONNX Runtime f32", bundle, lambda batch: np.asarray(session.run(None, {entry: batch})[0])
    )


def psf_of(optics: Optics, defocus: Defocus) -> NDArray[np.float32]:
    """The PSF in a square of `PSF_SIDE` px, its sum 1."""
    side = 4 * PSF_SIDE
    image = scipy.fft.irfft2(transfer(optics, defocus, (side, side)), s=(side, side))
    first = side // 2 - PSF_SIDE // 2
    middle = slice(first, first + PSF_SIDE)
    psf = np.maximum(np.fft.fftshift(image)[middle, middle], 0).astype(np.float32)
    return np.asarray(psf / psf.sum(), np.float32)


def known_psf(exposure: Exposure, true: bool) -> NDArray[np.float32]:
    if not true:
        return psf_of(USER_OPTICS, USER_DEFOCUS)
    assert exposure.optics is not None
    assert exposure.defocus_um is not None
    return psf_of(exposure.optics, Defocus(exposure.defocus_um))


def observed(exposure: Exposure) -> NDArray[np.float32]:
    """Light above background; borders mirrored, or bare ones ring."""
    light = np.maximum(exposure.raw - np.float32(exposure.range.offset), 0).astype(np.float32)
    return np.pad(light, PSF_SIDE // 2, mode="symmetric")


def inner(estimate: Image, exposure: Exposure) -> Image:
    margin = PSF_SIDE // 2
    height, width = exposure.raw.shape
    return estimate[margin : margin + height, margin : margin + width] + exposure.range.offset


def richardson_lucy_peer(*, true: bool) -> Peer:
    from skimage import restoration

    richardson_lucy: Any = restoration.richardson_lucy

    def refocus(exposure: Exposure) -> Image:
        image = observed(exposure)
        found = richardson_lucy(
            image, known_psf(exposure, true), num_iter=ITERATIONS, clip=False, filter_epsilon=1e-3
        )
        return inner(found, exposure)

    return Peer(f"Richardson-Lucy, scikit-image, {_which(true)}", refocus)


def gpu_richardson_lucy_peer(*, true: bool) -> Peer:
    import torch

    if not torch.cuda.is_available():
        raise RefocusdError("torch has no GPU here")

    def refocus(exposure: Exposure) -> Image:
        image = torch.from_numpy(observed(exposure)).cuda()
        height, width = image.shape
        psf = torch.zeros(height, width, device="cuda")
        psf[:PSF_SIDE, :PSF_SIDE] = torch.from_numpy(known_psf(exposure, true)).cuda()
        half = PSF_SIDE // 2
        otf = torch.fft.rfft2(psf.roll((-half, -half), (0, 1)))
        estimate = torch.full_like(image, float(image.mean()))
        for _ in range(ITERATIONS):
            blurred = torch.fft.irfft2(torch.fft.rfft2(estimate) * otf, s=image.shape)
            ratio = image / blurred.clamp_min(1e-3)
            back = torch.fft.irfft2(torch.fft.rfft2(ratio) * otf.conj(), s=image.shape)
            estimate = estimate * back.clamp_min(0)
        return inner(estimate.cpu().numpy(), exposure)

    return Peer(f"Richardson-Lucy, FFT on the GPU, {_which(true)}", refocus)


def _which(true: bool) -> str:
    return "true PSF" if true else "one PSF"


def peers(model: str, missing: dict[str, str]) -> Iterator[Peer]:
    bundle = load_bundle(model)
    makers: list[tuple[str, Callable[[], Peer]]] = []
    for backend, precision in (
        ("openvino", "f32"), ("openvino", "bf16"), ("openvino", "int8"),
        ("cuda", "f16"), ("tensorrt", "f16"),
    ):  # fmt: skip
        name = f"refocusd {backend} {precision}"
        makers.append((name, lambda n=name, b=backend, p=precision: engine_peer(n, model, b, p)))  # type: ignore[misc]
    makers += [
        ("torch eager f32, live", lambda: torch_peer(bundle, "live")),
        ("torch eager f32, resnet34", lambda: torch_peer(bundle, "resnet34")),
        ("ONNX Runtime f32", lambda: onnxruntime_peer(bundle)),
        ("RL one PSF", lambda: richardson_lucy_peer(true=False)),
        ("RL true PSF", lambda: richardson_lucy_peer(true=True)),
        ("RL on the GPU, one PSF", lambda: gpu_richardson_lucy_peer(true=False)),
        ("RL on the GPU, true PSF", lambda: gpu_richardson_lucy_peer(true=True)),
    ]
    for name, make in makers:
        try:
            yield make()
        except (RefocusdError, ImportError, RuntimeError) as error:
            missing[name] = str(error).splitlines()[0]


def measure(found: list[Peer], exposures: list[Exposure]) -> None:
    """Frame by frame, every peer on each in turn: what else the computer does meets them all."""
    for peer in found:
        peer.refocus(exposures[0])
    for exposure in exposures:
        for peer in found:
            begun = time.perf_counter()
            image = peer.refocus(exposure)
            peer.ms.append((time.perf_counter() - begun) * 1e3)
            if not peer.speed_only:
                peer.psnr_db.append(psnr(image, exposure.truth))
                peer.psnr_affine_db.append(psnr(image, exposure.truth, affine=True))


def draw(path: Path, found: list[Peer], raw_db: float) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 5), layout="constrained")
    axes = figure.add_subplot()
    for index, peer in enumerate(found):
        fps = 1e3 / statistics.median(peer.ms)
        if peer.speed_only:
            axes.axvline(fps, color=f"C{index}", linestyle=":", label=peer.name)
        else:
            decibel = statistics.mean(peer.psnr_affine_db)
            axes.plot(fps, decibel, color=f"C{index % 10}", marker="osD^v"[index // 3 % 5],
                      linestyle="none", label=peer.name)  # fmt: skip
    axes.axhline(raw_db, color="0.5", linestyle="--", label="as acquired")
    axes.set(xscale="log", xlabel="frames per second", ylabel="PSNR after the affine fit (dB)")
    axes.set_title("Mean over 4, 8, 16 and 32 µm of simulated defocus")
    axes.grid(visible=True, which="both", alpha=0.2)
    figure.legend(loc="outside right upper", fontsize="small")
    figure.savefig(path, dpi=150)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one setting, a small frame")
    parser.add_argument("--data", type=Path, help="folder of sharp images of at least 360 px")
    parser.add_argument("--model", default="live-nuclei")
    parser.add_argument("--frames", type=int, default=7, help="specimens, each at four levels")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of what is written")
    arguments = parser.parse_args()
    console = Console(soft_wrap=True)
    if arguments.data:
        cases = channel_cases("nuclei", arguments.data)[: arguments.frames]
    else:
        flux = flux_of(sample_frame())
        flux = flux[:256, :256] if arguments.quick else flux
        cases = [Case("sample", "sample", flux, setting, "nuclei") for setting in HELD_OUT]
    cases = cases[: 1 if arguments.quick else arguments.frames]
    exposures = [exposure_of(case, defocus) for case in cases for defocus in AVERAGED_UM]
    busy = busy_share()
    missing: dict[str, str] = {}
    found = list(peers(arguments.model, missing))
    measure(found, exposures)
    raw_db = statistics.mean(psnr(e.raw, e.truth, affine=True) for e in exposures)
    raw_plain_db = statistics.mean(psnr(e.raw, e.truth) for e in exposures)
    shape = "×".join(map(str, reversed(exposures[0].raw.shape)))
    table = Table("method", "ms a frame", "frames/s", "PSNR dB", "affine dB", title=f"{shape} px")
    table.add_row("as acquired", "", "", f"{raw_plain_db:.2f}", f"{raw_db:.2f}")
    for peer in found:
        figures = peer.figures()
        table.add_row(
            peer.name, f"{figures['ms_p50']:.1f}", f"{1e3 / figures['ms_p50']:.1f}",
            *("-" if peer.speed_only else f"{figures[k]:.2f}" for k in ("psnr_db", "psnr_affine_db")),
        )  # fmt: skip
    console.print(table)
    for name, reason in missing.items():
        console.print(f"-- {name}: {reason}", markup=False)
    arguments.results.mkdir(parents=True, exist_ok=True)
    report = {
        "machine": machine(),
        "busy_before_share": busy,
        "quick": arguments.quick,
        "frames": len(exposures),
        "shape_px": exposures[0].raw.shape,
        "as_acquired": {"psnr_db": raw_plain_db, "psnr_affine_db": raw_db},
        "peers": {peer.name: peer.figures() for peer in found},
        "not_measured": missing,
    }
    text = json.dumps(report, indent=1) + "\n"
    (arguments.results / "peers.json").write_text(text, encoding="utf-8")
    draw(arguments.results / "peers.png", found, raw_db)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

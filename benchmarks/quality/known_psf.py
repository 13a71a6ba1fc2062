"""Gain from knowing the blur: with the blur estimated, its width given, or its PSF given; also by Richardson-Lucy.

    python -m benchmarks.quality.known_psf [--data FOLDER...] [--frames 3] [--json FILE]

Each FOLDER holds sharp images, of which those held out from training are used (one in five, by name);
without --data the demo's specimen is blurred.  Frames are parts of larger blurred scenes, so that light from
outside reaches into them as in a microscope.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from contextlib import closing
from importlib import resources
from pathlib import Path

import numpy as np
import tifffile
from numpy.typing import NDArray
from refocusd_training.blur.frames import load_sharp
from rich.console import Console
from rich.table import Table
from scipy.ndimage import gaussian_filter
from scipy.signal import fftconvolve

from benchmarks.shared.machine import machine
from refocusd.config import EngineOptions
from refocusd.engines.choose import build_engine
from refocusd.engines.deconvolution import DeconvolutionEngine
from refocusd.engines.scaled import ScaledEngine
from refocusd.frame import Pixels
from refocusd.imaging.blur import KNOWN_FORM, BlurEstimate
from refocusd.imaging.optics import Optics, defocus_psf
from refocusd.imaging.psf_shape import shape_of
from refocusd.imaging.quality import psnr

Floats = NDArray[np.float32]

WAYS = ("blind", "width", "psf", "RL, width", "RL, psf")
_LARGEST_PX = 90
#: Smallest side of the images used, px, and the counts that an image's light is multiplied by.
_LEAST_PX, _COUNTS = 300, 800.0


def _soft_disc(radius_px: float, edge_px: float) -> Floats:
    offsets = np.arange(-_LARGEST_PX, _LARGEST_PX + 1)
    disc = np.clip(radius_px + 0.5 - np.hypot(offsets[:, None], offsets), 0, 1)
    soft = gaussian_filter(disc, edge_px)
    return np.asarray(soft / soft.sum(), dtype=np.float32)


def psfs() -> dict[str, Floats]:
    """The PSFs that frames are blurred with, by name."""
    plain, pixel = 0.461, 0.645
    plate = Optics(0.51, plain, pixel_um=pixel, spherical_waves=-1.17, apodisation=0.39)
    narrow = Optics(0.45, plain, pixel_um=pixel, spherical_waves=0.5, apodisation=0.3)
    strong = [
        Optics(0.7, plain, pixel_um=pixel, spherical_waves=w, apodisation=1.5) for w in (-2.4, 2.4)
    ]
    fine = Optics(0.75, 0.5, pixel_um=0.325, spherical_waves=2.0, apodisation=1.0)
    return {
        "plate reader, 20×, 32 um": defocus_psf(plate, 32.0),
        "NA 0.7, -0.4 Zernike waves, 32 um": defocus_psf(strong[0], 32.0),
        "NA 0.7, +0.4 Zernike waves, 32 um": defocus_psf(strong[1], 32.0),
        "NA 0.45, 32 um": defocus_psf(narrow, 32.0),
        "NA 0.45, 16 um": defocus_psf(narrow, 16.0),
        "NA 0.45, 8 um": defocus_psf(narrow, 8.0),
        "NA 0.75, 0.325 um a pixel, 18 um": defocus_psf(fine, 18.0),
        "disc of 16 px, edge of 4 px": _soft_disc(16, 4),
    }


def _planes(folders: Sequence[Path]) -> list[NDArray[np.float64]]:
    if folders:
        lights = [image.light for image in load_sharp(folders) if image.test]
        large = [light for light in lights if min(light.shape) >= _LEAST_PX]
        return [_COUNTS * light.astype(np.float64) for light in large]
    with resources.as_file(resources.files("refocusd").joinpath("demo/sample/nuclei.tif")) as path:
        whole = tifffile.imread(path).astype(np.float64)
    half = whole.shape[0] // 2
    return [whole, np.roll(whole, half, (0, 1)), whole.T]


def _exposed(
    plane: NDArray[np.float64], psf: Floats, rng: np.random.Generator
) -> tuple[Pixels, Floats]:
    """The inner part of the blurred plane in 12-bit counts, and the same part of the sharp plane."""
    margin = min(psf.shape[0] // 2, 64)
    blurred = fftconvolve(np.pad(plane, psf.shape[0] // 2, mode="symmetric"), psf, mode="valid")
    inner = (slice(margin, -margin),) * 2
    light = np.maximum(blurred[inner] - blurred.min(), 0.5)
    counts = rng.poisson(light * 2) / 2 + 100 + rng.normal(0, 3, light.shape)
    return np.clip(np.rint(counts), 0, 4095).astype(np.uint16), plane[inner].astype(np.float32)


def measured(
    planes: Sequence[NDArray[np.float64]], model: str
) -> dict[str, dict[str, list[float]]]:
    """PSNR of raw and the gains over it, dB, by PSF and way; one value for each plane."""
    rng = np.random.default_rng(1)
    found: dict[str, dict[str, list[float]]] = {}
    for kind, psf in psfs().items():
        stated = shape_of(psf)
        assert stated is not None
        width = BlurEstimate(stated.sigma_px, KNOWN_FORM, "optics")
        form = BlurEstimate(stated.sigma_px, KNOWN_FORM, "optics", stated.shape)
        rows: dict[str, list[float]] = {"raw": [], **{way: [] for way in WAYS}}
        with closing(build_engine(model, EngineOptions())) as network:
            assert isinstance(network, ScaledEngine)
            engines = (
                network,
                ScaledEngine(network.bundle, network.network, width),
                ScaledEngine(network.bundle, network.network, form),
                DeconvolutionEngine(width),
                DeconvolutionEngine(form),
            )
            for plane in planes:
                raw, truth = _exposed(plane, psf, rng)
                rows["raw"].append(before := psnr(raw, truth, affine=True))
                for way, engine in zip(WAYS, engines, strict=True):
                    engine.refocus(raw, out := np.empty_like(raw))
                    rows[way].append(psnr(out, truth, affine=True) - before)
        found[f"{kind} ({stated.sigma_px:.1f} px)"] = rows
    return found


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, nargs="*", default=[])
    parser.add_argument("--frames", type=int, default=3)
    parser.add_argument("--model", default="live-fluorescence")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    found = measured(_planes(arguments.data)[: arguments.frames], arguments.model)
    table = Table("PSF", "raw, dB", *(f"{way}: gain" for way in WAYS))
    summary = []
    for kind, rows in found.items():
        means = {way: round(float(np.mean(values)), 2) for way, values in rows.items()}
        summary.append({"kind": kind, "frames": len(rows["raw"]), **means})
        table.add_row(kind, f"{means['raw']:.1f}", *(f"{means[way]:+.1f}" for way in WAYS))
    all_of = {way: float(np.mean([each[way] for each in summary])) for way in WAYS}
    table.add_row("mean", "", *(f"{all_of[way]:+.1f}" for way in WAYS))
    Console(width=150).print(table)
    if arguments.json:
        named = {"machine": machine(), "model": arguments.model, "psfs": summary}
        arguments.json.write_text(json.dumps(named, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

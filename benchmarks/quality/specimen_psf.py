"""Gain from one z-stack of a specimen: frames of other fields, refocused with the PSF measured in that stack.

    python -m benchmarks.quality.specimen_psf --data FOLDER [--fields 3] [--json FILE]

FOLDER holds sharp images of one microscope, as PNG or TIFF.  The first becomes a stack of 22 planes, seen through
optics that `refocusd calibrate psf --in-focus` is not told and measures in that stack; the others become frames
out of focus.  ``blind`` is the default engine without any knowledge of the blur, ``stack`` uses the profile and
the stage's position, ``auto`` uses only what refocusd measures by itself, which knows neither aperture nor
wavelength and may reject the stack, and ``told`` is given the true PSF.
"""

from __future__ import annotations

import argparse
import json
from contextlib import closing
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray
from refocusd_calibration.psf.automatic import measure_automatically
from refocusd_calibration.psf.measure import PsfMeasurement, Stated, measure_planes
from refocusd_calibration.psf.stack import PlaneStack
from refocusd_training.blur.frames import load_sharp
from refocusd_training.simulate.blur import best_focus_um
from rich.console import Console
from rich.table import Table
from scipy.signal import fftconvolve

from benchmarks.shared.machine import machine
from refocusd.config import EngineOptions
from refocusd.engines.choose import build_engine
from refocusd.engines.scaled import ScaledEngine
from refocusd.frame import Pixels
from refocusd.imaging.blur import KNOWN_FORM, BlurEstimate
from refocusd.imaging.known_blur import distance_from_focus, known_blur
from refocusd.imaging.optics import Optics, defocus_psf
from refocusd.imaging.psf_shape import shape_of_optics
from refocusd.imaging.quality import psnr
from refocusd.profiles.profile import Learned, Microscope, Profile
from refocusd.worker.blurs import Blurs

WAYS = ("blind", "stack", "auto", "told")
PIXEL_UM, WAVELENGTH_UM, NOMINAL_NA = 0.645, 0.461, 0.45
KINDS = {
    "plate reader, 20x": Optics(
        0.51, WAVELENGTH_UM, pixel_um=PIXEL_UM, spherical_waves=-1.17, apodisation=0.39
    ),
    "NA 0.7, -0.4 Zernike waves": Optics(
        0.7, WAVELENGTH_UM, pixel_um=PIXEL_UM, spherical_waves=-2.4, apodisation=1.5
    ),
    "NA 0.45": Optics(0.45, WAVELENGTH_UM, pixel_um=PIXEL_UM, spherical_waves=0.5, apodisation=0.3),
}
#: Stage positions, um: of the stack's planes, of the focus, and of the frames.
Z_UM, FOCUS_UM, FRAMES_UM = np.arange(0.0, 44.0, 2.0), 32.0, (0.0, 8.0, 16.0, 22.0)
_COUNTS = 800.0


def _frame(
    plane: NDArray[np.float64], optics: Optics, z_um: float, rng: np.random.Generator
) -> Pixels:
    """The plane as imaged at a stage position, in 12-bit counts with noise."""
    psf = defocus_psf(optics, best_focus_um(optics) + z_um - FOCUS_UM)
    seen = fftconvolve(np.pad(plane, psf.shape[0] // 2, mode="symmetric"), psf, mode="valid")
    counts = rng.poisson(np.maximum(seen, 0.5) * 2) / 2 + 100 + rng.normal(0, 3, seen.shape)
    return np.clip(np.rint(counts), 0, 4095).astype(np.uint16)


def _stack(plane: NDArray[np.float64], optics: Optics, rng: np.random.Generator) -> PlaneStack:
    frames = np.stack([_frame(plane, optics, z, rng) for z in Z_UM])
    return PlaneStack(Z_UM, frames.astype(np.float32), PIXEL_UM, 4095.0)


def _profile(measured: PsfMeasurement, *, itself: bool) -> Profile:
    return Profile(
        created="",
        version="",
        microscope=Microscope(pixel_um=PIXEL_UM),
        psf=measured.section,
        learned=Learned(recording="", acquisition="") if itself else msgspec.UNSET,
    )


def _blur(profile: Profile | None, raw: Pixels, z_um: float) -> BlurEstimate | None:
    """The blur that a worker derives from a profile and the stage's position; None without a profile."""
    if profile is None:
        return None
    distance = distance_from_focus(profile, z_um)
    return Blurs().of("", known_blur(profile, {"PixelSizeUm": PIXEL_UM}, distance)).known(raw)


def gains(
    planes: list[NDArray[np.float64]], optics: Optics, engine: ScaledEngine
) -> dict[str, list[list[float]]]:
    """PSNR of raw and the gains over it, dB, by way: a list for each field, in the order of `FRAMES_UM`."""
    rng = np.random.default_rng(0)
    stack = _stack(planes[0], optics, rng)
    stated = Stated(NOMINAL_NA, WAVELENGTH_UM)
    profile = _profile(measure_planes(stack, None, stated), itself=False)
    automatic = measure_automatically(stack, None)
    learned = _profile(automatic, itself=True) if automatic.passed else None
    found: dict[str, list[list[float]]] = {"raw": [], **{way: [] for way in WAYS}}
    for plane in planes[1:]:
        rows: dict[str, list[float]] = {name: [] for name in found}
        for z_um in FRAMES_UM:
            raw, truth = _frame(plane, optics, z_um, rng), plane.astype(np.float32)
            rows["raw"].append(before := psnr(raw, truth, affine=True))
            true = shape_of_optics(optics, best_focus_um(optics) + z_um - FOCUS_UM)
            assert true is not None
            blurs = {
                "blind": None,
                "stack": _blur(profile, raw, z_um),
                "auto": _blur(learned, raw, z_um),
                "told": BlurEstimate(true.sigma_px, KNOWN_FORM, "optics", true.shape),
            }
            for way, blur in blurs.items():
                engine.refocus(raw, out := np.empty_like(raw), blur)
                rows[way].append(psnr(out, truth, affine=True) - before)
        for name, values in rows.items():
            found[name].append(values)
    return found


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--fields", type=int, default=3)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    planes = [_COUNTS * image.light.astype(np.float64) for image in load_sharp([arguments.data])]
    planes = planes[: arguments.fields + 1]
    table = Table("optics", "um out of focus", "raw, dB", *(f"{way}: gain" for way in WAYS))
    summary = []
    with closing(build_engine("live-fluorescence", EngineOptions())) as engine:
        assert isinstance(engine, ScaledEngine)
        for kind, optics in KINDS.items():
            found = {
                name: np.mean(values, axis=0)
                for name, values in gains(planes, optics, engine).items()
            }
            for index, z_um in enumerate(FRAMES_UM):
                row = {name: round(float(values[index]), 2) for name, values in found.items()}
                away = FOCUS_UM - z_um
                summary.append(
                    {"optics": kind, "out_of_focus_um": away, "fields": len(planes) - 1, **row}
                )
                table.add_row(
                    kind, f"{away:g}", f"{row['raw']:.1f}", *(f"{row[way]:+.1f}" for way in WAYS)
                )
    means = {way: float(np.mean([row[way] for row in summary])) for way in WAYS}
    table.add_row("mean", "", "", *(f"{means[way]:+.1f}" for way in WAYS))
    Console(width=150).print(table)
    if arguments.json:
        named = {"machine": machine(), "model": "live-fluorescence", "frames": summary}
        arguments.json.write_text(json.dumps(named, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

"""Statistics of simulated frames compared with the real plate: blur and noise of BBBC006 at z = 00.

    python benchmarks/simulator/simulator_validation.py --data FOLDER [--json FILE] [--figure FILE]

FOLDER holds Hoechst fields of BBBC006 in focus (``in_focus_w1``) and at z = 00
(``defocused_z00_w1``).  These are of different wells: there are no pairs, so that only statistics are
compared.  The fields in focus are defocused with the model in `benchmarks/simulator/plate_model.py`, and
the following is compared:

- ``spectra``: power at each spatial frequency divided by the mean light above the offset (fields have
  different numbers of nuclei, and power is proportional to it), pooled over the fields; the distance is in
  decades of power, RMS over the bands, as it is and after correction of one factor, by which the nuclei's
  brightness differs;
- ``blur``: the blur that follows from the ratio of the mean spectra of the set and of the fields in
  focus (`benchmarks/simulator/implied_blur.py`): its width, its radial profile, and whether that of
  simulated and real fields is the same;
- ``nuclei``: median diameter at half height of isolated nuclei;
- ``noise``: variance of the pixels as a function of their brightness, and the straight line through it.

Writes the figures as JSON and draws them; the exit status is 1 if the simulated blur is not the real one.
Takes a few seconds.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from refocusd_training.data.images import read_image
from refocusd_training.evaluation.measures.objects import IsolatedObjects
from rich.console import Console

from benchmarks.simulator.frame_statistics import (
    fit_noise,
    log_spectral_distance,
    photon_transfer,
    radial_spectrum,
    spectrum_bands,
)
from benchmarks.simulator.implied_blur import (
    ImpliedBlur,
    implied_blur,
    same_blur,
    transfer_distance,
)
from benchmarks.simulator.plate_model import PLATE_CAMERA, PLATE_OPTICS, PLATE_Z00, plate_frame
from refocusd.errors import InputError
from refocusd.frame import Pixels, checked_pixels

RESULTS = Path(__file__).parents[1] / "results" / "simulator_validation.json"
FIGURE = Path(__file__).parents[2] / "docs" / "images" / "simulator_validation.png"
#: Ranges of frequency with separate distances, cycles per pixel: the disc, its side lobes, the noise.
RANGES = {"disc": (0.008, 0.025), "side lobes": (0.025, 0.065), "noise": (0.1, 0.5)}
LIGHT_EDGES = tuple(range(100, 800, 50))
#: Radius of the disc that the blur at z = 00 was formerly assumed to be; drawn for comparison.
FORMER_DISC_PX = 28
#: Side of the part of a field that is drawn, in px.
SHOWN = 400


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--json", type=Path, default=RESULTS)
    parser.add_argument("--figure", type=Path, default=FIGURE)
    arguments = parser.parse_args()
    real = fields(arguments.data, "defocused_z00_w1")
    sharp = fields(arguments.data, "in_focus_w1")
    rng = np.random.default_rng(0)
    simulated = [plate_frame(image, rng) for image in sharp]
    found = compared(real, sharp, simulated)
    arguments.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    draw(arguments.figure, found, real, sharp, simulated)
    told = ("distance_decades", "noise", "brightness_factor", "nuclei_diameter_px")
    Console().print({key: found[key] for key in told} | {"same_blur": found["blur"]["same_blur"]})
    return 0 if found["blur"]["same_blur"] else 1


def fields(data: Path, name: str) -> list[Pixels]:
    """All fields in folders of this name below `data`."""
    paths = sorted(p for p in data.rglob(f"{name}/*") if p.suffix in {".tif", ".png"})
    if not paths:
        raise InputError(f"{data} has no folder {name} with fields of BBBC006")
    return [checked_pixels(read_image(path)) for path in paths]


def per_light(images: Sequence[Pixels]) -> list[NDArray[np.float64]]:
    """Power spectrum of each field divided by its mean light."""
    edges = spectrum_bands()
    return [
        radial_spectrum(image, edges) / (float(image.mean()) - PLATE_CAMERA.offset)
        for image in images
    ]


def pooled(images: Sequence[Pixels]) -> NDArray[np.float64]:
    """Power of all fields divided by their light; a field's weight is its light."""
    lights = np.array([float(image.mean()) - PLATE_CAMERA.offset for image in images])
    return np.average(per_light(images), axis=0, weights=lights)


def compared(
    real: Sequence[Pixels], sharp: Sequence[Pixels], simulated: Sequence[Pixels]
) -> dict[str, Any]:
    """All figures of the comparison, as plain JSON."""
    edges = spectrum_bands()
    frequency = np.sqrt(edges[1:] * edges[:-1])
    spectra = {"real": per_light(real), "simulated": per_light(simulated)}
    one, two = pooled(real), pooled(simulated)
    factor = _brightness_factor(frequency, one, two)
    blurs = {"real": implied_blur(real, sharp), "simulated": implied_blur(simulated, sharp)}
    return {
        "setting": {
            "na": PLATE_OPTICS.na,
            "wavelength_um": PLATE_OPTICS.wavelength_um,
            "pixel_um": PLATE_OPTICS.pixel_um,
            "defocus_um": PLATE_Z00.um,
            "spherical_waves": PLATE_OPTICS.spherical_waves,
            "apodisation": PLATE_OPTICS.apodisation,
            "offset_counts": PLATE_CAMERA.offset,
            "gain_e_per_count": PLATE_CAMERA.gain,
            "read_noise_e": PLATE_CAMERA.read_noise,
        },
        "fields": {"real": len(real), "simulated": len(simulated)},
        "distance_decades": _distances(frequency, one, two, spectra["real"], factor),
        "brightness_factor": round(factor, 3),
        "blur": {name: blur_figures(blur) for name, blur in blurs.items()}
        | {
            "distance_decades": round(transfer_distance(blurs["real"], blurs["simulated"]), 3),
            "same_blur": same_blur(blurs["real"], blurs["simulated"]),
        },
        "nuclei_diameter_px": {
            name: round(median_diameter(images), 1)
            for name, images in (("real", real), ("simulated", simulated))
        },
        "noise": {
            name: noise_figures(images)
            for name, images in (("real", real), ("simulated", simulated))
        },
        "frequency_per_px": [round(float(f), 5) for f in frequency],
        "pooled": {
            name: [round(float(p), 4) for p in spectrum]
            for name, spectrum in (("real", one), ("simulated", two))
        },
        "spectra": {
            name: [[round(float(p), 4) for p in spectrum] for spectrum in found]
            for name, found in spectra.items()
        },
    }


def _brightness_factor(
    frequency: NDArray[np.float64], one: NDArray[np.float64], two: NDArray[np.float64]
) -> float:
    """Mean ratio of the powers of the first and the second at frequencies that the blur dominates."""
    blurred = (frequency >= RANGES["disc"][0]) & (frequency < RANGES["side lobes"][1])
    return float(np.exp(np.mean(np.log(one[blurred] / two[blurred]))))


def _distances(
    frequency: NDArray[np.float64],
    one: NDArray[np.float64],
    two: NDArray[np.float64],
    fields: Sequence[NDArray[np.float64]],
    factor: float,
) -> dict[str, Any]:
    """Distances of pooled spectra by range of frequencies; `fields` are those of single real fields."""
    distances = {}
    for name, (low, high) in RANGES.items():
        band = (frequency >= low) & (frequency < high)
        distances[name] = {
            "as_is": round(log_spectral_distance(one[band], two[band]), 3),
            "same_brightness": round(
                log_spectral_distance(one[band], two[band] * (1 if name == "noise" else factor)), 3
            ),
            # Mean distance of single real fields from their pooled spectrum.
            "between_real_fields": round(
                float(np.mean([log_spectral_distance(s[band], one[band]) for s in fields])),
                3,
            ),
            "decades_spanned": round(float(np.ptp(np.log10(one[band]))), 2),
        }
    return distances


def noise_figures(images: Sequence[Pixels]) -> dict[str, Any]:
    """Gain and dark variance of frames, and the curve that they are fitted to, as plain JSON."""
    curve = photon_transfer(images)
    fit = fit_noise(curve, PLATE_CAMERA.offset, LIGHT_EDGES)
    return {
        "gain_e_per_count": round(fit.gain, 3),
        "dark_variance_counts2": round(fit.dark_variance, 2),
        "curve": [[round(m, 1), round(v, 2)] for m, v in curve.binned(LIGHT_EDGES)],
    }


def blur_figures(blur: ImpliedBlur) -> dict[str, Any]:
    """Width, shape and profile of a blur, as plain JSON."""
    radii = np.arange(0.0, 60.0)
    light = blur.encircled(radii)
    return {
        "width_px": round(blur.width_px, 2),
        "relative_uncertainty": round(blur.uncertainty, 3),
        "disc_of_the_same_width_px": round(2 * blur.width_px, 1),
        "radius_of_half_of_the_light_px": int(np.argmax(light > 0.5)),
        "radius_of_95_percent_px": int(np.argmax(light > 0.95)),
        "profile_1e-6_per_px": [round(1e6 * float(p), 2) for p in blur.profile(radii)],
    }


def median_diameter(images: Sequence[Pixels]) -> float:
    """Median diameter of isolated objects at half of their own height, in px; NaN if there are none."""
    found = [IsolatedObjects(image.astype(np.float64)).diameters_px() for image in images]
    every = [diameter for field in found for diameter in field]
    return float(np.median(every)) if every else math.nan


def draw(
    path: Path,
    found: dict[str, Any],
    real: Sequence[Pixels],
    sharp: Sequence[Pixels],
    simulated: Sequence[Pixels],
) -> None:
    """Spectra, implied blur, noise, and one field of each kind."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13.5, 7.6), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    above, below = figure.subfigures(2, 1, height_ratios=(1.15, 1))  # type: ignore[misc]
    spectra, blur, noise = above.subplots(1, 3).flat
    frequency = found["frequency_per_px"]
    colours = {"real": "#1f77b4", "simulated": "#d95f02"}
    for name, colour in colours.items():
        lines = np.array(found["spectra"][name])
        for line in lines:
            spectra.loglog(frequency, line, color=colour, alpha=0.22, linewidth=0.8)
        label = f"{name}, {len(lines)} fields"
        spectra.loglog(frequency, found["pooled"][name], color=colour, linewidth=2, label=label)
    spectra.set_xlabel("spatial frequency (cycles per px)")
    spectra.set_ylabel("power / mean light (counts)")
    spectra.set_title("Blur: radial power spectrum, BBBC006 w1, z = 00")
    spectra.legend(loc="lower left")
    for name, colour in colours.items():
        figures = found["blur"][name]
        profile = figures["profile_1e-6_per_px"]
        label = f"{name}, as wide as a disc of {figures['disc_of_the_same_width_px']:g} px"
        blur.plot(range(len(profile)), profile, color=colour, label=label)
    disc = 1e6 / (np.pi * FORMER_DISC_PX**2)
    blur.step((0, FORMER_DISC_PX, 60), (disc, disc, 0), color="0.6", label="disc of 28 px")
    blur.set_xlabel("radius (px)")
    blur.set_ylabel("light per px (1e-6)")
    blur.set_title("PSF implied by other fields in focus")
    blur.legend()
    for name, colour in colours.items():
        light, variance = np.array(found["noise"][name]["curve"]).T
        gain = found["noise"][name]["gain_e_per_count"]
        noise.plot(light, variance, "o", color=colour, label=f"{name}, {gain:.2f} e/count")
        level = found["noise"][name]["dark_variance_counts2"]
        noise.plot(light, (light - PLATE_CAMERA.offset) / gain + level, color=colour, linewidth=1)
    noise.set_xlabel("mean of a block (counts)")
    noise.set_ylabel("noise variance (counts²)")
    noise.set_title("Noise: photon transfer of single frames")
    noise.legend()
    pictures = (
        ("in focus, real", sharp[2]),
        ("the same field, simulated 32 µm out of focus", simulated[2]),
        ("another field at z = 00, real", real[2]),
    )
    for axes, (title, image) in zip(below.subplots(1, 3), pictures, strict=True):
        cut = image[:SHOWN, :SHOWN]
        low, high = np.percentile(cut, [1, 99.8])
        axes.imshow(cut, cmap="gray", vmin=low, vmax=high)
        axes.set_title(title, fontsize=10)
        axes.set_axis_off()
    figure.savefig(path, metadata={"Software": None})


if __name__ == "__main__":
    raise SystemExit(main())

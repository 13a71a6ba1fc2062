"""The model card that a bundle carries as its README."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from refocusd_training.simulate import ranges
from refocusd_training.simulate.ranges import DEFAULT_RANGES, HELD_OUT, Ranges

__all__ = ["model_card"]


def _span(pair: tuple[float, float]) -> str:
    return f"{pair[0]:g} to {pair[1]:g}"


def _table(metrics: Mapping[str, Any]) -> str:
    levels: Mapping[str, Any] = metrics["by_defocus_um"]
    methods = list(next(iter(levels.values())))
    lines = [
        "| defocus (µm) | " + " | ".join(methods) + " |",
        "|---" * (len(methods) + 1) + "|",
    ]
    rows = [*levels.items(), ("mean of 4, 8, 16, 32", metrics["mean_4_8_16_32_um"])]
    for name, means in rows:
        cells = [
            f"{means[m]['psnr_db']:.2f} / {means[m]['psnr_affine_db']:.2f}" if m in means else ""
            for m in methods
        ]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _by_microscope(metrics: Mapping[str, Any]) -> str:
    lines = [
        "| microscope | in focus: input | refocused | mean of 4 to 32 µm: input | refocused |",
        "|---|---|---|---|---|",
    ]
    for name, means in metrics["by_microscope"].items():
        sharp = metrics["in_focus_by_microscope"].get(name, {})
        cells = [
            f"{part[method]['psnr_db']:.2f}" if method in part else ""
            for part in (sharp, means)
            for method in ("input", "refocused")
        ]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _microscopes() -> str:
    return "\n".join(
        f"- {s.name}: NA {s.optics.na:g}, {s.optics.wavelength_um:g} µm, "
        f"{s.optics.spherical_waves:g} waves of spherical aberration; {s.camera.gain:g} e-/count, "
        f"{s.camera.read_noise:g} e- read noise, offset {s.camera.offset:g}, signal {s.peak:g} counts"
        for s in HELD_OUT
    )


def model_card(
    model_id: str,
    record: Mapping[str, Any],
    radius: int,
    metrics: Mapping[str, Any] | None,
    trained: Ranges = DEFAULT_RANGES,
) -> str:
    """Markdown: use, limits, figures and provenance of a bundle.

    Parameters
    ----------
    model_id : str
    record : mapping
        ``run.json`` of the run.
    radius : int
        Effective receptive field in pixels.
    metrics : mapping, optional
        Summary of the evaluation.
    trained : Ranges
        What optics were drawn from.
    """
    measured = "Not evaluated yet."
    if metrics:
        measured = (
            f"{metrics['frames_per_level']} frames a level, specimens and microscopes that training "
            f"never saw. Each cell: PSNR in dB as is / after the affine fit. {metrics['definition']}. "
            "`RL 12 um PSF`: Richardson-Lucy as a user would run it, one PSF for 12 µm at NA 0.45, 30 "
            "iterations. `RL true PSF`: given the true PSF, the best of 10 to 100 iterations chosen "
            "by an oracle.\n\n"
            + _table(metrics)
            + "\n\nThe same by microscope, PSNR in dB as is:\n\n"
            + _by_microscope(metrics)
        )
    versions = ", ".join(f"{name} {version}" for name, version in record["versions"].items())
    return f"""# refocusd live nuclei ({model_id})

Estimates the in-focus frame from one out-of-focus widefield fluorescence frame of stained nuclei,
fast enough for a CPU beside a running acquisition.

## Intended use

Live previews, focus-tolerant time-lapses and screening of cultured cells with a nuclear stain, 10×
to 20× air objectives. Trained range: NA {_span(trained.na)}, emission
{_span(trained.wavelength_um)} µm, {_span(trained.pixel_um)} µm a pixel, defocus up to
{ranges.TRAINED_DEFOCUS_UM[1]:g} µm on either side of focus.

## Limits

- The result is an estimate, not a measurement. Keep the raw frames; do not measure texture inside
  nuclei, spot counts or intensities of single structures on refocused frames.
- Detail that defocus removed is not brought back: at 32 µm nuclei separate, but their texture is a
  guess towards smooth. Rare shapes are drawn towards common ones.
- Discs wider than trained (NA 0.55 or more at 32 µm: 30 to 40 px) are only partly undone: large nuclei stay
  too wide and blotches appear in them. Piled-up nuclei at 32 µm can show bright spots that are not there.
- A frame in focus gains from the noise that is removed; one in focus *and* nearly free of noise
  (above about 40 dB) comes back a little smoother than it was, or a little sharper than its own
  optics would show it. Pass frames that are in focus through, as refocusd does.
- Trained on simulated defocus of thin specimens in widefield; thick tissue, confocal frames, phase
  contrast, other stains and saturated frames are outside of it.
- Frames are normalised by their own percentiles 1 and 99.9: a single very bright object dims the rest.

## Figures

{measured}

Microscopes of the evaluation:

{_microscopes()}

## How it was made

Network: pixel-unshuffle ×4 U-net without normalisation layers, residual; effective receptive field
{radius} px (radius beyond which replacing every pixel changes the output by less than 0.001 in
normalised units). Frames and truths are simulated: {record["data"]} ({record["images"]} images),
scalar wave optics, camera noise; the truth is the noise-free frame of the same optics at defocus 0.
Split sha256 `{record["split_sha256"]}`, seed {record["seed"]}, {record["steps"]} steps in
{record["seconds"]:.0f} s on {record["device"]}; {versions}.

Weights: BSD-3-Clause. Training images: BBBC038v1, CC0 (Caicedo et al. 2019). Test tensors: simulated
from the sample image that refocusd ships, which is on the test side of the split.

`test_input.npy` holds camera counts, `test_output.npy` the network's output for them in normalised
units; `validation_*.npy` are pairs in normalised units, for checking an engine: tolerance in
`rdf.yaml` under `config.refocusd.tolerance`.
"""

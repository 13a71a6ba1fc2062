"""Makes the model card, which is the README of a bundle."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from refocusd_training.export.rdf import Facts
from refocusd_training.simulate import ranges
from refocusd_training.simulate.ranges import HELD_OUT, Ranges


def _span(pair: tuple[float, float]) -> str:
    return f"{pair[0]:g} to {pair[1]:g}"


def _table(metrics: Mapping[str, Any]) -> str:
    levels: Mapping[str, Any] = metrics["by_defocus_um"]
    methods = list(next(iter(levels.values())))
    lines = []
    rows = [*levels.items(), ("mean of 4, 8, 16, 32", metrics["mean_4_8_16_32_um"])]
    for name, means in rows:
        cells = [
            f"{means[m]['psnr_db']:.2f} / {means[m]['psnr_affine_db']:.2f}" if m in means else ""
            for m in methods
        ]
        lines.append((name, *cells))
    return _markdown(("defocus (µm)", *methods), lines)


def _markdown(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown."""
    return "\n".join(f"| {' | '.join(row)} |" for row in (heads, ["---"] * len(heads), *rows))


def _by_microscope(metrics: Mapping[str, Any]) -> str:
    heads = ("microscope", "in focus: input", "refocused", "mean of 4 to 32 µm: input", "refocused")
    lines = []
    for name, means in metrics["by_microscope"].items():
        sharp = metrics["in_focus_by_microscope"].get(name, {})
        cells = [
            f"{part[method]['psnr_db']:.2f}" if method in part else ""
            for part in (sharp, means)
            for method in ("input", "refocused")
        ]
        lines.append((name, *cells))
    return _markdown(heads, lines)


def _defocus(metrics: Mapping[str, Any]) -> str:
    """Accuracy of the defocus head, if there is one."""
    told: Mapping[str, Any] | None = metrics.get("defocus")
    if not told:
        return ""
    classes = told["classes_um"]
    return (
        f"\n\nDistance from focus ({classes[0]:g} to {classes[-1]:g} µm, the optics unknown to the "
        f"network): {told['mae_um']:.1f} µm off on average; {told['accuracy']:.0%} of the frames in the "
        f"right one of {len(classes)} classes, {told['within_one_class']:.0%} in it or one beside it."
    )


def _nuclei(metrics: Mapping[str, Any]) -> str:
    """Figures of nuclei and light, also for deep specimens, as far as measured."""
    parts = []
    deep: Mapping[str, Any] = metrics.get("deep") or {}
    for place, title in (
        (metrics, "Nuclei and light, all frames of 4 to 32 µm together"),
        (
            deep,
            "The same on specimens deeper than any in training, the truth focused on the middle",
        ),
    ):
        table: Mapping[str, Any] = place.get("figures_mean_4_8_16_32_um") or {}
        columns = [key for key in _COLUMNS if any(key in row for row in table.values())]
        if not columns:
            continue
        lines = [
            (method, *(_COLUMNS[key][1].format(row[key]) if key in row else "" for key in columns))
            for method, row in table.items()
        ]
        heads = ("method", *(_COLUMNS[key][0] for key in columns))
        parts.append(f"{title}:\n\n{_markdown(heads, lines)}")
    if not parts:
        return ""
    return (
        "\n\n"
        + "\n\n".join(parts)
        + "\n\nInvented: restored nuclei that match no true one at an intersection over union of 0.5; "
        "lost: true ones that no restored one matches; phantoms, vanished: those of them that overlap "
        "next to nothing; each per true nucleus. Flux: light restored over true."
    )


#: Figures of the second table: heading and number format.
_COLUMNS = {
    "psnr_db": ("PSNR (dB)", "{:.2f}"),
    "f1": ("F1", "{:.3f}"),
    "invented": ("invented", "{:.1%}"),
    "lost": ("lost", "{:.1%}"),
    "phantoms": ("phantoms", "{:.1%}"),
    "vanished": ("vanished", "{:.1%}"),
    "flux_ratio": ("flux", "{:.3f}"),
    "frc_um": ("resolution (µm)", "{:.2f}"),
}


def _microscopes() -> str:
    return "\n".join(
        f"- {s.name}: NA {s.optics.na:g}, {s.optics.wavelength_um:g} µm, "
        f"{s.optics.spherical_waves:g} waves of spherical aberration; {s.camera.gain:g} e-/count, "
        f"{s.camera.read_noise:g} e- read noise, offset {s.camera.offset:g}, signal {s.peak:g} counts"
        for s in HELD_OUT
    )


def model_card(facts: Facts) -> str:
    """Use, limits, figures and provenance of a bundle, in Markdown."""
    record = facts.record
    versions = ", ".join(f"{name} {version}" for name, version in record["versions"].items())
    what = "stained nuclei" if facts.nuclei else _listed(facts.channels) or "stained specimens"
    return f"""# {facts.name} ({facts.model_id})

Estimates the in-focus frame from one out-of-focus widefield fluorescence frame of {what}.

## Intended use

Live previews, focus-tolerant time-lapses and screening of cultured cells like those it learned
from: {record["data"]}. {_trained(facts)}

## Limits

- The result is an estimate, not a measurement. Keep the raw frames; do not measure texture inside
  objects, spot counts or intensities of single structures on refocused frames.
- Detail that defocus removed is not brought back: far from focus objects separate, but their
  texture is a guess towards smooth. Rare shapes are drawn towards common ones.
{_limits(facts)}
- Frames are normalised by their own percentiles 1 and 99.9: a single very bright object dims the rest.

## Figures

{_figures(facts)}

## How it was made

Network: {_network(facts)}; effective receptive field {facts.radius} px (radius beyond which replacing
every pixel changes the output by less than 0.001 in normalised units). {_data(facts)}
{_split(record)}Seed {record["seed"]}, {record["steps"]} of {record["planned_steps"]} planned steps
{_batch(record)}in {record["seconds"]:.0f} s on {record["device"]}; weights
{record.get("initialised", "from the seed")}{_taught(record)}; {versions}.

Weights: BSD-3-Clause. Test tensors: simulated from the sample image that refocusd ships, which is on
the test side of its split.

`test_input.npy` holds camera counts, `test_output.npy` the network's output for them in normalised
units; `validation_*.npy` are pairs in normalised units, for checking an engine: tolerance in
`rdf.yaml` under `config.refocusd.tolerance`.{_int8(facts)}
"""


def _listed(names: list[str]) -> str:
    return ", ".join(names)


def _trained(facts: Facts) -> str:
    trained = facts.trained
    if not facts.simulated:
        return (
            "It knows the microscope of those data only: other magnifications, apertures and "
            "cameras are outside of what it learned."
        )
    return (
        f"Trained range: NA {_span(trained.na)}, emission {_span(trained.wavelength_um)} µm, "
        f"{_span(trained.pixel_um)} µm a pixel, spherical aberration "
        f"{_span(trained.spherical_waves)} waves, {_reach(trained)} on either side of "
        f"focus{_depth(facts)}."
    )


def _reach(trained: Ranges) -> str:
    """Range of defocus or, if blurs were drawn, of these, because their distance depends on the optics."""
    if trained.blur_sigma_px is None:
        return f"defocus up to {ranges.TRAINED_DEFOCUS_UM[1]:g} µm"
    return f"blurs of {_span(trained.blur_sigma_px)} px, at most {ranges.MOST_DEFOCUS_UM:g} µm"


def _depth(facts: Facts) -> str:
    return f", specimens {_span(facts.depth_um)} µm deep" if facts.depth_um else ""


def _limits(facts: Facts) -> str:
    lines = []
    if facts.simulated:
        low, high = facts.trained.na
        lines += [
            (
                f"- Objectives below NA {low:g} or above NA {high:g}, immersion where air was trained, and "
                "discs of blur wider than trained are outside of it: defocus is only partly undone."
            ),
            (
                f"- Trained on simulated defocus of {_specimens(facts)} in widefield: thick tissue, "
                "confocal frames, phase contrast and saturated frames are outside of it."
            ),
            (
                "- A frame in focus gains from the noise that is removed; one in focus *and* nearly free "
                "of noise (above about 40 dB) loses several dB: it comes back smoother than it was, or "
                "sharper than its own optics would show it. Pass frames that are in focus through, as "
                "refocusd does."
            ),
        ]
    else:
        lines.append(
            "- Learned from real pairs of one kind of microscope: what was in those frames besides "
            "defocus (noise, dirt, bleaching) is learned with it. Confocal frames, phase contrast and "
            "saturated frames are outside of it."
        )
    stains = "nuclear stains" if facts.nuclei else _listed(facts.channels)
    if stains:
        lines.append(f"- Stains it has seen: {stains}. It is not for others{_drawn(facts)}.")
    lines += [f"- {limit}" for limit in facts.record.get("limits", ())]
    return "\n".join(lines)


def _specimens(facts: Facts) -> str:
    return f"specimens of up to {facts.depth_um[1]:g} µm" if facts.depth_um else "thin specimens"


def _drawn(facts: Facts) -> str:
    if not facts.nuclei:
        return ""
    return ": into other stains, actin for one, it draws nucleus-like blobs that are not there"


def _figures(facts: Facts) -> str:
    metrics = facts.metrics
    if not metrics:
        return "Not evaluated yet."
    return (
        f"{metrics['frames_per_level']} frames a level, specimens and microscopes that training "
        f"never saw. Each cell: PSNR in dB as is / after the affine fit. {metrics['definition']}. "
        "`RL 12 um PSF`: Richardson-Lucy as a user would run it, one PSF for 12 µm at NA 0.45, 30 "
        "iterations. `RL true PSF`: given the true PSF, the best of 10 to 100 iterations chosen "
        "by an oracle.\n\n"
        + _table(metrics)
        + _nuclei(metrics)
        + _defocus(metrics)
        + "\n\nThe same by microscope, PSNR in dB as is:\n\n"
        + _by_microscope(metrics)
        + "\n\nMicroscopes of the evaluation:\n\n"
        + _microscopes()
    )


def _network(facts: Facts) -> str:
    kinds = {
        "live": "pixel-unshuffle ×4 U-net without normalisation layers, residual",
        "resnet34": "U-net on ResNet-34 (pixel-shuffle up-sampling with ICNR and blur)",
        "resnet34-96": "U-net on ResNet-34, 96 channels at full resolution",
    }
    name = str(facts.network["name"])
    head = ", with a head for the distance from focus" if facts.network["defocus_head"] else ""
    count = facts.record.get("parameters")
    size = f", {count / 1e6:.2f} million weights" if count else ""
    return f"{kinds.get(name, name)}{head}{size}"


def _data(facts: Facts) -> str:
    source = f"{facts.record['data']} ({facts.record['images']} images)"
    if facts.simulated:
        return (
            f"Frames and truths are simulated: {source}, scalar wave optics, camera noise; the truth is "
            "the noise-free frame of the same optics at defocus 0."
        )
    return f"Frames and truths are real pairs: {source}; the truth is the plane in focus."


def _split(record: Mapping[str, Any]) -> str:
    digest = record.get("split_sha256")
    skipped = (record.get("samples") or {}).get("skipped")
    left = ", ".join(f"{count} ({why})" for why, count in (skipped or {}).items())
    left = f"Images left out: {left}. " if left else ""
    return (f"Split sha256 `{digest}`. " if digest else "") + left


def _batch(record: Mapping[str, Any]) -> str:
    return f"of {record['batch']} frames " if record.get("batch") else ""


def _taught(record: Mapping[str, Any]) -> str:
    return f", taught by {record['teacher']}" if record.get("teacher") else ""


def _int8(facts: Facts) -> str:
    if facts.int8_cost_db is None:
        return ""
    return (
        f" `{facts.variants['int8']}` is the same network in 8 bits for CPUs; PSNR of the "
        f"validation frames with it: {-facts.int8_cost_db:+.3f} dB."
    )

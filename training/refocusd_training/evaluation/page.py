"""Writes an evaluation as a folder of HTML and PNG: curves by defocus, contact sheets, worst cases."""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from refocusd.cli import html_page
from refocusd.cli.html_page import document, table
from refocusd.files import output
from refocusd.imaging.quality import BORDER
from refocusd.optional import need
from refocusd_training.evaluation.measures.figures import DEFINITIONS
from refocusd_training.evaluation.measures.segmentation import nuclei_of
from refocusd_training.evaluation.methods import (
    INPUT,
    ORACLE_RL,
    REFOCUSED,
    USER_RL,
    Exposure,
    Method,
    applies,
)
from refocusd_training.evaluation.results import AS_WRITTEN, Result
from refocusd_training.evaluation.summary import (
    DEEP,
    DEFINITION,
    TAKEN,
    averaged,
    by_group,
    by_level,
    frame_key,
    gains,
    is_scattered,
    level_name,
    means,
    ordered,
    values,
)

TRUTH = "truth"
#: Columns of a contact sheet, as far as there are such methods.
SHOWN = (INPUT, REFOCUSED, TRUTH, USER_RL, ORACLE_RL)
#: Side of the part of a frame that is shown, px.
SHOWN_SIDE = 300
#: Numbers of typical and worst frames that are shown.
TYPICAL, WORST, WORST_OF_STACK = 4, 4, 3
CURVES = (
    ("psnr_db", "PSNR as is (dB)"),
    ("psnr_affine_db", "PSNR after affine fit (dB)"),
    ("ms_ssim", "MS-SSIM"),
    ("frc_um", "Fourier-ring resolution (µm)"),
    ("flux_ratio", "flux, restored / true"),
    ("f1", "nuclei, F1"),
    ("invented", "invented per true nucleus"),
    ("lost", "lost per true nucleus"),
)
Frames = Callable[[Result], Exposure]


def chosen_frames(
    results: Sequence[Result], judged: str = REFOCUSED
) -> tuple[list[Result], list[Result]]:
    """Frames worth looking at: typical ones of each level, and the worst of all.

    Typical frames are nearest to the median PSNR of their level.  Worst frames are, half each, those
    whose PSNR improved least over the input, and those with the most invented nuclei.  Stacks have
    no levels: there are no typical frames, and the worst frames are those of each stack and truth,
    except those that were passed through.

    Parameters
    ----------
    results : sequence of Result
    judged : str
        The method whose results are examined.

    Returns
    -------
    (list of Result, list of Result)
        Typical and worst frames.
    """
    refocused = [r for r in results if r.method == judged]
    before = {frame_key(r): r.quality.psnr_affine_db for r in results if r.method == INPUT}

    def gain(result: Result) -> float:
        return result.quality.psnr_affine_db - before[frame_key(result)]

    if is_scattered(results):
        changed = sorted((r for r in refocused if not r.unchanged), key=gain)
        each = [part[:WORST_OF_STACK] for part in by_group(changed).values()]
        return [], sorted((r for part in each for r in part), key=gain)
    typical = []
    for part in list(by_level(refocused).values())[-TYPICAL:]:
        part = sorted(part, key=lambda r: r.quality.psnr_affine_db)
        typical.append(part[len(part) // 2])
    out_of_focus = averaged(refocused)

    def invention(result: Result) -> float:
        nuclei = result.figures.nuclei
        return -(nuclei.invented + nuclei.phantoms) / max(nuclei.true, 1) if nuclei else 0.0

    worst = sorted(out_of_focus, key=gain)[: WORST // 2]
    left = (r for r in sorted(out_of_focus, key=invention) if r not in worst)
    worst += [r for r, _ in zip(left, range(WORST - len(worst)), strict=False)]
    return typical, worst


def write_page(
    folder: Path,
    results: Sequence[Result],
    frames: Frames,
    methods: Sequence[Method],
    *,
    title: str,
    definition: str = DEFINITION,
    judged: str = REFOCUSED,
) -> None:
    """Write ``index.html`` and its PNGs.

    Parameters
    ----------
    folder : Path
        Created if it does not exist; files of the same names are replaced.
    results : sequence of Result
    frames : callable
        Returns the exposure of a result.
    methods : sequence of Method
        Methods whose images are shown are run again.
    title : str
    definition : str
        Definition of PSNR and the truth.
    judged : str
        The method whose worst frames are shown.

    Raises
    ------
    ConfigError
        If matplotlib is not installed.
    OutputError
        If the folder cannot be written.
    """
    need("matplotlib", "a page", "train")
    typical, worst = chosen_frames(results, judged)
    flat = [r for r in results if r.setting not in DEEP]
    page = folder / "index.html"
    with output(page):
        if is_scattered(flat):
            for number, part in enumerate(by_group(flat).values()):
                _draw_curves(part).savefig(folder / f"curves-{number}.png", dpi=110)
            body = _stacks_page(flat, judged if worst else None)
        else:
            _draw_curves(flat).savefig(folder / "curves.png", dpi=110)
            body = _page(flat)
        for name, chosen in (("typical", typical), ("worst", worst)):
            if chosen:
                sheet = _draw_sheet(chosen, frames, methods, before=flat)
                sheet.savefig(folder / f"{name}.png", dpi=110)
    count = len({frame_key(r) for r in flat})
    parts = [f'<p class="note">{count} frames. {html.escape(definition)}.</p>', body]
    parts += ["<h2>Definitions</h2>", table(DEFINITIONS.items())]
    html_page.write_page(page, document(title, parts))


def _draw_curves(results: Sequence[Result]) -> Any:
    from matplotlib.figure import Figure

    levels = by_level(results)
    rows = [means(part) for part in levels.values()]
    figure = Figure(figsize=(13, 6.4), layout="constrained")
    places = figure.subplots(2, 4)
    names = [name for name in ordered(results) if name != AS_WRITTEN]
    # Levels double, so they are spaced evenly; planes of a stack are shown at their distances.
    known = is_scattered(results) and "unknown" not in levels
    at: list[float] = [float(level) if known else i for i, level in enumerate(levels)]
    for axes, (key, heading) in zip(places.ravel(), CURVES, strict=True):
        for index, name in enumerate(names):
            points = [row[name][key] if name in row else math.nan for row in rows]
            ours = name.startswith(REFOCUSED)
            axes.plot(
                at,
                points,
                marker="o",
                markersize=3,
                color="0.45" if name == INPUT else f"C{index}",
                linestyle=":" if name == INPUT else "-" if ours else "--",
                linewidth=2.2 if name == REFOCUSED else 1.2,
                label=name,
            )
        axes.set_title(heading, fontsize=10)
        if not known:
            axes.set_xticks(at, list(levels))
        axes.grid(alpha=0.25)
    for axes in places[1]:
        axes.set_xlabel("defocus (µm)")
    handles, labels = places[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(len(names), 6))
    return figure


def _draw_sheet(
    chosen: Sequence[Result],
    frames: Frames,
    methods: Sequence[Method],
    before: Sequence[Result],
) -> Any:
    from matplotlib.figure import Figure

    by_name = {method.name: method for method in methods}
    columns = [name for name in SHOWN if name in by_name or name in (INPUT, TRUTH)]
    if is_scattered(before):
        columns = [INPUT, *by_name, TRUTH]
    psnr = {(*frame_key(r), r.method): r.quality.psnr_affine_db for r in before}
    figure = Figure(figsize=(2.75 * len(columns), 2.72 * len(chosen)), layout="constrained")
    places = figure.subplots(len(chosen), len(columns), squeeze=False)
    for row, result in zip(places, chosen, strict=True):
        exposure = frames(result)
        # One contrast for the whole row: that of the truth.
        low, high = np.percentile(exposure.truth, (0.5, 99.8))
        shown = _brightest(exposure.truth)
        for axes, name in zip(row, columns, strict=True):
            axes.set_xticks([])
            axes.set_yticks([])
            value = psnr.get((*frame_key(result), name))
            axes.set_title(name if value is None else f"{name} {value:.1f} dB", fontsize=9)
            if name in by_name and not applies(by_name[name], exposure):
                axes.set_axis_off()
                continue
            image = _image(name, exposure, by_name)
            if result.setting in TAKEN:
                image = _fitted(image, exposure.truth)
            axes.imshow(image[shown], cmap="gray", vmin=low, vmax=high, interpolation="nearest")
            if result.figures.nuclei is not None:
                nuclei = nuclei_of(image[BORDER:-BORDER, BORDER:-BORDER], exposure.pixel_um)
                outlined = np.pad(_outlines(nuclei), BORDER)[shown]
                tint = np.zeros((*outlined.shape, 4))
                tint[outlined] = (1.0, 0.55, 0.1, 0.9)
                axes.imshow(tint, interpolation="nearest")
        nuclei_text = ""
        if (found := result.figures.nuclei) is not None:
            nuclei_text = f"\ninvented {found.invented}, lost {found.lost} of {found.true}"
        row[0].set_ylabel(
            f"{level_name(result)} µm, {result.setting}\n{_short(result.specimen)}{nuclei_text}",
            fontsize=8,
        )
    return figure


def _image(name: str, exposure: Exposure, methods: dict[str, Method]) -> NDArray[Any]:
    if name == INPUT:
        return exposure.raw
    if name == TRUTH:
        return exposure.truth
    return methods[name].refocus(exposure)


def _short(name: str) -> str:
    """Shorten a name in its middle."""
    return name if len(name) <= 24 else f"{name[:11]} ... {name[-9:]}"


def _fitted(image: NDArray[Any], truth: NDArray[Any]) -> NDArray[Any]:
    """Fit an image to the truth's scale, because two microscopes have different scales."""
    gain, offset = np.polyfit(image.ravel().astype(np.float64), truth.ravel(), 1)
    return np.asarray(gain * image + offset)


def _brightest(truth: NDArray[Any]) -> tuple[slice, slice]:
    """The part of a frame around its brightest structure."""

    def cut(at: int, side: int) -> slice:
        start = int(np.clip(at - SHOWN_SIDE // 2, 0, max(0, side - SHOWN_SIDE)))
        return slice(start, start + SHOWN_SIDE)

    smooth = ndimage.gaussian_filter(truth, SHOWN_SIDE / 15)
    top, left = np.unravel_index(int(smooth.argmax()), truth.shape)
    return cut(int(top), truth.shape[0]), cut(int(left), truth.shape[1])


def _outlines(labels: NDArray[np.int32]) -> NDArray[np.bool_]:
    from skimage.segmentation import find_boundaries

    boundaries: Any = find_boundaries
    return np.asarray(boundaries(labels, mode="inner"), dtype=np.bool_)


def _page(results: Sequence[Result]) -> str:
    chosen = averaged(results)
    return f"""<h2>Mean of {", ".join(by_level(chosen))} µm</h2>
{_means_table(chosen)}
<h2>By defocus</h2>
<img src="curves.png" alt="Every figure against defocus, one line a method">
<h2>Typical frames</h2>
<p class="note">The frame nearest to the median PSNR of its level. One contrast a row, that of the
truth; outlines: nuclei by Otsu's threshold and watershed of that picture. Left: PSNR of the
refocused frame after the affine fit.</p>
<img src="typical.png" alt="Typical frames: input, refocused, truth, deconvolved">
<h2>Worst frames</h2>
<p class="note">First where refocusing gained least over the input, then where most nuclei were
invented.</p>
<img src="worst.png" alt="Worst frames: input, refocused, truth, deconvolved">"""


def _stacks_page(results: Sequence[Result], judged: str | None) -> str:
    """Page of stacks: the worst frames first, then every stack and truth with all its planes.

    `judged` is None if that method passed every frame through.
    """
    sections = "\n".join(
        f"""<h2>{html.escape(name)}</h2>
{_gains_table(part)}
{_means_table(part)}
<img src="curves-{number}.png" alt="Every figure against defocus, one line a method">
<details><summary>Every plane</summary>{_planes_table(part)}</details>"""
        for number, (name, part) in enumerate(by_group(results).items())
    )
    if judged is None:
        return sections
    return f"""<h2>Worst frames of {html.escape(judged)}</h2>
<p class="note">Of each stack and truth the frames that it changed and gained least on, worst first,
by the affine fit on the scale of the truth.</p>
<img src="worst.png" alt="Worst frames: input, every method, truth">
{sections}"""


def _gains_table(results: Sequence[Result]) -> str:
    found = gains(results)
    columns = list(next(iter(found.values())))
    rows = ((method, *(f"{row[name]:g}" for name in columns)) for method, row in found.items())
    return table(rows, ("gain over raw", *columns))


def _means_table(results: Sequence[Result]) -> str:
    found = means(results)
    columns = [
        name
        for name in (*DEFINITIONS, "ms_per_frame")
        if any(math.isfinite(row[name]) for row in found.values())
    ]
    rows = (
        (method, *(_number(found[method][name]) for name in columns))
        for method in ordered(results)
        if method in found
    )
    return table(rows, ("method", *columns))


def _planes_table(results: Sequence[Result]) -> str:
    """Table of raw PSNR, and of every method's gain, area and light of objects."""
    methods = [name for name in ordered(results) if name != INPUT]
    planes: dict[tuple[str, ...], dict[str, Result]] = {}
    for result in results:
        planes.setdefault(frame_key(result), {})[result.method] = result

    def cells(plane: dict[str, Result]) -> Iterator[str]:
        raw = plane[INPUT]
        yield raw.specimen
        yield level_name(raw)
        yield f"{raw.quality.psnr_affine_db:.2f}"
        for name in methods:
            if name not in plane:
                yield ""
                continue
            figures = values(plane[name])
            gain = plane[name].quality.psnr_affine_db - raw.quality.psnr_affine_db
            sizes = (_number(figures[key]) for key in ("object_area", "object_light"))
            yield "unchanged" if plane[name].unchanged else " / ".join((f"{gain:+.2f}", *sizes))

    heads = ("plane", "µm", "raw (dB)", *(f"{name}: gain / area / light" for name in methods))
    return table((cells(plane) for plane in planes.values()), heads)


def _number(value: float) -> str:
    return f"{value:.3f}" if math.isfinite(value) else ""

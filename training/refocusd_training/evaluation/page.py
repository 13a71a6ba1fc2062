"""An evaluation as a folder of HTML and PNG: curves by defocus, contact sheets, worst cases."""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refocusd.errors import ConfigError, OutputError
from refocusd.imaging.quality import BORDER
from refocusd_training.evaluation.cases import AVERAGED_UM
from refocusd_training.evaluation.figures import DEFINITIONS
from refocusd_training.evaluation.methods import (
    INPUT,
    ORACLE_RL,
    REFOCUSED,
    USER_RL,
    Exposure,
    Method,
)
from refocusd_training.evaluation.results import AS_WRITTEN, Result
from refocusd_training.evaluation.segmentation import nuclei_of
from refocusd_training.evaluation.summary import (
    DEEP,
    DEFINITION,
    by_level,
    level_name,
    means,
    ordered,
)

__all__ = ["chosen_frames", "write_page"]

TRUTH = "truth"
#: Columns of a contact sheet, where there are such methods.
SHOWN = (INPUT, REFOCUSED, TRUTH, USER_RL, ORACLE_RL)
#: Middle of a frame that is shown, px.
SHOWN_SIDE = 300
#: Typical and worst frames that are shown.
TYPICAL, WORST = 4, 4
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
STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 76rem; padding: 0 1rem;
  color: #1c1c1c; background: #fff; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2.2rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; display: block;
  overflow-x: auto; }
th, td { padding: .2rem .6rem; text-align: right; border-bottom: 1px solid #ddd;
  white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
img { max-width: 100%; height: auto; } dt { font-weight: 600; } dd { margin: 0 0 .3rem 1rem; }
p.note { color: #555; }
"""

Frames = Callable[[Result], Exposure]


def chosen_frames(results: Sequence[Result]) -> tuple[list[Result], list[Result]]:
    """Frames worth looking at: typical ones of each level, and the worst of all.

    Typical: nearest to the median PSNR of their level.  Worst, half each: where the network
    improved PSNR least over the input, and where it invented most.
    """
    refocused = [r for r in results if r.method == REFOCUSED]
    before = {
        (r.specimen, r.setting, r.defocus_um): r.quality.psnr_affine_db
        for r in results
        if r.method == INPUT
    }
    typical = []
    for part in list(by_level(refocused).values())[-TYPICAL:]:
        part = sorted(part, key=lambda r: r.quality.psnr_affine_db)
        typical.append(part[len(part) // 2])
    out_of_focus = [r for r in refocused if r.defocus_um in AVERAGED_UM] or refocused

    def gain(result: Result) -> float:
        key = (result.specimen, result.setting, result.defocus_um)
        return result.quality.psnr_affine_db - before.get(key, 0.0)

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
) -> None:
    """Write ``index.html`` and its PNGs.

    Parameters
    ----------
    folder : Path
        Made if it does not exist; what it holds of the same names is replaced.
    results : sequence of Result
    frames : callable
        Gives the exposure of a result again.
    methods : sequence of Method
        Those whose pictures are shown are run again.
    title : str
    definition : str
        Of PSNR and the truth.

    Raises
    ------
    ConfigError
        If matplotlib is not installed.
    OutputError
        If the folder cannot be written.
    """
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            "pages need matplotlib, which is not installed: pip install matplotlib"
        ) from error
    typical, worst = chosen_frames(results)
    flat = [r for r in results if r.setting not in DEEP]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _draw_curves(flat).savefig(folder / "curves.png", dpi=110)
        for name, chosen in (("typical", typical), ("worst", worst)):
            sheet = _draw_sheet(chosen, frames, methods)
            sheet.savefig(folder / f"{name}.png", dpi=110)
        text = _page(title, flat, definition)
        (folder / "index.html").write_text(text, encoding="utf-8", newline="\n")
    except OSError as error:
        raise OutputError(f"the page {folder} cannot be written ({error.strerror})") from error


def _draw_curves(results: Sequence[Result]) -> Any:
    from matplotlib.figure import Figure

    levels = by_level(results)
    rows = [means(part) for part in levels.values()]
    figure = Figure(figsize=(13, 6.4), layout="constrained")
    places = figure.subplots(2, 4)
    names = [name for name in ordered(results) if name != AS_WRITTEN]
    for axes, (key, heading) in zip(places.ravel(), CURVES, strict=True):
        for index, name in enumerate(names):
            points = [row[name][key] if name in row else math.nan for row in rows]
            ours = name.startswith(REFOCUSED)
            axes.plot(
                range(len(levels)),
                points,
                marker="o",
                markersize=3,
                color="0.45" if name == INPUT else f"C{index}",
                linestyle=":" if name == INPUT else "-" if ours else "--",
                linewidth=2.2 if name == REFOCUSED else 1.2,
                label=name,
            )
        axes.set_title(heading, fontsize=10)
        # Levels double: even steps show them all.
        axes.set_xticks(range(len(levels)), list(levels))
        axes.grid(alpha=0.25)
    for axes in places[1]:
        axes.set_xlabel("defocus (µm)")
    handles, labels = places[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(len(names), 6))
    return figure


def _draw_sheet(chosen: Sequence[Result], frames: Frames, methods: Sequence[Method]) -> Any:
    from matplotlib.figure import Figure

    by_name = {method.name: method for method in methods}
    columns = [name for name in SHOWN if name in by_name or name in (INPUT, TRUTH)]
    figure = Figure(figsize=(2.75 * len(columns), 2.72 * len(chosen)), layout="constrained")
    places = figure.subplots(len(chosen), len(columns), squeeze=False)
    for row, result in zip(places, chosen, strict=True):
        exposure = frames(result)
        # One contrast for the whole row: that of the truth.
        low, high = np.percentile(exposure.truth, (0.5, 99.8))
        shown = _middle(exposure.raw.shape)
        for axes, name in zip(row, columns, strict=True):
            image = _image(name, exposure, by_name)
            axes.imshow(image[shown], cmap="gray", vmin=low, vmax=high, interpolation="nearest")
            if result.figures.nuclei is not None:
                nuclei = nuclei_of(image[BORDER:-BORDER, BORDER:-BORDER], exposure.pixel_um)
                outlined = np.pad(_outlines(nuclei), BORDER)[shown]
                tint = np.zeros((*outlined.shape, 4))
                tint[outlined] = (1.0, 0.55, 0.1, 0.9)
                axes.imshow(tint, interpolation="nearest")
            axes.set_xticks([])
            axes.set_yticks([])
            axes.set_title(name, fontsize=9)
        nuclei_text = ""
        if (found := result.figures.nuclei) is not None:
            nuclei_text = f"\ninvented {found.invented}, lost {found.lost} of {found.true}"
        row[0].set_ylabel(
            f"{level_name(result)} µm, {result.setting}\n{result.specimen[:22]}\nrefocused: "
            f"{result.quality.psnr_affine_db:.1f} dB{nuclei_text}",
            fontsize=8,
        )
    return figure


def _image(name: str, exposure: Exposure, methods: dict[str, Method]) -> NDArray[Any]:
    if name == INPUT:
        return exposure.raw
    if name == TRUTH:
        return exposure.truth
    return methods[name].refocus(exposure)


def _middle(shape: tuple[int, ...]) -> tuple[slice, slice]:
    def cut(side: int) -> slice:
        start = max(0, (side - SHOWN_SIDE) // 2)
        return slice(start, start + SHOWN_SIDE)

    return cut(shape[0]), cut(shape[1])


def _outlines(labels: NDArray[np.int32]) -> NDArray[np.bool_]:
    from skimage.segmentation import find_boundaries

    boundaries: Any = find_boundaries
    return np.asarray(boundaries(labels, mode="inner"), dtype=np.bool_)


def _page(title: str, results: Sequence[Result], definition: str) -> str:
    averaged = [r for r in results if r.defocus_um in AVERAGED_UM] or list(results)
    levels = ", ".join(by_level(averaged))
    methods = ordered(results)
    columns = [*DEFINITIONS, "ms_per_frame"]
    found = means(averaged)
    rows = "\n".join(
        f"<tr><td>{html.escape(method)}</td>"
        + "".join(f"<td>{_number(found[method][name])}</td>" for name in columns)
        + "</tr>"
        for method in methods
        if method in found
    )
    heads = "".join(f"<th>{html.escape(name)}</th>" for name in ("method", *columns))
    terms = "".join(
        f"<dt>{html.escape(name)}</dt><dd>{html.escape(text)}</dd>"
        for name, text in DEFINITIONS.items()
    )
    frames = len({(r.specimen, r.setting, r.defocus_um) for r in results})
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{html.escape(title)}</title>
<style>{STYLE}</style>
</head>
<body>
<h1>{html.escape(title)}</h1>
<p class="note">{frames} frames. {html.escape(definition)}.</p>
<h2>Mean of {levels} µm</h2>
<table><thead><tr>{heads}</tr></thead><tbody>
{rows}
</tbody></table>
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
<img src="worst.png" alt="Worst frames: input, refocused, truth, deconvolved">
<h2>Definitions</h2>
<dl>{terms}</dl>
</body>
</html>
"""


def _number(value: float) -> str:
    return f"{value:.3f}" if math.isfinite(value) else ""

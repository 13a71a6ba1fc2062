"""Plots the time per frame against the limit."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from refocusd.bench.combination import Result, percentile
from refocusd.errors import OutputError


def write_plot(path: Path, results: Sequence[Result]) -> None:
    """Plot the time per frame over the frame size: worker, network alone, and the limit.

    Parameters
    ----------
    path : Path
        PNG, SVG or PDF, depending on its suffix.
    results : sequence of Result
        Those that were refused are left out.

    Raises
    ------
    OutputError
        If the file cannot be written.
    """
    from matplotlib.figure import Figure

    lines = _lines(results)
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.add_subplot()
    for index, (label, line) in enumerate(sorted(lines.items())):
        _draw(axes, index, label, sorted(line, key=_pixels))
    axes.set(xscale="log", yscale="log", xlabel="frame (megapixels)", ylabel="time a frame (ms)")
    axes.grid(visible=True, which="both", alpha=0.2)
    if lines:
        axes.legend(fontsize="x-small")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=150)
    except (OSError, ValueError) as error:
        raise OutputError(f"the plot cannot be written to {path}: {error}") from error


def _lines(results: Sequence[Result]) -> dict[str, list[Result]]:
    """Results for each line of the plot, by its label."""
    lines: dict[str, list[Result]] = {}
    for result in results:
        if not result.refused:
            options = result.combination.options
            label = f"{result.combination.model} {options.backend} {options.precision}"
            if options.tile_px or options.tile_batch:
                label += f" tiles {options.tile_px}×{options.tile_batch or 1}"
            lines.setdefault(label, []).append(result)
    return lines


def _draw(axes: Any, index: int, label: str, line: list[Result]) -> None:
    """One engine: worker's time with its 95th percentile, network alone, and the limit."""
    sizes = [_pixels(result) / 1e6 for result in line]
    p50, p95 = (
        np.array([percentile(result.worker_ms, percent) for result in line]) for percent in (50, 95)
    )
    network = [percentile(result.engine_ms, 50) for result in line]
    limits = [result.roofline_ms or np.nan for result in line]
    colour = f"C{index}"
    # Once in the legend, because the colours distinguish the engines.
    alone, limit = ("network alone", "limit") if index == 0 else (None, None)
    axes.errorbar(
        sizes, p50, yerr=(0 * p50, p95 - p50), color=colour, marker="o", capsize=3,
        label=f"{label}: worker",
    )  # fmt: skip
    axes.plot(sizes, network, color=colour, marker=".", ls="--", label=alone)
    axes.plot(sizes, limits, color=colour, marker="_", ls=":", label=limit)


def _pixels(result: Result) -> int:
    height, width = result.combination.shape
    return height * width

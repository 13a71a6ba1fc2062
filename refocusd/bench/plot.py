"""Latency against the limit, as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from refocusd.bench.combination import Result, percentile
from refocusd.errors import ConfigError, OutputError

__all__ = ["require_matplotlib", "write_plot"]


def require_matplotlib() -> None:
    """Say what to install before anything is measured.

    Raises
    ------
    ConfigError
        If matplotlib is missing.
    """
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            "--plot needs matplotlib, which is not installed: pip install refocusd[calibrate]"
        ) from error


def write_plot(path: Path, results: Sequence[Result]) -> None:
    """Draw time a frame over frame size: worker, network alone, and the limit.

    Parameters
    ----------
    path : Path
        PNG, SVG or PDF by its ending.
    results : sequence of Result
        Refused ones are left out.

    Raises
    ------
    OutputError
        If the file cannot be written.
    """
    from matplotlib.figure import Figure

    lines: dict[str, list[Result]] = {}
    for result in results:
        if not result.refused:
            options = result.combination.options
            label = f"{result.combination.model} {options.backend} {options.precision}"
            if options.tile_px or options.tile_batch:
                label += f" tiles {options.tile_px}×{options.tile_batch or 1}"
            lines.setdefault(label, []).append(result)
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.add_subplot()
    for index, (label, line) in enumerate(sorted(lines.items())):
        line = sorted(line, key=_pixels)
        sizes = [_pixels(result) / 1e6 for result in line]
        colour = f"C{index}"
        p50 = [percentile(result.worker_ms, 50) for result in line]
        p95 = [percentile(result.worker_ms, 95) for result in line]
        network = [percentile(result.engine_ms, 50) for result in line]
        above = [high - middle for high, middle in zip(p95, p50, strict=True)]
        axes.errorbar(
            sizes, p50, yerr=([0.0] * len(p50), above), color=colour, marker="o", capsize=3,
            label=f"{label}: worker",
        )  # fmt: skip
        axes.plot(
            sizes,
            network,
            color=colour,
            marker=".",
            linestyle="--",
            label="network alone" if not index else None,
        )
        limits = [(s, r.roofline_ms) for s, r in zip(sizes, line, strict=True) if r.roofline_ms]
        if limits:
            axes.plot(
                *zip(*limits, strict=True),
                color=colour,
                marker="_",
                linestyle=":",
                label="limit" if not index else None,
            )
    axes.set(xscale="log", yscale="log", xlabel="frame (megapixels)", ylabel="time a frame (ms)")
    axes.grid(visible=True, which="both", alpha=0.2)
    if lines:
        axes.legend(fontsize="x-small")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=150)
    except (OSError, ValueError) as error:
        raise OutputError(f"the plot cannot be written to {path}: {error}") from error


def _pixels(result: Result) -> int:
    height, width = result.combination.shape
    return height * width

"""Tables of `replay` and `demo`: the figures of a run, and its quality if the truth is known."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.table import Table

from refocusd.cli.console import plain
from refocusd.datasets.run_figures import STATES, RunFigures
from refocusd.imaging.quality import QUALITIES, Comparison


def figures_table(figures: RunFigures, title: str) -> Table:
    """The figures as a table."""
    table = Table(title=plain(title), show_header=False, title_justify="left", box=box.SIMPLE)
    for name in STATES:
        table.add_row(f"frames {name.replace('_', ' ')}", str(getattr(figures.counts, name)))
    for name, count in figures.verdicts.items():
        if name not in STATES:
            table.add_row(f"  of these {name}", str(count))
    if figures.caught_up:
        table.add_row("  of these caught up from raw", str(figures.caught_up))
    table.add_row("frames per second", f"{figures.frames_per_s:.1f}")
    for what, values in (
        ("latency, hook to disk", figures.latency_ms),
        ("  of it outside the engine", figures.overhead_ms),
        ("  of the live image", figures.newest_ms),
    ):
        table.add_row(f"{what} p50/p95/p99", " / ".join(f"{v:.1f}" for v in values) + " ms")
    table.add_row("engine, median", f"{figures.engine_ms:.1f} ms")
    return table


def quality_table(levels: Sequence[Comparison], unit: str, title: str) -> Table:
    """Quality before → after, one row per level."""
    table = Table(title=title, title_justify="left", box=box.SIMPLE, padding=(0, 1))
    # Fits a terminal of 80 columns.
    for heading in (unit, "n", *(quality[0] for quality in QUALITIES)):
        table.add_column(heading, justify="right", no_wrap=True)
    for level in levels:
        cells = [
            f"{before:{digits}}→{after:{digits}}"
            for (_, _, digits, _), before, after in zip(
                QUALITIES, level.before, level.after, strict=True
            )
        ]
        table.add_row(f"{level.level:g}", str(level.frames), *cells)
    return table

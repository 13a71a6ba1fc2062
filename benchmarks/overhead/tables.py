"""Tables of the figures for the terminal, each at most 80 columns wide."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich import box
from rich.table import Table

Rows = Sequence[dict[str, Any]]


def acquisition_table(rows: Rows) -> Table:
    """Slow-down and rates, one row for each condition."""
    table = _table(
        "hardware-sequenced bursts, without the hook → with; CPU of the acquiring process a frame",
        ("frames", "engine", "slow-down % [95 %]", "fps", "CPU ms", "lost"),
    )
    for row in rows:
        table.add_row(
            f"{row['side_px']}² {row['pace']}",
            row["engine"],
            f"{row['slow_down_mean_percent']:.1f} "
            f"[{row['slow_down_low95_percent']:.1f}, {row['slow_down_high95_percent']:.1f}]",
            f"{row['without_hook_frames_per_s']:.0f}→{row['with_hook_frames_per_s']:.0f}",
            f"{row['without_hook_cpu_per_frame_ms']:.1f}→{row['with_hook_cpu_per_frame_ms']:.1f}",
            str(row["frames_unaccounted"] + row["frames_failed"]),
        )
    return table


def transport_table(rows: Rows) -> Table:
    """Rates and latencies, one row for each way, size and medium."""
    table = _table(
        "submission to refocused frame on disk, pass-through engine",
        ("frames", "way", "to", "fps", "at fps", "p50/p95/p99 ms", "lost"),
    )
    for row in rows:
        table.add_row(
            f"{row['side_px']}²",
            row["way"],
            f"{row['sink_on']} ({row['sink_file_system']})",
            f"{row['unpaced_median_frames_per_s']:.0f}",
            f"{row['paced_at_frames_per_s']:.0f}",
            "/".join(_number(row[f"overhead_p{p}_ms"]) for p in (50, 95, 99)),
            str(row["frames_unaccounted"] + row["frames_failed"]),
        )
    return table


def sustained_table(rows: Rows) -> Table:
    """Rate, and memory at the start and at the end."""
    table = _table(
        "as fast as it goes, pass-through engine",
        ("frames", "to", "s", "fps", "CPU ms/frame", "daemon MiB", "worker MiB", "lost"),
    )
    for row in rows:
        table.add_row(
            f"{row['side_px']}²",
            f"{row['sink_on']} ({row['sink_file_system']})",
            f"{row['seconds_s']:.0f}",
            f"{row['sustained_frames_per_s']:.0f}",
            f"{row['daemon_cpu_per_frame_ms']:.1f}+{row['worker_cpu_per_frame_ms']:.1f}",
            *(
                f"{row[f'{name}_start_private_rss_mib']:.0f}→{row[f'{name}_end_private_rss_mib']:.0f}"
                for name in ("daemon", "worker")
            ),
            str(row["frames_unaccounted"] + row["frames_failed"]),
        )
    return table


def goal_table(rows: Rows) -> Table:
    """Every goal, and whether it is met."""
    table = Table(
        title="goals (slow-down: upper end of the 95 % interval)",
        title_justify="left",
        box=box.SIMPLE,
        padding=(0, 1),
    )
    table.add_column("goal")
    for heading in ("limit", "measured", "met"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(
            row["goal"],
            f"{row['limit']:g}",
            _number(row["measured"]),
            "yes" if row["met"] else "NO",
        )
    return table


def _table(title: str, headings: Sequence[str]) -> Table:
    table = Table(title=title, title_justify="left", box=box.SIMPLE, padding=(0, 1))
    for index, heading in enumerate(headings):
        table.add_column(heading, justify="left" if index < 2 else "right", no_wrap=True)
    return table


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"

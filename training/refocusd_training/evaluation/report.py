"""Writes an evaluation as JSON and CSV, and prints it as tables."""

from __future__ import annotations

import csv
import hashlib
import json
import math
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.table import Table

from refocusd.engines.runtimes.openvino import engine_threads
from refocusd.files import output
from refocusd.models.bundle import load_bundle
from refocusd_training.evaluation.held_out import held_out
from refocusd_training.evaluation.measures.figures import DEFINITIONS
from refocusd_training.evaluation.methods import INPUT
from refocusd_training.evaluation.results import Result
from refocusd_training.evaluation.summary import (
    DEEP,
    DEFINITION,
    averaged,
    by_group,
    by_level,
    frame_key,
    gains,
    is_scattered,
    level_name,
    means,
    ordered,
    plain,
    summary,
    values,
)
from refocusd_training.simulate.ranges import HELD_OUT, HELD_OUT_DEEP

#: Columns of the tables of further figures: name, heading, format.
_IMAGES = (
    ("ssim", "SSIM", "{:.3f}"),
    ("ms_ssim", "MS-SSIM", "{:.3f}"),
    ("pearson", "Pearson", "{:.3f}"),
    ("frc_um", "FRC (um)", "{:.2f}"),
    ("flux_ratio", "flux", "{:.3f}"),
    ("ms_per_frame", "ms", "{:.1f}"),
)
_PSNR = ("psnr_db", "psnr_affine_db")
_OBJECTS = (
    ("object_area", "area", "{:.2f}"),
    ("area_within_15", "within 15 %", "{:.0%}"),
    ("object_light", "light", "{:.3f}"),
    ("light_within_5", "within 5 %", "{:.0%}"),
)
#: Figures of every single frame in the JSON file.
_EACH = ("psnr_affine_db", "ssim", "pearson", "object_area", "object_light")
_NUCLEI = (
    ("f1", "F1", "{:.3f}"),
    ("count_error", "count", "{:+.1%}"),
    ("area_ratio", "area", "{:.2f}"),
    ("invented", "invented", "{:.1%}"),
    ("lost", "lost", "{:.1%}"),
    ("phantoms", "phantoms", "{:.1%}"),
    ("vanished", "vanished", "{:.1%}"),
)


def write_json(
    path: Path,
    bundle: Path | str | None,
    results: Sequence[Result],
    *,
    further: Mapping[str, object] | None = None,
    simulated: bool = True,
) -> None:
    """Write the summary as JSON, with the definitions; for acquired frames, also each frame.

    Parameters
    ----------
    path : Path
    bundle : Path, str or None
        Folder, or name of a shipped bundle; None if several engines were evaluated.
    results : sequence of Result
    further : mapping, optional
        Further entries beside the summary.
    simulated : bool
        Whether the frames are simulated with the held-out microscopes, which are then listed.

    Raises
    ------
    OutputError
        If the file cannot be written.
    """
    document: dict[str, object] = {}
    if bundle is not None:
        loaded = load_bundle(bundle)
        document["model_id"] = loaded.model_id
        document["onnx_sha256"] = hashlib.sha256(loaded.onnx.read_bytes()).hexdigest()
    document["machine"] = {
        "processor": platform.machine(),
        "cores": os.cpu_count(),
        "threads": engine_threads(),
    }
    if simulated:
        document["microscopes"] = [asdict(setting) for setting in (*HELD_OUT, *HELD_OUT_DEEP)]
        document["held_out"] = held_out()
    document |= summary(results)
    document |= further or {}
    text = json.dumps(plain(document), indent=1, allow_nan=False)
    if not simulated:
        # One line per frame, so that a change of one frame changes one line.
        frames = ",\n  ".join(
            json.dumps(plain(frame), allow_nan=False) for frame in _frames(results)
        )
        text = f'{text[:-2]},\n "frames": [\n  {frames}\n ]\n}}'
    with output(path):
        path.write_text(text + "\n", encoding="utf-8")


def _frames(results: Sequence[Result]) -> list[dict[str, object]]:
    """Figures of each method on each frame."""
    found: dict[tuple[str, ...], dict[str, object]] = {}
    for result in results:
        frame = found.setdefault(
            frame_key(result),
            {"frame": result.specimen, "set": result.group, "defocus_um": result.defocus_um},
        )
        figures = values(result)
        frame[result.method] = {name: round(figures[name], 3) for name in _EACH}
        if result.unchanged and result.method != INPUT:
            frame[result.method] = "unchanged"
    return list(found.values())


def write_csv(path: Path, results: Sequence[Result]) -> None:
    """Write one row per method and frame and one column per figure; missing figures are empty.

    Raises
    ------
    OutputError
        If the file cannot be written.
    """
    with output(path), path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(
            [
                *("specimen", "group", "channel", "setting", "defocus_um", "method"),
                *(*DEFINITIONS, "seconds", "true_nuclei", "found_nuclei"),
            ]
        )
        for result in results:
            figures = values(result)
            nuclei = result.figures.nuclei
            writer.writerow(
                [
                    *(result.specimen, result.group, result.channel, result.setting),
                    *(level_name(result), result.method),
                    *(_cell(figures[name]) for name in DEFINITIONS),
                    f"{result.seconds:.5f}",
                    *(("", "") if nuclei is None else (nuclei.true, nuclei.found)),
                ]
            )


def _cell(value: float) -> str:
    return f"{value:.6g}" if math.isfinite(value) else ""


def print_table(
    results: Sequence[Result], console: Console | None = None, *, definition: str = DEFINITION
) -> None:
    """Print PSNR by level and method, before and after the affine fit, and then all other figures."""
    console = console or Console()
    methods = ordered(results)
    flat = [r for r in results if r.setting not in DEEP]
    chosen = averaged(flat)
    if is_scattered(flat):
        _print_groups(chosen, console)
        console.print(definition, style="dim")
        return
    rows = list(by_level(flat).items())
    if len({r.defocus_um for r in chosen}) > 1:
        rows.append(("mean", chosen))
    channels = sorted({r.channel for r in flat})
    if len(channels) > 1:
        rows += [(name, [r for r in chosen if r.channel == name]) for name in channels]
    if deep := averaged([r for r in results if r.setting in DEEP]):
        rows.append(("deep", deep))
    # Methods are rows, because their number grows, and tables should fit into 80 columns.
    table = Table(
        title="PSNR in dB by defocus (um), as is and after the affine fit", padding=(0, 0)
    )
    table.add_column("method")
    for name, _ in rows:
        table.add_column(name, justify="right")
    found = [means(part) for _, part in rows]
    for method in methods:
        both = (
            "\n".join(f"{row[method][key]:.2f}" for key in _PSNR) if method in row else ""
            for row in found
        )
        table.add_row(method, *both)
    console.print(table)
    _print_figures(chosen, methods, console, f"mean of {', '.join(by_level(chosen))} um")
    console.print(definition, style="dim")


def _print_groups(results: Sequence[Result], console: Console) -> None:
    """Print the gain over raw by stack and truth, for frames at arbitrary distances from focus."""
    for name, part in by_group(results).items():
        found = means(part)
        raw = found[INPUT]
        table = Table(
            title=f"{name}: raw {raw['psnr_affine_db']:.2f} dB, SSIM {raw['ssim']:.3f}; gain in dB",
            padding=(0, 0),
        )
        headings = ("mean", "best", "worst", "below raw", "unchanged", "SSIM", "area", "light")
        for heading in ("method", *headings):
            table.add_column(heading, justify="left" if heading == "method" else "right")
        for method, gain in gains(part).items():
            row = found[method]
            table.add_row(
                method,
                *(f"{gain[key]:+.2f}" for key in ("mean_db", "best_db", "worst_db")),
                *(f"{gain[key]}" for key in ("below_raw", "unchanged")),
                f"{row['ssim']:.3f}",
                *(_shown(row[key], "{:.2f}") for key in ("object_area", "object_light")),
            )
        console.print(table)


def _shown(value: float, form: str) -> str:
    return form.format(value) if math.isfinite(value) else ""


def _print_figures(
    results: Sequence[Result], methods: Sequence[str], console: Console, of_what: str
) -> None:
    found = means(results)
    for title, columns in (
        (of_what, _IMAGES),
        (f"isolated objects, restored over true, {of_what}", _OBJECTS),
        (f"nuclei per true nucleus, {of_what}", _NUCLEI),
    ):
        if all(math.isnan(row[columns[0][0]]) for row in found.values()):
            continue
        table = Table(title=title, padding=(0, 0))
        table.add_column("method")
        for _, heading, _ in columns:
            table.add_column(heading, justify="right")
        for method in (name for name in methods if name in found):
            row = found[method]
            table.add_row(method, *(_shown(row[name], form) for name, _, form in columns))
        console.print(table)

"""An evaluation as JSON, as CSV and as tables on the terminal."""

from __future__ import annotations

import csv
import hashlib
import json
import math
import os
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.table import Table

from refocusd.engines.openvino import engine_threads
from refocusd.errors import OutputError
from refocusd.models.bundle import load_bundle
from refocusd_training.evaluation.cases import AVERAGED_UM
from refocusd_training.evaluation.figures import DEFINITIONS
from refocusd_training.evaluation.held_out import held_out
from refocusd_training.evaluation.results import Result
from refocusd_training.evaluation.summary import (
    DEEP,
    DEFINITION,
    by_level,
    level_name,
    means,
    ordered,
    plain,
    summary,
    values,
)
from refocusd_training.simulate.ranges import HELD_OUT, HELD_OUT_DEEP

__all__ = ["print_table", "write_csv", "write_json"]

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
    bundle: Path | str,
    results: Sequence[Result],
    *,
    further: Mapping[str, object] | None = None,
    simulated: bool = True,
) -> None:
    """Summary with what was measured, as JSON; single frames stand in the CSV file.

    Parameters
    ----------
    path : Path
    bundle : Path or str
        Folder, or the name of a shipped bundle.
    results : sequence of Result
    further : mapping, optional
        Written beside the summary.
    simulated : bool
        Whether the frames are of the held-out microscopes, which are then listed.

    Raises
    ------
    OutputError
        If the file cannot be written.
    """
    loaded = load_bundle(bundle)
    document: dict[str, object] = {
        "model_id": loaded.model_id,
        "onnx_sha256": hashlib.sha256(loaded.onnx.read_bytes()).hexdigest(),
        "machine": {
            "processor": platform.machine(),
            "cores": os.cpu_count(),
            "threads": engine_threads(),
        },
    }
    if simulated:
        document["microscopes"] = [asdict(setting) for setting in (*HELD_OUT, *HELD_OUT_DEEP)]
        document["held_out"] = held_out()
    document |= summary(results)
    document |= further or {}
    text = json.dumps(plain(document), indent=1, allow_nan=False) + "\n"

    def write() -> None:
        path.write_text(text, encoding="utf-8")

    _written(path, write)


def write_csv(path: Path, results: Sequence[Result]) -> None:
    """One row a method and frame, every figure a column; empty where there is none.

    Raises
    ------
    OutputError
        If the file cannot be written.
    """

    def write() -> None:
        with path.open("w", encoding="utf-8", newline="") as stream:
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

    _written(path, write)


def _cell(value: float) -> str:
    return f"{value:.6g}" if math.isfinite(value) else ""


def _written(path: Path, write: Callable[[], None]) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write()
    except OSError as error:
        raise OutputError(
            f"{path} cannot be written ({error.strerror}): name a place that can"
        ) from error


def print_table(
    results: Sequence[Result], console: Console | None = None, *, definition: str = DEFINITION
) -> None:
    """PSNR by level and method, as is and after the affine fit; then every other figure."""
    console = console or Console()
    methods = ordered(results)
    flat = [r for r in results if r.setting not in DEEP]
    rows = list(by_level(flat).items())
    averaged = [r for r in flat if r.defocus_um in AVERAGED_UM]
    if len({r.defocus_um for r in averaged}) > 1:
        rows.append(("4-32", averaged))
    channels = sorted({r.channel for r in flat})
    if len(channels) > 1:
        rows += [(name, [r for r in averaged if r.channel == name]) for name in channels]
    if deep := [r for r in results if r.setting in DEEP and r.defocus_um in AVERAGED_UM]:
        rows.append(("deep", deep))
    # Methods are rows: their number grows, and tables are to fit into 80 columns.
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
    _print_figures(averaged or flat, methods, console)
    console.print(definition, style="dim")


def _print_figures(results: Sequence[Result], methods: Sequence[str], console: Console) -> None:
    levels, found = ", ".join(by_level(results)), means(results)
    for title, columns in (
        (f"mean of {levels} um", _IMAGES),
        (f"nuclei per true nucleus, mean of {levels} um", _NUCLEI),
    ):
        table = Table(title=title, padding=(0, 0))
        table.add_column("method")
        for _, heading, _ in columns:
            table.add_column(heading, justify="right")
        for method in (name for name in methods if name in found):
            row = found[method]
            cells = (
                form.format(row[name]) if math.isfinite(row[name]) else ""
                for name, _, form in columns
            )
            table.add_row(method, *cells)
        console.print(table)

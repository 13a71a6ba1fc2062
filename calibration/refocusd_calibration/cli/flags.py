"""Flags that the measurements share, and the printing of their results."""

from __future__ import annotations

import argparse
import math
from pathlib import Path

from rich.table import Table

from refocusd.cli.console import console
from refocusd.errors import ConfigError
from refocusd.profiles.profile import Check, Measured
from refocusd_calibration.profile.identity import add_microscope_flags
from refocusd_calibration.stage.plan import LONGEST_EXPOSURE_MS


def add_measurement_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags that all measurements have: for output, for the microscope, for its hardware."""
    parser.add_argument(
        "--output", type=Path, metavar="PROFILE", help="profile (.json) to write or to add to"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures as JSON")
    parser.add_argument(
        "--report", type=Path, metavar="FILE", help="draw the profile: FILE.html or FILE.png"
    )
    parser.add_argument(
        "--insist", action="store_true", help="write the profile even if a check failed"
    )
    parser.add_argument(
        "--replace", action="store_true", help="replace a profile of another microscope"
    )
    add_microscope_flags(parser)
    group = parser.add_argument_group("on the microscope")
    group.add_argument("--dry-run", action="store_true", help="only print the moves and exposures")
    group.add_argument("--yes", action="store_true", help="do not ask before the light is changed")
    group.add_argument(
        "--data", type=Path, help="folder for the recordings (default: <profile>_raw)"
    )
    group.add_argument(
        "--settle-ms", type=float, default=50.0, help="wait this long after each move"
    )
    group.add_argument(
        "--longest-exposure-ms",
        type=float,
        default=LONGEST_EXPOSURE_MS,
        help="refuse longer exposures (default: %(default)g)",
    )
    group.add_argument(
        "--mm-config",
        metavar="FILE",
        help="start this hardware configuration (default: use the running Micro-Manager)",
    )
    group.add_argument(
        "--adapters", type=Path, help="folder of Micro-Manager's device adapters, with --mm-config"
    )


def numbers(text: str) -> list[float]:
    """Parse ``1,2,5`` (for argparse)."""
    try:
        values = [float(part) for part in text.split(",") if part.strip()]
    except ValueError:
        values = []
    if not values or not all(math.isfinite(value) for value in values):
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of numbers such as 1,2,5")
    return values


def raw_folder(arguments: argparse.Namespace) -> Path:
    """Folder for the recordings of a measurement: ``--data``, or beside the profile.

    Raises
    ------
    ConfigError
        If neither is given.
    """
    if arguments.data is not None:
        return Path(arguments.data)
    if arguments.output is None:
        raise ConfigError(
            "give --output PROFILE or --data DIR, so that the recordings can be stored"
        )
    output: Path = arguments.output
    return output.with_name(f"{output.stem}_raw")


def number(value: Measured | float | None, unit: str = "", digits: int = 4) -> str:
    """Format a number with its standard uncertainty: ``1.003 ± 0.004 e-``."""
    if value is None:
        return "not measured"
    if isinstance(value, Measured):
        error = value.uncertainty
        if not math.isfinite(error) or error <= 0:
            text = f"{value.value:.{digits}g}"
        else:
            places = max(0, 1 - math.floor(math.log10(error)))
            text = f"{value.value:.{places}f} ± {error:.{places}f}"
    else:
        text = f"{value:.{digits}g}"
    return f"{text} {unit}".rstrip()


def print_outcome(title: str, rows: list[tuple[str, str]], checks: list[Check]) -> None:
    """Print a table of numbers and one of checks."""
    table = Table(title=title)
    table.add_column("quantity")
    table.add_column("value", justify="right")
    for name, value in rows:
        table.add_row(name, value)
    console.print(table)
    verdicts = Table(title="checks")
    for heading in ("check", "", "what was found"):
        verdicts.add_column(heading)
    for item in checks:
        verdicts.add_row(item.name, "passed" if item.passed else "[bold red]FAILED[/]", item.detail)
    console.print(verdicts)

"""The end of every measurement: prints the figures, and writes JSON and the profile."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from refocusd.cli.console import console, write_json
from refocusd.errors import ConfigError
from refocusd.files import check_writable
from refocusd.profiles.profile import Microscope, RawData, load_profile
from refocusd_calibration.cli.flags import print_outcome
from refocusd_calibration.measurement import Measurement
from refocusd_calibration.profile.report import check_report, write_report
from refocusd_calibration.profile.rows import Rows, section_rows
from refocusd_calibration.profile.write import name_of, raw_data, write_section


def check_places(arguments: argparse.Namespace) -> None:
    """Refuse output files that could not be written in the end, before anything moves or is measured.

    Raises
    ------
    ConfigError
        If the report's suffix is not .png or .html, no profile is written for it, or matplotlib is not
        installed.
    InputError
        If the existing file is not a profile.
    OutputError
        If a file cannot be written.
    """
    places = (arguments.output, arguments.json, arguments.report)
    for path in filter(None, places):
        check_writable(path)
    if arguments.report is not None:
        check_report(arguments.report)
        if arguments.output is None:
            raise ConfigError("--report draws a profile: give --output PROFILE as well")
    if arguments.output is not None and arguments.output.exists():
        load_profile(arguments.output)


def conclude(
    arguments: argparse.Namespace,
    measured: Measurement,
    microscope: Microscope,
    recordings: Mapping[str, Path],
    *,
    figures: Mapping[str, Any],
    more_rows: Rows | None = None,
) -> int:
    """Print the results of a measurement, and write the output files that were requested.

    Parameters
    ----------
    arguments : Namespace
        With the flags of `add_measurement_flags`.
    measured : Measurement
    microscope : Microscope
    recordings : mapping of str to Path
        The recordings, by their roles; the first one is named in the title.
    figures : mapping
        Figures for ``--json`` beside those of every measurement.
    more_rows : list of (str, str), optional
        Rows printed below those of the section.

    Returns
    -------
    int
        Exit status: 1 if a check failed and no profile was requested, otherwise 0.

    Raises
    ------
    InputError, OutputError
        See `raw_data`, `write_section` and `write_report`.
    ConfigError
        See `write_report`.
    """
    section, name = measured.section, name_of(measured.section)
    raw = [raw_data(f"{name}: {what}", path) for what, path in recordings.items()]
    rows = [*section_rows(section, microscope), *(more_rows or ())]
    title = f"{name}, {next(iter(recordings.values()))}"
    print_outcome(title, rows, list(measured.checks))
    for note in measured.notes:
        console.print(f"note: {note}")
    # The figures are written even if the profile is refused.
    common = {"microscope": microscope, name: section, "raw": raw}
    about = {"checks": measured.checks, "notes": measured.notes}
    write_json(arguments.json, msgspec.to_builtins({**common, **about, **figures}))
    if arguments.output is None:
        console.print("no --output PROFILE was given: no profile was written")
        return 0 if measured.passed else 1
    _write(arguments, measured, microscope, raw)
    return 0


def _write(
    arguments: argparse.Namespace,
    measured: Measurement,
    microscope: Microscope,
    raw: Sequence[RawData],
) -> None:
    """Write the profile, and its report if one was requested."""
    profile = write_section(
        arguments.output,
        microscope,
        measured.section,
        raw=raw,
        checks=measured.checks,
        insist=arguments.insist,
        replace=arguments.replace,
        maps=measured.maps,
    )
    if profile.insisted:
        console.print("[bold red]written although checks failed, because --insist was given[/]")
    console.print(f"wrote {arguments.output}, profile {profile.id()}")
    if arguments.report is not None:
        write_report(arguments.output, arguments.report)
        console.print(f"wrote {arguments.report}")

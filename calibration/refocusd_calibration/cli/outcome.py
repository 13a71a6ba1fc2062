"""End of every measurement: figures are printed, JSON and the profile are written."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from refocusd.cli.console import console, write_json
from refocusd.errors import ConfigError
from refocusd.files import check_writable
from refocusd.profiles.profile import Microscope, RawData, load_profile
from refocusd_calibration.cli.flags import print_outcome
from refocusd_calibration.measurement import Measurement
from refocusd_calibration.profile.report import check_report, write_report
from refocusd_calibration.profile.write import Map, write_section


def check_places(arguments: argparse.Namespace) -> None:
    """Refuse, before anything moves or is measured, files that could not be written in the end.

    Raises
    ------
    ConfigError
        If the report has another ending, or matplotlib is not installed.
    InputError
        If the existing file is not a profile.
    OutputError
        If one cannot be written.
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
    name: str,
    measured: Measurement,
    microscope: Microscope,
    *,
    title: str,
    rows: list[tuple[str, str]],
    raw: Sequence[RawData],
    figures: Mapping[str, Any],
    maps: Mapping[str, Map] | None = None,
) -> int:
    """Print what was measured, and write what was asked for.

    Parameters
    ----------
    arguments : Namespace
        With the flags of `add_measurement_flags`.
    name : {"camera", "focus", "psf"}
        Of the section.
    measured : Measurement
    microscope : Microscope
    title : str
    rows : list of (str, str)
    raw : sequence of RawData
    figures : mapping
        For ``--json``, beside what every measurement has.
    maps : mapping of str to Map, optional

    Returns
    -------
    int
        Exit status: 0 unless a check failed and no profile was to be written.

    Raises
    ------
    InputError, OutputError
        As `write_section` and `write_report`.
    ConfigError
        As `write_report`.
    """
    print_outcome(title, rows, list(measured.checks))
    for note in measured.notes:
        console.print(f"note: {note}")
    # The figures are written even where the profile is refused.
    common = {
        "microscope": microscope,
        name: measured.section,
        "checks": measured.checks,
        "notes": measured.notes,
        "raw": raw,
    }
    write_json(arguments.json, msgspec.to_builtins({**common, **figures}))
    if arguments.output is None:
        console.print("no --output PROFILE was given: no profile was written")
        return 0 if measured.passed else 1
    profile = write_section(
        arguments.output,
        microscope,
        measured.section,
        raw=raw,
        checks=measured.checks,
        insist=arguments.insist,
        replace=arguments.replace,
        maps=maps,
    )
    if profile.insisted:
        console.print("[bold red]written although checks failed, because --insist was given[/]")
    console.print(f"wrote {arguments.output}, profile {profile.id()}")
    if arguments.report is not None:
        write_report(arguments.output, arguments.report)
        console.print(f"wrote {arguments.report}")
    return 0

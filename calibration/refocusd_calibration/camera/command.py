"""`refocusd calibrate camera`: measures dark and flat series, recorded ones or ones taken now.

At the top, only what the parser needs is imported, because every `refocusd` command loads this file.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from refocusd.cli.console import console
from refocusd.cli.flags import Paths, add_command
from refocusd.errors import ConfigError, InputError
from refocusd.profiles.profile import Microscope
from refocusd_calibration.cli.flags import add_measurement_flags, numbers, raw_folder
from refocusd_calibration.profile.identity import (
    check_profile,
    microscope_of,
    microscope_of_core,
)
from refocusd_calibration.stage.microscope import ask, open_microscope
from refocusd_calibration.stage.moves import run_shown
from refocusd_calibration.stage.plan import Move, MoveLimits, Shutter, check_moves, print_moves

EPILOG = """\
examples:
  refocusd calibrate camera --dry-run                              what it would do
  refocusd calibrate camera --output scope.json                    on the microscope
  refocusd calibrate camera --from-recording dark flat --output scope.json

Dark series: no light at all. Flat series: an even, steady light and no specimen, such that
the longest exposure is just saturated.
"""

#: Default exposures of the dark and of the flat series, ms.
DARK_MS = (10.0, 100.0, 500.0)
FLAT_MS = (1.0, 2.0, 4.0, *(float(ms) for ms in range(8, 97, 8)))


def register(subparsers: Any) -> None:
    """Add the sub-command."""
    parser = add_command(
        subparsers,
        "camera",
        _calibrate,
        short="gain, read noise, offset, dark current, linearity, flat field, hot pixels",
        description="Measures a camera from dark and flat series, by EMVA 1288.",
        epilog=EPILOG,
    )
    parser.add_argument(
        "--from-recording",
        nargs="+",
        type=Path,
        action=Paths,
        metavar="PATH",
        help="measure recordings instead of the microscope: the dark one, then the flat one",
    )
    parser.add_argument(
        "--dark-exposures-ms",
        type=numbers,
        metavar="LIST",
        help="exposures of the dark series, for example 10,100,500",
    )
    parser.add_argument(
        "--flat-exposures-ms",
        type=numbers,
        metavar="LIST",
        help="exposures of the flat series, in the order they were taken",
    )
    parser.add_argument(
        "--dark-frames",
        type=int,
        default=16,
        help="frames per dark exposure (default: %(default)s)",
    )
    parser.add_argument(
        "--flat-frames", type=int, default=4, help="frames per flat exposure (default: %(default)s)"
    )
    parser.add_argument(
        "--user-light",
        action="store_true",
        help="switch the light by hand, because there is no shutter",
    )
    add_measurement_flags(parser)


def _calibrate(arguments: argparse.Namespace) -> int:
    if not arguments.dry_run:
        from refocusd_calibration.cli.outcome import check_places

        check_places(arguments)
    if not arguments.from_recording:
        taken = _acquire(arguments)
        return 0 if taken is None else _measure(arguments, *taken)
    paths: Sequence[Path] = arguments.from_recording
    if len(paths) != 2:
        raise InputError(
            f"--from-recording was given {len(paths)} paths: give the dark recording and then the "
            "flat one; dark frames alone give offset and noise in counts, but no gain"
        )
    if arguments.dry_run:
        console.print(f"would read the dark series {paths[0]} and the flat series {paths[1]}")
        return 0
    return _measure(arguments, paths[0], paths[1], None)


def camera_moves(arguments: argparse.Namespace) -> tuple[list[Move], list[Move]]:
    """Moves of the dark and of the flat series.

    The flat exposures are taken in ascending and then in descending order, so that a drifting
    lamp appears as a difference at one exposure.

    Raises
    ------
    ConfigError
        If too few frames are requested.
    """
    closed: Shutter = "as is" if arguments.user_light else "closed"
    opened: Shutter = "as is" if arguments.user_light else "open"
    dark_ms = arguments.dark_exposures_ms or list(DARK_MS)
    flat_ms = arguments.flat_exposures_ms or list(FLAT_MS)
    half = arguments.flat_frames // 2
    if arguments.dark_frames < 2 or half < 1:
        raise ConfigError("--dark-frames and --flat-frames: two or more frames are needed")
    dark = [
        Move(ms, frames=arguments.dark_frames, shutter=closed, axes=(("exposure", index),))
        for index, ms in enumerate(dark_ms)
    ]
    flat = [
        Move(ms, frames=frames, shutter=opened, axes=(("exposure", index),))
        for index, (ms, frames) in enumerate(
            [(ms, arguments.flat_frames - half) for ms in flat_ms]
            + [(ms, half) for ms in reversed(flat_ms)]
        )
    ]
    return dark, flat


def _acquire(arguments: argparse.Namespace) -> tuple[Path, Path, Microscope] | None:
    dark, flat = camera_moves(arguments)
    limits = MoveLimits(longest_exposure_ms=arguments.longest_exposure_ms)
    for what, moves in (("dark", dark), ("flat", flat)):
        check_moves(moves, limits)
        console.print(f"[bold]{what} series[/]")
        print_moves(moves, limits, console=console)
    if arguments.dry_run:
        console.print("dry run: nothing was moved")
        return None
    folder = raw_folder(arguments)
    with open_microscope(arguments.mm_config, arguments.adapters) as core:
        microscope = microscope_of_core(arguments, core)
        check_profile(arguments, microscope)
        ask("The dark series is next. Is all light off, or the camera covered?", yes=arguments.yes)
        dark_path = run_shown(dark, folder, "camera_dark", limits, arguments, core)
        ask(
            "The flat series is next. Is the light on, even and steady, and no specimen in the field?",
            yes=arguments.yes,
        )
        flat_path = run_shown(flat, folder, "camera_flat", limits, arguments, core)
    return dark_path, flat_path, microscope


def _measure(
    arguments: argparse.Namespace, dark_path: Path, flat_path: Path, microscope: Microscope | None
) -> int:
    from refocusd.formats.open_dataset import open_dataset
    from refocusd_calibration.camera.measure import measure_camera
    from refocusd_calibration.camera.series import series_of_recording
    from refocusd_calibration.cli.outcome import conclude

    recorded = microscope is None
    with open_dataset(dark_path) as dark, open_dataset(flat_path) as flat:
        dark_series = series_of_recording(dark, arguments.dark_exposures_ms if recorded else None)
        flat_series = series_of_recording(flat, arguments.flat_exposures_ms if recorded else None)
        measured = measure_camera(dark_series, flat_series)
    said, channel = flat_series.metadata or {}, flat_series.channel
    return conclude(
        arguments,
        measured,
        microscope
        or microscope_of(arguments, said, channel=channel, pixel_um=flat_series.pixel_um),
        {"dark series": dark_path, "flat series": flat_path},
        figures={"maps": sorted(measured.maps)},
    )

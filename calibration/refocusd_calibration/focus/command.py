"""`refocusd calibrate focus`: measures through-focus series, recorded ones or ones taken now.

At the top, only what the parser needs is imported, because every `refocusd` command loads this file.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from refocusd.cli.console import progress
from refocusd.cli.flags import Paths, add_command
from refocusd.errors import ConfigError
from refocusd.profiles.profile import CameraSection, Microscope, load_profile
from refocusd_calibration.cli.flags import add_measurement_flags
from refocusd_calibration.profile.identity import check_profile, microscope_of
from refocusd_calibration.stage.z_series import add_z_flags, plane_positions, recorded_or_taken

EPILOG = """\
examples:
  refocusd calibrate focus --z-from -10 --z-to 10 --z-step 0.5 --z-limits -20 20 --dry-run
  refocusd calibrate focus --z-from -10 --z-to 10 --z-step 0.5 --z-limits -20 20 \\
      --output scope.json
  refocusd calibrate focus --from-recording up_1 down_1 --output scope.json
  refocusd calibrate focus --from-recording stack.tif --z-step 0.5 --pixel-um 0.32 \\
      --output scope.json

Take a field that is covered by thin specimen, with focus near the middle of the range, and
steps of about half the depth of field (wavelength n / NA^2).
"""


def register(subparsers: Any) -> None:
    """Add the sub-command."""
    parser = add_command(
        subparsers,
        "focus",
        _calibrate,
        short="best focus, tilt, curvature, depth of field, backlash, drift",
        description="Measures the through-focus response of a field.",
        epilog=EPILOG,
    )
    parser.add_argument(
        "--from-recording",
        nargs="+",
        type=Path,
        action=Paths,
        metavar="PATH",
        help="measure through-focus series of one field, in the order they were taken, instead of the "
        "microscope",
    )
    group = add_z_flags(parser)
    group.add_argument(
        "--sweeps", type=int, default=4, help="sweeps up and down in turn (default: %(default)s)"
    )
    add_measurement_flags(parser)


def sweep_positions(low_um: float, high_um: float, step_um: float, sweeps: int) -> list[float]:
    """Stage positions of alternating sweeps up and down, um; the planes at the turns are taken once.

    Raises
    ------
    ConfigError
        If the range is not valid, or holds fewer than six planes or far too many.
    """
    if sweeps < 1:
        raise ConfigError(f"--sweeps {sweeps}: take one or more (recommended: 4)")
    # A sweep without its turning plane must still show a focus.
    up = plane_positions(low_um, high_um, step_um, least=6, better="20 to 40")
    planes = list(up)
    for sweep in range(1, sweeps):
        planes.extend((up[::-1] if sweep % 2 else up)[1:])
    return planes


def _calibrate(arguments: argparse.Namespace) -> int:
    positions = partial(sweep_positions, sweeps=arguments.sweeps)
    series = recorded_or_taken(arguments, "focus", arguments.from_recording or (), positions)
    return 0 if series is None else _measure(arguments, *series)


def _measure(
    arguments: argparse.Namespace, paths: Sequence[Path], microscope: Microscope | None
) -> int:
    from refocusd_calibration.cli.outcome import conclude
    from refocusd_calibration.focus.checks import depth_check
    from refocusd_calibration.focus.measure import measure_focus
    from refocusd_calibration.stage.z_sweeps import known_pixel_um, open_series

    with open_series(
        paths,
        z_step_um=arguments.z_step if microscope is None else None,
        channel=arguments.channel,
        position=arguments.position,
    ) as series:
        if microscope is None:
            microscope = microscope_of(
                arguments, series.metadata, channel=series.channel, pixel_um=series.pixel_um
            )
            check_profile(arguments, microscope)
        planes = sum(len(sweep.planes) for sweep in series.sweeps)
        with progress() as bar:
            task = bar.add_task("planes", total=planes)
            measured = measure_focus(
                series,
                pixel_um=known_pixel_um(paths[0], microscope.pixel_um or series.pixel_um),
                camera=_known_camera(arguments),
                on_plane=lambda: bar.advance(task),
            )
    depth = depth_check(measured.section, microscope)
    measured = replace(measured, checks=(*measured.checks, *depth))
    surface = measured.surface
    return conclude(
        arguments,
        measured,
        microscope,
        {f"series {index}": path for index, path in enumerate(paths, 1)},
        more_rows=[("focal surface", surface.kind if surface else "not measured")],
        figures={
            "metrics": list(measured.figures),
            "surface": surface and surface.figures(),
            "model_power": measured.power,
        },
    )


def _known_camera(arguments: argparse.Namespace) -> CameraSection | None:
    """The camera section of the profile that this measurement is added to."""
    if arguments.output is None or arguments.replace or not arguments.output.exists():
        return None
    return load_profile(arguments.output).camera

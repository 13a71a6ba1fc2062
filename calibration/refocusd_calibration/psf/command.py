"""`refocusd calibrate psf`: measures beads or matched planes, recorded ones or ones taken now.

At the top, only what the parser needs is imported, because every `refocusd` command loads this file.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from refocusd.cli.console import console
from refocusd.cli.flags import add_command
from refocusd.errors import ConfigError, InputError
from refocusd.profiles.profile import Microscope
from refocusd_calibration.cli.flags import add_measurement_flags
from refocusd_calibration.profile.identity import check_profile, microscope_of
from refocusd_calibration.stage.z_series import add_z_flags, plane_positions, recorded_or_taken

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from refocusd_calibration.psf.fit import LawFit


EPILOG = """\
examples:
  refocusd calibrate psf --z-from -32 --z-to 32 --z-step 2 --z-limits -40 40 --dry-run
  refocusd calibrate psf --z-from -32 --z-to 32 --z-step 2 --z-limits -40 40 \\
      --na 0.45 --wavelength-um 0.46 --output scope.json
  refocusd calibrate psf --from-recording beads_1 --na 0.45 --wavelength-um 0.46 \\
      --output scope.json
  refocusd calibrate psf --from-recording cells_1 --in-focus 16 --na 0.45 \\
      --wavelength-um 0.46 --output scope.json

The beads must lie in one plane; best are beads smaller than the resolution, further apart than the
widest kernel.  With --in-focus any thin specimen can be used, if all planes show the same field and
nothing moves.
"""


def register(subparsers: Any) -> None:
    """Add the sub-command."""
    parser = add_command(
        subparsers,
        "psf",
        _calibrate,
        short="defocus kernels, NA, spherical aberration, difference between the sides of focus",
        description="Measures how a point blurs with defocus, and fits wave optics to it.",
        epilog=EPILOG,
    )
    parser.add_argument(
        "--from-recording",
        type=Path,
        metavar="PATH",
        help="measure a recorded z series instead of the microscope",
    )
    parser.add_argument(
        "--in-focus",
        metavar="PATH|INDEX|sharpest",
        help="measure without beads: an in-focus frame of the same field, or the index of the in-focus "
        "plane (from 0 in order of z)",
    )
    parser.add_argument(
        "--bead-um", type=float, default=0.0, help="diameter of the beads (default: 0, a point)"
    )
    parser.add_argument(
        "--radius-um",
        type=float,
        help="radius of the widest kernel (default: from the NA or the beads)",
    )
    parser.add_argument(
        "--saturation",
        type=float,
        metavar="COUNTS",
        help="counts of a saturated pixel (default: end of the camera's scale)",
    )
    group = add_z_flags(parser)
    group.add_argument(
        "--frames", type=int, default=1, help="frames averaged per plane (default: %(default)s)"
    )
    add_measurement_flags(parser)


def _calibrate(arguments: argparse.Namespace) -> int:
    _check(arguments)
    recorded = [arguments.from_recording] if arguments.from_recording else []
    positions = partial(plane_positions, least=5, better="15 to 40")
    series = recorded_or_taken(arguments, "psf", recorded, positions, repeats=arguments.frames)
    return 0 if series is None else _measure(arguments, series[0][0], series[1])


def _check(arguments: argparse.Namespace) -> None:
    """Refuse numbers that are not plausible.

    Raises
    ------
    ConfigError
    """
    microscope_of(arguments, {})
    if not 0 <= arguments.bead_um < 1000:
        raise ConfigError(f"--bead-um {arguments.bead_um:g}: give a diameter, or 0 for a point")
    for name in ("radius_um", "saturation"):
        value = getattr(arguments, name)
        if value is not None and not 0 < value < 1e6:
            raise ConfigError(f"--{name.replace('_', '-')} {value:g}: give a number above 0")


def _measure(arguments: argparse.Namespace, path: Path, microscope: Microscope | None) -> int:
    from msgspec import structs

    from refocusd_calibration.cli.outcome import conclude
    from refocusd_calibration.psf.measure import Stated, measure_beads, measure_planes
    from refocusd_calibration.psf.stack import read_planes

    recorded = microscope is None
    with console.status("reading the planes"):
        stack = read_planes(
            path,
            pixel_um=arguments.pixel_um or (microscope.pixel_um if microscope else None),
            z_step_um=arguments.z_step if recorded else None,
            channel=arguments.channel if recorded else None,
            position=arguments.position,
            saturation=arguments.saturation,
        )
    if microscope is None:
        microscope = microscope_of(
            arguments, stack.metadata, channel=stack.channel, pixel_um=stack.pixel_um
        )
        check_profile(arguments, microscope)
    stated = Stated(
        na=microscope.na,
        wavelength_um=microscope.wavelength_um,
        refractive_index=microscope.refractive_index,
        bead_um=arguments.bead_um,
    )
    with console.status("fitting the laws of blur"):
        if arguments.in_focus is None:
            measured = measure_beads(stack, stated, reach_um=arguments.radius_um)
        else:
            measured = measure_planes(stack, _in_focus(arguments.in_focus), stated)
    measured = replace(measured, notes=(*stack.notes, *measured.notes))
    if stack.counted:
        measured = replace(measured, section=structs.replace(measured.section, counted=True))
    recordings = {"series": path}
    if arguments.in_focus is not None and not _is_plane(arguments.in_focus):
        recordings["in focus"] = Path(arguments.in_focus)
    return conclude(
        arguments,
        measured,
        microscope,
        recordings,
        figures={
            "laws": {name: _law(fit) for name, fit in measured.fits.items()},
            "frames_averaged": stack.averaged,
        },
    )


def _law(fit: LawFit) -> dict[str, Any]:
    """A fitted law as plain data."""
    return {
        **{parameter: fit.measured(parameter) for parameter in fit.law.parameters},
        "chi2_per_freedom": fit.chi2 / fit.freedom,
        "residual_rms": fit.residual_rms,
    }


def _in_focus(text: str) -> int | NDArray[np.float32] | None:
    """The plane that ``--in-focus`` names: its index, None for the sharpest, or a separate frame."""
    import numpy as np

    from refocusd.formats.open_dataset import open_dataset

    if text == "sharpest":
        return None
    if _is_plane(text):
        return int(text)
    with open_dataset(text) as recording:
        if len(recording) != 1:
            raise InputError(
                f"{text} holds {len(recording)} frames; --in-focus takes one frame, or the "
                "index of a plane of the series"
            )
        return recording.read(recording.axes_keys()[0]).pixels.astype(np.float32)


def _is_plane(text: str) -> bool:
    return text == "sharpest" or text.isdigit()

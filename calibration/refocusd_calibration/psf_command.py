"""`refocusd calibrate psf`: beads or matched planes, taken now or recorded before.

Only what parses is imported here: every `refocusd` command loads this file.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from refocusd.errors import ConfigError, InputError
from refocusd.profile import Microscope
from refocusd_calibration.flags import (
    add_hardware_flags,
    add_output_flags,
    console,
    number,
    print_outcome,
    raw_folder,
    write_json,
)
from refocusd_calibration.identity import core_metadata, microscope_of
from refocusd_calibration.microscope import open_microscope, quiet_stage
from refocusd_calibration.moves import (
    MoveLimits,
    acquire_planes,
    check_moves,
    plane_moves,
    print_moves,
)

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from refocusd_calibration.psf import PsfMeasurement, Stated
    from refocusd_calibration.psf_stack import PlaneStack

__all__ = ["register"]

EPILOG = """\
examples:
  refocusd calibrate psf --z-from -32 --z-to 32 --z-step 2 --z-limits -40 40 --dry-run
  refocusd calibrate psf --z-from -32 --z-to 32 --z-step 2 --z-limits -40 40 \\
      --na 0.45 --wavelength-um 0.46 --output scope.json
  refocusd calibrate psf --from-recording beads_1 --na 0.45 --wavelength-um 0.46 \\
      --output scope.json
  refocusd calibrate psf --from-recording cells_1 --in-focus 16 --na 0.45 \\
      --wavelength-um 0.46 --output scope.json

Beads smaller than half the wavelength over 2 NA, on one plane, further apart than the widest
kernel.  With --in-focus any thin specimen serves: planes of one field, nothing moving.
"""

#: Planes that nobody meant to ask for.
MAX_PLANES = 1000


def register(subparsers: Any) -> None:
    """Add the sub-command."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "psf",
        help="defocus kernel per micrometre, NA, spherical aberration, both sides of focus",
        description="Measures how a point blurs with defocus, and fits wave optics to it.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--from-recording", type=Path, metavar="PATH", help="z series, instead of the microscope"
    )
    parser.add_argument(
        "--in-focus",
        metavar="PATH|INDEX|sharpest",
        help="measure without beads: an in-focus frame of the same field, or which plane it is "
        "(counted from 0 in order of z)",
    )
    parser.add_argument(
        "--z-step",
        type=float,
        metavar="UM",
        help="from plane to plane; of a recording only where it does not say, or says wrongly",
    )
    parser.add_argument("--position", help="which stage position, of a recording with several")
    parser.add_argument("--bead-um", type=float, default=0.0, help="diameter (default: a point)")
    parser.add_argument(
        "--radius-um", type=float, help="of the widest kernel (default: by NA, or found)"
    )
    parser.add_argument(
        "--saturation", type=float, metavar="COUNTS", help="default: end of the camera's scale"
    )
    group = parser.add_argument_group("the series, on the microscope")
    group.add_argument("--z-from", type=float, metavar="UM", help="lower end, stage position")
    group.add_argument("--z-to", type=float, metavar="UM", help="upper end, stage position")
    group.add_argument(
        "--z-limits",
        type=float,
        nargs=2,
        metavar=("LOW", "HIGH"),
        help="stage positions that are safe for objective and specimen",
    )
    group.add_argument("--exposure-ms", type=float, default=20.0, help="default: %(default)g")
    group.add_argument(
        "--frames", type=int, default=1, help="averaged at each plane (default: %(default)s)"
    )
    add_output_flags(parser)
    add_hardware_flags(parser)
    parser.set_defaults(command=_calibrate)


def _calibrate(arguments: argparse.Namespace) -> int:
    if arguments.from_recording is not None:
        if arguments.dry_run:
            console.print(f"would read the series {arguments.from_recording}")
            return 0
        return _measure(arguments, arguments.from_recording, None)
    taken = _acquire(arguments)
    return 0 if taken is None else _measure(arguments, *taken)


def _positions(low: float, high: float, step: float) -> list[float]:
    if not (all(map(math.isfinite, (low, high, step))) and low < high and step > 0):
        raise ConfigError(
            f"--z-from {low:g}, --z-to {high:g} and --z-step {step:g} make no range: give the lower "
            "end first, and a step above zero"
        )
    count = math.floor((high - low) / step + 1e-6) + 1
    if not 5 <= count <= MAX_PLANES:
        raise ConfigError(
            f"{count} planes from {low:g} to {high:g} um: take 5 to {MAX_PLANES}, better 15 to 40, "
            "by another --z-step"
        )
    return [low + index * step for index in range(count)]


def _acquire(arguments: argparse.Namespace) -> tuple[Path, Microscope] | None:
    ends = (arguments.z_from, arguments.z_to, arguments.z_step)
    if None in ends or arguments.z_limits is None:
        raise ConfigError(
            "give --z-from, --z-to, --z-step and --z-limits for the stage; or measure from a "
            "recording with --from-recording"
        )
    z_um = _positions(*ends)
    low, high = arguments.z_limits
    limits = MoveLimits(low, high, arguments.longest_exposure_ms)
    moves = plane_moves(
        z_um,
        exposure_ms=arguments.exposure_ms,
        repeats=arguments.frames,
        channel=arguments.channel,
    )
    check_moves(moves, limits)
    print_moves(moves, limits, console=console)
    if arguments.dry_run:
        console.print("dry run: nothing was moved")
        return None
    folder = raw_folder(arguments)
    with open_microscope(arguments.mm_config, arguments.adapters) as core, quiet_stage(core):
        group = core.get_channel_group()
        now = str(core.get_current_config(group) or "") if group else ""
        microscope = microscope_of(arguments, core_metadata(core), channel=now)
        path = acquire_planes(
            z_um,
            folder,
            "psf",
            exposure_ms=arguments.exposure_ms,
            repeats=arguments.frames,
            limits_um=limits,
            channel=arguments.channel,
            settle_ms=arguments.settle_ms,
            core=core,
        )
    return path, microscope


def _measure(arguments: argparse.Namespace, path: Path, microscope: Microscope | None) -> int:
    from refocusd_calibration.psf import Stated, measure_beads, measure_planes
    from refocusd_calibration.psf_stack import read_planes

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
    print_outcome(f"PSF, {path}", _rows(measured, stated), list(measured.checks))
    for note in measured.notes:
        console.print(f"note: {note}")
    return _write(arguments, microscope, measured, path, stack)


def _in_focus(text: str) -> int | NDArray[np.float32] | None:
    """What ``--in-focus`` names: a plane, the sharpest one, or a frame of its own."""
    import numpy as np

    from refocusd.sources.recording import open_recording

    if text == "sharpest":
        return None
    if _is_plane(text):
        return int(text)
    with open_recording(text) as recording:
        if len(recording.plan()) != 1:
            raise InputError(
                f"{text} holds {len(recording.plan())} frames; --in-focus takes one frame, or the "
                "index of a plane of the series"
            )
        return recording.read(0).pixels.astype(np.float32)


def _is_plane(text: str) -> bool:
    return text == "sharpest" or text.isdigit()


def _rows(measured: PsfMeasurement, stated: Stated) -> list[tuple[str, str]]:
    section = measured.section
    rows = [
        ("method", section.method),
        ("law that describes it best", section.model),
        ("focus", number(section.focus_um, "um")),
    ]
    if section.model == "wave":
        rows += [
            ("NA", number(section.na)),
            ("spherical aberration", number(section.spherical_waves, "waves")),
            ("pixel, fitted", number(section.pixel_um, "um")),
            ("wavelength, held", number(stated.wavelength_um, "um")),
            ("refractive index, held", number(stated.refractive_index)),
        ]
    rows += [
        ("Gaussian law: blur in focus", number(section.blur_focus_um, "um")),
        ("Gaussian law: blur per um", number(section.blur_um_per_um, "um/um")),
        ("asymmetry of width, above less below", number(section.asymmetry)),
        ("residual (rms)", number(section.residual_rms)),
    ]
    if section.method == "beads":
        rows.append(("beads", str(section.beads)))
    return rows


def _write(
    arguments: argparse.Namespace,
    microscope: Microscope,
    measured: PsfMeasurement,
    path: Path,
    stack: PlaneStack,
) -> int:
    from refocusd_calibration.profiles import raw_data, write_section

    raw = [raw_data("psf: series", path)]
    if arguments.in_focus is not None and not _is_plane(arguments.in_focus):
        raw.append(raw_data("psf: in focus", arguments.in_focus))
    # The figures are told even where the profile is refused.
    write_json(
        arguments.json,
        {
            "microscope": microscope,
            "psf": measured.section,
            "checks": list(measured.checks),
            "notes": list(measured.notes),
            "laws": {
                name: {
                    **{parameter: fit.measured(parameter) for parameter in fit.law.parameters},
                    "chi2_per_freedom": fit.chi2 / fit.freedom,
                    "residual_rms": fit.residual_rms,
                }
                for name, fit in measured.fits.items()
            },
            "frames_averaged": stack.averaged,
            "raw": raw,
        },
    )
    if arguments.output is None:
        console.print("no --output PROFILE was given: no profile was written")
        return 0 if measured.passed else 1
    profile = write_section(
        arguments.output,
        microscope,
        psf=measured.section,
        raw=raw,
        checks=measured.checks,
        insist=arguments.insist,
        replace=arguments.replace,
    )
    if profile.insisted:
        console.print("[bold red]written although checks failed, because you insisted[/]")
    console.print(f"wrote {arguments.output}, profile {profile.id()}")
    return 0

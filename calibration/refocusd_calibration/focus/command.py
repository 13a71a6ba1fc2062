"""`refocusd calibrate focus`: through-focus series, taken now or recorded before.

Only what parses is imported here: every `refocusd` command loads this file.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.progress import Progress

from refocusd.errors import ConfigError, InputError
from refocusd.profiles.profile import CameraSection, Microscope, load_profile
from refocusd_calibration.cli.flags import (
    add_hardware_flags,
    add_output_flags,
    console,
    number,
    print_outcome,
    write_json,
)
from refocusd_calibration.profile.identity import microscope_of
from refocusd_calibration.stage.z_series import add_z_flags, plane_positions, take_series

if TYPE_CHECKING:
    from refocusd_calibration.focus.measure import FocusMeasurement
    from refocusd_calibration.stage.z_sweeps import ZSeries

__all__ = ["register", "sweep_positions"]

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
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "focus",
        help="best focus, tilt, curvature, depth of field, backlash, drift",
        description="Measures the through-focus response of a field.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--from-recording",
        nargs="+",
        type=Path,
        metavar="PATH",
        help="through-focus series of one field in the order taken, instead of the microscope",
    )
    group = add_z_flags(parser)
    group.add_argument(
        "--sweeps", type=int, default=4, help="up, down, up, ... (default: %(default)s)"
    )
    add_output_flags(parser)
    add_hardware_flags(parser)
    parser.set_defaults(command=_calibrate)


def sweep_positions(low_um: float, high_um: float, step_um: float, sweeps: int) -> list[float]:
    """Stage positions of sweeps up and down in turn; the turning planes are taken once.

    Raises
    ------
    ConfigError
        If the range is none, or holds fewer than six planes or far too many.
    """
    if sweeps < 1:
        raise ConfigError(f"--sweeps {sweeps}: take one or more, better 4")
    # A sweep less its turning plane must still show a focus.
    up = plane_positions(low_um, high_um, step_um, least=6, better="20 to 40")
    planes = list(up)
    for sweep in range(1, sweeps):
        planes.extend((up[::-1] if sweep % 2 else up)[1:])
    return planes


def _calibrate(arguments: argparse.Namespace) -> int:
    if arguments.from_recording:
        if arguments.dry_run:
            listed = ", ".join(str(path) for path in arguments.from_recording)
            console.print(f"would read the series {listed}")
            return 0
        return _measure(arguments, arguments.from_recording, None)
    taken = take_series(arguments, "focus", partial(sweep_positions, sweeps=arguments.sweeps))
    return 0 if taken is None else _measure(arguments, [taken[0]], taken[1])


def _measure(
    arguments: argparse.Namespace, paths: Sequence[Path], microscope: Microscope | None
) -> int:
    from refocusd_calibration.focus.measure import measure_focus
    from refocusd_calibration.stage.z_sweeps import open_series

    recorded = arguments.from_recording is not None
    with open_series(
        paths,
        z_step_um=arguments.z_step if recorded else None,
        channel=arguments.channel,
        position=arguments.position,
    ) as series:
        if microscope is None:
            microscope = microscope_of(
                arguments,
                series.metadata,
                channel=series.channel,
                pixel_um=series.pixel_um,
            )
        pixel_um = microscope.pixel_um or series.pixel_um
        if pixel_um is None:
            raise InputError(
                f"{paths[0]} does not say its pixel size: give it, in um in the specimen, with "
                "--pixel-um"
            )
        planes = sum(len(sweep.planes) for sweep in series.sweeps)
        with Progress(console=console, transient=True) as bar:
            task = bar.add_task("planes", total=planes)
            measured = measure_focus(
                series,
                pixel_um=pixel_um,
                camera=_known_camera(arguments, series),
                on_plane=lambda: bar.advance(task),
            )
    rows = _rows(measured, microscope)
    print_outcome(f"focus, {paths[0]}", rows, list(measured.checks))
    for note in measured.notes:
        console.print(f"note: {note}")
    return _write(arguments, microscope, measured, paths)


def _known_camera(arguments: argparse.Namespace, series: ZSeries) -> CameraSection | None:
    """The camera section of the profile that is added to, if it is of such frames."""
    if arguments.output is None or arguments.replace or not arguments.output.exists():
        return None
    camera = load_profile(arguments.output).camera
    return camera if camera and tuple(camera.shape) in ((0, 0), series.shape) else None


def _rows(measured: FocusMeasurement, microscope: Microscope) -> list[tuple[str, str]]:
    section = measured.section
    tilt = section.tilt_mrad
    rows = [
        ("best focus at the centre", number(section.best_um, "um")),
        ("deciding metric", section.metric),
        ("depth of field", number(section.depth_of_field_um, "um")),
    ]
    if microscope.na and microscope.wavelength_um:
        nominal = microscope.wavelength_um * microscope.refractive_index / microscope.na**2
        rows.append(("  wavelength n / NA²", number(nominal, "um")))
    rows += [
        ("tilt along x", number(tilt[0] if tilt else None, "mrad")),
        ("tilt along y", number(tilt[1] if tilt else None, "mrad")),
        ("curvature", number(section.curvature_per_m, "1/m")),
        ("focal surface", measured.surface.kind if measured.surface else "not measured"),
        ("tiles with a focus", str(len(section.tiles_um))),
        ("backlash", number(section.backlash_um, "um")),
        ("drift", number(section.drift_um_per_min, "um/min")),
        ("repeatability", number(section.repeatability_um, "um")),
    ]
    rows += [
        (f"best focus by {name}", number(best, "um"))
        for name, best in section.best_by_metric_um.items()
    ]
    return rows


def _write(
    arguments: argparse.Namespace,
    microscope: Microscope,
    measured: FocusMeasurement,
    paths: Sequence[Path],
) -> int:
    from refocusd_calibration.profile.write import raw_data, write_section

    raw = [raw_data(f"focus: series {index}", path) for index, path in enumerate(paths, 1)]
    surface = measured.surface
    # The figures are told even where the profile is refused.
    write_json(
        arguments.json,
        {
            "microscope": microscope,
            "focus": measured.section,
            "checks": list(measured.checks),
            "metrics": list(measured.figures),
            "surface": None
            if surface is None
            else {
                "kind": surface.kind,
                "p_plane": surface.p_plane,
                "p_paraboloid": surface.p_paraboloid,
                "scatter_um": surface.scatter_um,
                "tiles_used": int(surface.used.sum()),
            },
            "model_power": measured.power,
            "notes": list(measured.notes),
            "raw": raw,
        },
    )
    if arguments.output is None:
        console.print("no --output PROFILE was given: no profile was written")
        return 0 if measured.passed else 1
    profile = write_section(
        arguments.output,
        microscope,
        focus=measured.section,
        raw=raw,
        checks=measured.checks,
        insist=arguments.insist,
        replace=arguments.replace,
    )
    if profile.insisted:
        console.print("[bold red]written although checks failed, because you insisted[/]")
    console.print(f"wrote {arguments.output}, profile {profile.id()}")
    return 0

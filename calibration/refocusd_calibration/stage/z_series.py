"""Takes a z series on the microscope: its flags, its planes and its moves."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Sequence
from pathlib import Path

from refocusd.cli.console import console
from refocusd.errors import ConfigError
from refocusd.profiles.profile import Microscope
from refocusd_calibration.cli.flags import raw_folder
from refocusd_calibration.profile.identity import check_profile, microscope_of_core
from refocusd_calibration.stage.microscope import microscope_core, open_microscope, quiet_stage
from refocusd_calibration.stage.moves import run_shown
from refocusd_calibration.stage.plan import MoveLimits, check_moves, plane_moves, print_moves

#: A series with more planes than this is refused as a mistake.
MAX_PLANES = 1000


def add_z_flags(parser: argparse.ArgumentParser) -> argparse._ArgumentGroup:
    """Add ``--z-step``, ``--position`` and a group of flags for the stage, which is returned."""
    parser.add_argument(
        "--z-step",
        type=float,
        metavar="UM",
        help="distance between planes; for a recording only if its metadata lack it or are wrong (negative if "
        "it was taken downwards)",
    )
    parser.add_argument("--position", help="stage position to use, if the recording has several")
    group = parser.add_argument_group("series on the microscope")
    group.add_argument("--z-from", type=float, metavar="UM", help="stage position of the lower end")
    group.add_argument("--z-to", type=float, metavar="UM", help="stage position of the upper end")
    group.add_argument(
        "--z-limits",
        type=float,
        nargs=2,
        metavar=("LOW", "HIGH"),
        help="stage positions that are safe for objective and specimen",
    )
    group.add_argument(
        "--exposure-ms", type=float, default=20.0, help="exposure of a plane (default: %(default)g)"
    )
    return group


def plane_positions(
    low_um: float, high_um: float, step_um: float, *, least: int, better: str
) -> list[float]:
    """Stage positions from the lower end up, um.

    Parameters
    ----------
    low_um, high_um, step_um : float
    least : int
        Number of planes that the measurement needs.
    better : str
        Recommended number, e.g. ``20 to 40``.

    Raises
    ------
    ConfigError
        If the range is not valid, or holds too few planes or far too many.
    """
    finite = all(map(math.isfinite, (low_um, high_um, step_um)))
    if not (finite and low_um < high_um and step_um > 0):
        raise ConfigError(
            f"--z-from {low_um:g}, --z-to {high_um:g} and --z-step {step_um:g} are not a range: give "
            "the lower end first, and a step above zero"
        )
    count = math.floor((high_um - low_um) / step_um + 1e-6) + 1
    if not least <= count <= MAX_PLANES:
        raise ConfigError(
            f"{count} planes from {low_um:g} to {high_um:g} um: take {least} to {MAX_PLANES} (recommended: "
            f"{better}) with another --z-step"
        )
    return [low_um + index * step_um for index in range(count)]


def recorded_or_taken(
    arguments: argparse.Namespace,
    name: str,
    recorded: Sequence[Path],
    positions: Callable[[float, float, float], list[float]],
    *,
    repeats: int = 1,
) -> tuple[Sequence[Path], Microscope | None] | None:
    """The series to measure: recordings, or a series that is taken now, after printing every move.

    Output files that could not be written in the end are refused first.

    Parameters
    ----------
    arguments : Namespace
        With the flags of `add_z_flags` and `add_measurement_flags`.
    name : str
        Name of the new recording.
    recorded : sequence of Path
        Existing recordings; empty to measure on the microscope.
    positions : callable
        Returns the stage positions, um, given lower end, upper end and step.
    repeats : int
        Number of frames at each plane.

    Returns
    -------
    (sequence of Path, Microscope or None) or None
        The recordings, and the microscope if they were taken now; None for a dry run.

    Raises
    ------
    ConfigError
        If the flags are incomplete, or a move would leave the limits.
    InputError, OutputError
        See `check_places` and `check_profile`.
    """
    if not arguments.dry_run:
        from refocusd_calibration.cli.outcome import check_places

        check_places(arguments)
    if recorded:
        if arguments.dry_run:
            console.print(f"would read the series {', '.join(map(str, recorded))}")
        return None if arguments.dry_run else (recorded, None)
    ends = (arguments.z_from, arguments.z_to, arguments.z_step)
    if None in ends or arguments.z_limits is None:
        raise ConfigError(
            "give --z-from, --z-to, --z-step and --z-limits for the stage; or measure from "
            "recordings with --from-recording"
        )
    z_um = positions(*ends)
    low_um, high_um = arguments.z_limits
    limits = MoveLimits(low_um, high_um, arguments.longest_exposure_ms)
    exposure_ms, channel = arguments.exposure_ms, arguments.channel
    moves = plane_moves(z_um, exposure_ms=exposure_ms, repeats=repeats, channel=channel)
    check_moves(moves, limits)
    print_moves(moves, limits, console=console)
    if arguments.dry_run:
        if arguments.mm_config is None:
            console.print(_how_far(z_um))
        console.print("dry run: nothing was moved")
        return None
    folder = raw_folder(arguments)
    with open_microscope(arguments.mm_config, arguments.adapters) as core, quiet_stage(core):
        microscope = microscope_of_core(arguments, core)
        check_profile(arguments, microscope)
        path = run_shown(moves, folder, name, limits, arguments, core)
    return [path], microscope


def _how_far(z_um: Sequence[float]) -> str:
    """A sentence that says how far the stage of the running microscope will go from its position."""
    try:
        core = microscope_core()
    except ConfigError:
        return "no microscope answers: where its stage stands is not known"
    stage = core.get_focus_device()
    if not stage:
        return "this microscope has no focus stage"
    now_um = float(core.get_position(stage))
    far_um = max(abs(z - now_um) for z in z_um)
    return (
        f"the stage {stage!r} stands at z = {now_um:.2f} um: it will go up to {far_um:.2f} um away "
        "from there, and come back"
    )

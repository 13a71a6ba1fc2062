"""The planned moves of a microscope, checked and printed before anything moves."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from rich.console import Console
from rich.table import Table

from refocusd.errors import ConfigError
from refocusd.frame import AxisValue, canonical_axes

#: State of the shutter: `as is` leaves it to the user and to Micro-Manager.
Shutter = Literal["open", "closed", "as is"]

#: Longer exposures are refused as a mistake, ms.
LONGEST_EXPOSURE_MS = 10_000.0


@dataclass(frozen=True, slots=True)
class Move:
    """One stage position and exposure, and the frames taken there.

    Parameters
    ----------
    exposure_ms : float
    z_um : float or None
        Target of the focus stage; None: it does not move.
    frames : int
        Number of frames, taken one after the other.
    shutter : {"open", "closed", "as is"}
    channel : str or None
        Preset of Micro-Manager's channel group; None: it does not change.
    axes : tuple of (str, int)
        Axes of its frames beside `time` (the number of the frame), e.g. ``(("z", 3),)``.
    """

    exposure_ms: float
    z_um: float | None = None
    frames: int = 1
    shutter: Shutter = "as is"
    channel: str | None = None
    axes: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True, slots=True)
class MoveLimits:
    """Limits of every move.

    Parameters
    ----------
    low_um, high_um : float
        Range of the focus stage, in its own coordinates.
    longest_exposure_ms : float
    """

    low_um: float = -math.inf
    high_um: float = math.inf
    longest_exposure_ms: float = LONGEST_EXPOSURE_MS


def check_moves(moves: Sequence[Move], limits: MoveLimits) -> None:
    """Refuse a series that exceeds the limits, before any of it is run.

    Raises
    ------
    ConfigError
        If a move exceeds the limits (the message names the first), or there is no move.
    """
    if not moves:
        raise ConfigError("there is nothing to measure: the series has no move")
    if not limits.low_um <= limits.high_um:
        raise ConfigError(
            f"the stage limits {limits.low_um:g} to {limits.high_um:g} um are not a range: give the "
            "lower one first"
        )
    for number, move in enumerate(moves, 1):
        if not 0 < move.exposure_ms <= limits.longest_exposure_ms:
            raise ConfigError(
                f"move {number} exposes for {move.exposure_ms:g} ms; at most "
                f"{limits.longest_exposure_ms:g} ms is allowed: change the exposures or the limit"
            )
        if move.frames < 1:
            raise ConfigError(f"move {number} takes {move.frames} frames; it must take one or more")
        if move.z_um is None:
            continue
        if not (math.isfinite(limits.low_um) and math.isfinite(limits.high_um)):
            raise ConfigError(
                "the series moves the stage, but no limits are set for it: give the lowest and the "
                "highest z that are safe for objective and specimen"
            )
        if not limits.low_um <= move.z_um <= limits.high_um:
            raise ConfigError(
                f"move {number} goes to z = {move.z_um:g} um, outside the limits "
                f"{limits.low_um:g} to {limits.high_um:g} um: nothing was moved"
            )


def check_axes(moves: Sequence[Move]) -> None:
    """Refuse a series in which two frames would have the same axes.

    Raises
    ------
    ConfigError
    """
    keys = [canonical_axes(axes) for move in moves for axes in frame_axes(move)]
    if len(set(keys)) < len(keys):
        raise ConfigError("two moves of the series have the same axes: give them different ones")


def print_moves(moves: Sequence[Move], limits: MoveLimits, *, console: Console) -> None:
    """Print every move and exposure of a series, and the total exposure time."""
    table = Table(title=f"{len(moves)} moves, {sum(move.frames for move in moves)} frames")
    for heading in ("move", "z um", "exposure ms", "frames", "shutter", "channel"):
        table.add_column(heading, justify="left" if heading in ("shutter", "channel") else "right")
    for number, move in enumerate(moves, 1):
        table.add_row(
            str(number),
            "-" if move.z_um is None else f"{move.z_um:.3f}",
            f"{move.exposure_ms:g}",
            str(move.frames),
            move.shutter,
            move.channel or "-",
        )
    console.print(table)
    if any(move.z_um is not None for move in moves):
        console.print(f"stage limits: {limits.low_um:g} to {limits.high_um:g} um")
    console.print(f"longest exposure allowed: {limits.longest_exposure_ms:g} ms")
    total = sum(move.exposure_ms * move.frames for move in moves) / 1000
    console.print(f"exposures add up to {total:.1f} s")


def plane_moves(
    z_um: Sequence[float],
    *,
    exposure_ms: float,
    repeats: int = 1,
    channel: str | None = None,
) -> list[Move]:
    """Moves of a z series in the given order; the axis `z` is the index of the plane in the series.

    A position may occur more than once, as in a series up and down.
    """
    return [
        Move(
            exposure_ms=exposure_ms,
            z_um=float(z),
            frames=repeats,
            channel=channel,
            axes=(("z", index),),
        )
        for index, z in enumerate(z_um)
    ]


def frame_axes(move: Move) -> list[dict[str, AxisValue]]:
    """Axes of each frame of a move."""
    channel = {} if move.channel is None else {"channel": move.channel}
    return [{**dict(move.axes), **channel, "time": frame} for frame in range(move.frames)]

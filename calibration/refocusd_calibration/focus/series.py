"""Through-focus series: which frames of recordings are which plane of which sweep.

A *sweep* is a run of planes in one direction of the stage.  Recordings are taken apart
at each turn of the stage, so one that goes up, down and up again gives three; frames
taken one after the other at one stage position are one plane.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from refocusd.errors import InputError
from refocusd.formats.dataset import Dataset
from refocusd.formats.open_dataset import open_dataset
from refocusd.frame import Axes, Pixels
from refocusd_calibration.focus.peak import MIN_PLANES

__all__ = ["FocusSeries", "Plane", "Sweep", "open_series", "series_of_stack"]

#: Stage positions nearer than this are one, um: encoders count finer, stages do not go.
SAME_UM = 1e-4
_INTENDED = "ZPosition_um_Intended"
#: Where Micro-Manager's GUI says it; `Z-Position` is stale there, and not asked.
_MEASURED = "ZPositionUm"


@dataclass(frozen=True, slots=True)
class Plane:
    """The frames taken at one stage position, one after the other.

    Parameters
    ----------
    z_um : float
    reads : tuple of callable
        Each returns the pixels of one frame.
    time_s : float or None
        When the first was taken, on the series' clock.
    name : str
        For messages.
    """

    z_um: float
    reads: tuple[Callable[[], Pixels], ...]
    time_s: float | None
    name: str


@dataclass(frozen=True, slots=True)
class Sweep:
    """Planes in the order taken.

    Parameters
    ----------
    direction : int
        1 from below, -1 from above, 0 where the planes were taken in no order.
    planes : tuple of Plane
    """

    direction: int
    planes: tuple[Plane, ...]

    @property
    def z_um(self) -> NDArray[np.float64]:
        """Stage positions, shape (planes,)."""
        return np.array([plane.z_um for plane in self.planes])


@dataclass(frozen=True, slots=True)
class FocusSeries:
    """All sweeps of one field.

    Parameters
    ----------
    sweeps : tuple of Sweep
    shape : (int, int)
        Height and width of every frame, px.
    pixel_um : float or None
        As recorded.
    metadata : mapping
        Of the first frame.
    channel : str
        Of the frames, by their axes; "" if they do not say.
    notes : tuple of str
        What was left out, and why.
    """

    sweeps: tuple[Sweep, ...]
    shape: tuple[int, int]
    pixel_um: float | None
    metadata: Mapping[str, Any]
    channel: str = ""
    notes: tuple[str, ...] = ()


def series_of_stack(
    stack: NDArray[np.uint8] | NDArray[np.uint16],
    z_um: ArrayLike,
    *,
    time_s: ArrayLike | None = None,
    pixel_um: float | None = None,
) -> FocusSeries:
    """Sweeps of planes in memory.

    Parameters
    ----------
    stack : ndarray of uint8 or uint16, shape (planes, height, width)
        In the order taken.
    z_um, time_s : array_like of float, shape (planes,)

    Raises
    ------
    InputError
        As `open_series`.
    """
    z = np.asarray(z_um, dtype=np.float64)
    times = None if time_s is None else np.asarray(time_s, dtype=np.float64)
    if len(z) != len(stack):
        raise InputError(f"{len(stack)} planes and {len(z)} stage positions: give one for each")
    planes = [
        Plane(
            float(z[index]),
            (partial(_item, stack, index),),
            None if times is None else float(times[index]),
            f"plane {index}",
        )
        for index in range(len(stack))
    ]
    sweeps, notes = _sweeps(_merged(planes))
    return _checked(FocusSeries(sweeps, stack.shape[1:], pixel_um, {}, notes=notes), "the stack")


@contextmanager
def open_series(
    paths: Sequence[str | Path],
    *,
    z_step_um: float | None = None,
    channel: str | None = None,
    position: int | str | None = None,
) -> Iterator[FocusSeries]:
    """Sweeps of one or several recordings of one field; files stay open meanwhile.

    Parameters
    ----------
    paths : sequence of str or Path
        Recordings, in the order taken.
    z_step_um : float, optional
        Between neighbouring planes, for recordings that do not say where the stage
        was; where given, it is used instead of what they say.
    channel, position : optional
        Which, where a recording has several.

    Raises
    ------
    InputError
        If a recording cannot be read, has several channels or positions and none was
        chosen, does not say its stage positions, or has too few planes.
    """
    if z_step_um is not None and not (math.isfinite(z_step_um) and z_step_um != 0):
        raise InputError(f"a z step of {z_step_um} um is none: give the distance of two planes")
    with ExitStack() as stack:
        recordings = [stack.enter_context(open_dataset(path)) for path in paths]
        if not recordings:
            raise InputError("no recording to measure focus from: give one or more")
        taken = [_taken(item, z_step_um, channel, position) for item in recordings]
        shapes = {(item.plan().format.height, item.plan().format.width) for item in recordings}
        if len(shapes) > 1:
            raise InputError(
                f"the recordings have frames of different sizes ({sorted(shapes)}): give series of "
                "one field with one camera setting"
            )
        sweeps: list[Sweep] = []
        notes: list[str] = []
        # Each recording has its own zero of time, unless its frames name the hour.
        common = len(taken) == 1 or all(item.absolute for item in taken)
        if not common:
            notes.append("the recordings have no common clock: drift is not measured")
        for item in taken:
            planes = item.planes
            if not common:
                planes = [Plane(p.z_um, p.reads, None, p.name) for p in planes]
            found, remarks = _sweeps(_merged(planes))
            sweeps.extend(found)
            notes.extend(remarks)
        first = recordings[0].plan()
        yield _checked(
            FocusSeries(
                tuple(sweeps),
                (first.format.height, first.format.width),
                next((um for r in recordings if (um := r.plan().pixel_um)), None),
                taken[0].metadata,
                taken[0].channel,
                tuple(notes),
            ),
            ", ".join(str(path) for path in paths),
        )


@dataclass(frozen=True, slots=True)
class _Taken:
    planes: list[Plane]
    absolute: bool
    metadata: Mapping[str, Any]
    channel: str


def _taken(
    recording: Dataset,
    z_step_um: float | None,
    channel: str | None,
    position: int | str | None,
) -> _Taken:
    """One recording's frames of the field chosen, in the order taken."""
    plan = recording.plan()
    indices = list(range(len(plan)))
    chosen: tuple[tuple[str, str | int | None], ...] = (
        ("channel", channel),
        ("position", position),
    )
    for axis, value in chosen:
        values = list(dict.fromkeys(plan.axes[i].get(axis) for i in indices))
        # A recording of one channel need not name it.
        if value is not None and (axis != "channel" or values != [None]):
            indices = [i for i in indices if str(plan.axes[i].get(axis)) == str(value)]
            if not indices:
                raise InputError(
                    f"{recording.path} has no {axis} {value!r}: it has "
                    f"{', '.join(str(v) for v in values)}"
                )
        elif len(values) > 1:
            raise InputError(
                f"{recording.path} has several {axis}s ({', '.join(str(v) for v in values)}): choose "
                f"one with --{axis}"
            )
    if len(indices) < MIN_PLANES:
        raise InputError(
            f"{recording.path} has {len(indices)} frames of this field; {MIN_PLANES} planes are the "
            "fewest that show a focus: record a series through it"
        )
    metadata = recording.metadata(plan.axes[indices[0]])
    said: list[float | None] = []
    clock: list[float | None] = []
    for index in indices:
        more = recording.metadata(plan.axes[index])
        said.append(_number(more.get(_INTENDED), more.get(_MEASURED)))
        clock.append(_hour(more.get("TimeReceivedByCore")))
    axes = [plan.axes[index] for index in indices]
    z = _positions(recording, axes, said, z_step_um)
    absolute = all(hour is not None for hour in clock)
    times = (
        clock
        if absolute
        else [None if ms is None else ms / 1000 for ms in (plan.elapsed_ms[i] for i in indices)]
    )
    return _Taken(
        [
            Plane(place, (partial(_pixels, recording, plan.axes[index]),), time, f"frame {index}")
            for index, place, time in zip(indices, z, times, strict=True)
        ],
        absolute,
        metadata,
        str(axes[0].get("channel", "")),
    )


def _positions(
    recording: Dataset,
    axes: Sequence[Mapping[str, Any]],
    said: Sequence[float | None],
    z_step_um: float | None,
) -> list[float]:
    """Stage position of each frame, um."""
    known = [value for value in said if value is not None]
    if z_step_um is None and len(known) == len(said):
        if float(np.ptp(known)) < SAME_UM:
            raise InputError(
                f"{recording.path} was taken at one stage position, z = {known[0]:g} um, by its "
                "metadata: record a series through focus; or, if the stage did move, say by how "
                "much from plane to plane with --z-step"
            )
        return known
    step = z_step_um if z_step_um is not None else _step_of(recording.summary)
    if step is None:
        raise InputError(
            f"{recording.path} does not say where the stage was: give the distance between two "
            "planes in um with --z-step"
        )
    indices = [frame.get("z") for frame in axes]
    if not all(isinstance(index, int) for index in indices) or len(set(indices)) < MIN_PLANES:
        raise InputError(
            f"{recording.path} has no z axis with at least {MIN_PLANES} planes: give a recording "
            "whose planes are numbered"
        )
    return [float(index) * step for index in indices if index is not None]


def _step_of(summary: Mapping[str, Any]) -> float | None:
    """The z step that Micro-Manager or ImageJ wrote into the summary, um."""
    step = _number(summary.get("z-step_um"))
    if step:
        return step
    text = summary.get("ImageJ")
    if not isinstance(text, str) or not re.search(r"^unit=(micron|um|µm|\\u00B5m)", text, re.M):
        return None
    found = re.search(r"^spacing=([0-9.eE+-]+)", text, re.M)
    return (_number(found.group(1)) or None) if found else None


def _merged(planes: Sequence[Plane]) -> list[Plane]:
    """Planes, where frames that follow each other at one stage position are one."""
    merged: list[Plane] = []
    for plane in planes:
        if merged and abs(merged[-1].z_um - plane.z_um) < SAME_UM:
            last = merged[-1]
            merged[-1] = Plane(last.z_um, last.reads + plane.reads, last.time_s, last.name)
        else:
            merged.append(plane)
    return merged


def _sweeps(planes: Sequence[Plane]) -> tuple[tuple[Sweep, ...], tuple[str, ...]]:
    """Runs in one direction; runs too short to show a focus are left out and named."""
    runs: list[Sweep] = []
    start = 0
    while start < len(planes):
        end = start + 1
        direction = 0
        while end < len(planes):
            step = 1 if planes[end].z_um > planes[end - 1].z_um else -1
            if direction and step != direction:
                break
            direction = step
            end += 1
        runs.append(Sweep(direction, tuple(planes[start:end])))
        start = end
    whole = [run for run in runs if len(run.planes) >= MIN_PLANES]
    if not whole:
        distinct = {round(plane.z_um / SAME_UM) for plane in planes}
        if len(distinct) < MIN_PLANES:
            return (), ()
        # In no order: neither from below nor from above.
        ordered = _merged(sorted(planes, key=lambda plane: plane.z_um))
        return (Sweep(0, tuple(ordered)),), ()
    left = sum(len(run.planes) for run in runs) - sum(len(run.planes) for run in whole)
    notes = (f"{left} planes of runs shorter than {MIN_PLANES} were left out",) if left else ()
    return tuple(whole), notes


def _checked(series: FocusSeries, what: str) -> FocusSeries:
    if not series.sweeps:
        raise InputError(
            f"{what}: fewer than {MIN_PLANES} stage positions in a row; record at least "
            f"{MIN_PLANES}, better 20, planes through focus"
        )
    return series


def _item(stack: NDArray[Any], index: int) -> Pixels:
    return np.ascontiguousarray(stack[index])


def _pixels(recording: Dataset, axes: Axes) -> Pixels:
    return recording.read(axes).pixels


def _number(*values: Any) -> float | None:
    """The first of the values that is a finite number."""
    for value in values:
        if isinstance(value, bool) or not isinstance(value, (int, float, str)):
            continue
        try:
            number = float(value)
        except ValueError:
            continue
        if math.isfinite(number):
            return number
    return None


def _hour(value: Any) -> float | None:
    """Seconds of a time that Micro-Manager wrote, e.g. ``2025-03-04 15:06:07.089``."""
    try:
        return datetime.fromisoformat(value).timestamp() if isinstance(value, str) else None
    except ValueError:
        return None

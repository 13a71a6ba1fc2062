"""A drifting time-lapse that retakes only untrusted frames: ``python -m refocusd.demo.retake FOLDER``.

The focus drifts from one time point to the next.  Each time point is one acquisition.  Frames that the
daemon does not trust are taken again on both sides of the plane, at the distance that follows from
their blur, and the stage moves to the sharper side.  `refocusd run` must be running.
"""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import refocusd
from refocusd.datasets.judged import JudgedFrame
from refocusd.demo.microscope import DemoMicroscope
from refocusd.demo.specimen import FocalPlane
from refocusd.demo.specimen_camera import CHANNEL_GROUP
from refocusd.formats.open_dataset import open_dataset
from refocusd.frame import canonical_axes, counted
from refocusd.imaging.quality import focus_score

#: Positions of one time point, um along the slide, and how far the focus drifts between time points.
POSITIONS_UM = (0.0, 90.0, 180.0, 270.0)
DRIFT_UM = 20.0
#: Distance to try where the blur is not known, um.
UNKNOWN_UM = 10.0


@dataclass(slots=True)
class Exposures:
    """Number of exposures of a time-lapse.

    Parameters
    ----------
    planned, retaken : int
        Exposures of the time-lapse itself, and of the frames that were taken again.
    stage_um : list of float
        Stage position at the end of each time point.
    """

    planned: int
    retaken: int
    stage_um: list[float]

    @property
    def saved(self) -> int:
        """Exposures saved, compared with taking every frame on both sides as well."""
        return 2 * self.planned - self.retaken


def time_lapse(
    microscope: DemoMicroscope,
    folder: Path,
    times: int,
    endpoint: str | None = None,
) -> Exposures:
    """Take a time-lapse whose focus drifts, and take again the frames that were not trusted.

    Parameters
    ----------
    microscope : DemoMicroscope
    folder : Path
        Folder for the acquisitions.
    times : int
        Number of time points.
    endpoint : str, optional
        Address of the daemon.
    """
    cost = Exposures(times * len(POSITIONS_UM), 0, [])
    stage_um = microscope.specimen.focus.at()
    for time in range(times):
        microscope.specimen.focus = FocalPlane(DRIFT_UM * time)
        planned = [
            _event(time, position, x_um, stage_um) for position, x_um in enumerate(POSITIONS_UM)
        ]
        untrusted, _ = _taken(planned, folder, f"time_{time}", endpoint)
        if untrusted:
            again = [
                _sides(microscope, planned[int(frame.axes["position"])], frame)
                for frame in untrusted
            ]
            events = [event for sides in again for event in sides]
            _, raw = _taken(events, folder, f"time_{time}_again", endpoint)
            cost.retaken += len(events)
            stage_um = _sharpest_um(raw, again[0])
        cost.stage_um.append(stage_um)
    return cost


def _event(time: int, position: int, x_um: float, z_um: float) -> dict[str, Any]:
    axes = {"time": time, "position": position, "z": 0}
    return {"axes": axes, "x": x_um, "y": 0.0, "z": z_um, "config_group": [CHANNEL_GROUP, "DAPI"]}


def _taken(
    events: list[dict[str, Any]], folder: Path, name: str, endpoint: str | None
) -> tuple[list[JudgedFrame], Path]:
    """Acquire events; return the frames that were not trusted, and the raw dataset."""
    from pycromanager import Acquisition

    source = refocusd.Source(endpoint, expected=len(events))
    hooks = source.hooks(directory=str(folder), name=name, show_display=False)
    with Acquisition(**hooks) as acquisition:
        acquisition.acquire(events)
        raw = Path(acquisition.get_dataset().path)
    source.wait(timeout_s=120)
    return source.untrusted(doubtful=True), raw


def _sides(
    microscope: DemoMicroscope, event: dict[str, Any], frame: JudgedFrame
) -> list[dict[str, Any]]:
    """Events below and above a frame, at the distance from its blur σ: of a disc of radius 2 σ."""
    optics = microscope.specimen.optics("DAPI")
    away_um = UNKNOWN_UM
    if frame.blur_px:
        away_um = 2 * frame.blur_px * optics.pixel_um / math.tan(math.asin(optics.na))
    return [
        {**event, "z": event["z"] + side * away_um, "axes": {**event["axes"], "z": at}}
        for at, side in enumerate((-1, 1))
    ]


def _sharpest_um(raw: Path, sides: list[dict[str, Any]]) -> float:
    """Stage position of the sharper side."""
    with open_dataset(raw) as dataset:
        found = {
            canonical_axes({n: v for n, v in dataset.read(key).axes.items() if n != "channel"}): (
                focus_score(dataset.read(key).pixels)
            )
            for key in dataset.axes_keys()
        }
    return float(max(sides, key=lambda side: found[canonical_axes(side["axes"])])["z"])


def main() -> None:
    """Take the time-lapse with the demo's microscope."""
    folder = Path(sys.argv[1])
    with DemoMicroscope() as microscope:
        cost = time_lapse(microscope, folder, times=6)
    sys.stdout.write(
        f"{counted(cost.planned)}, {counted(cost.retaken, 'exposure')} to take some again; "
        f"{counted(cost.saved, 'exposure')} saved against taking both sides of every frame\n"
    )


if __name__ == "__main__":
    main()

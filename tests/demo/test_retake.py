"""A drifting time-lapse retakes only frames that were not trusted, on a real MMCore."""

from __future__ import annotations

from pathlib import Path

from live import quick_settings

from refocusd.daemon.daemon import Daemon
from refocusd.demo.microscope import DemoMicroscope
from refocusd.demo.retake import DRIFT_UM, POSITIONS_UM, time_lapse
from refocusd.demo.specimen import FocalPlane


def test_only_what_is_not_trusted_is_taken_again_and_the_stage_follows_the_drift(
    tmp_path: Path, demo_microscope: DemoMicroscope
) -> None:
    demo_microscope.specimen.focus = FocalPlane()
    settings = quick_settings(tmp_path, backend="deconvolution", threads=1)
    with Daemon(settings) as daemon:
        daemon.wait_ready()
        cost = time_lapse(demo_microscope, tmp_path / "data", 4, daemon.endpoint)
    assert cost.planned == 4 * len(POSITIONS_UM)
    # Only the third time point, 40 um away, is retaken, on both sides.
    assert 2 <= cost.retaken <= 2 * len(POSITIONS_UM)
    assert cost.saved == 2 * cost.planned - cost.retaken
    assert cost.stage_um[:2] == [0.0, 0.0]
    assert abs(cost.stage_um[2] - 2 * DRIFT_UM) < 8.0
    assert cost.stage_um[3] == cost.stage_um[2], "20 um from there is refocused, and trusted"

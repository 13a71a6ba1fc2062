"""Those who follow outcomes are told how far from focus each frame was, by its blur."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from live import opened, pump_until, quick_settings, running, source
from waiting import PATIENCE_S

from refocusd.demo.specimen import Specimen
from refocusd.profiles.microscope_metadata import first_of
from refocusd.transport import messages as wire
from refocusd.transport.client import Connection


def outcomes(place: Path, defocus_um: list[float], metadata: dict[str, Any]) -> list[Any]:
    """What is told of frames at these distances from focus, in their order."""
    settings = quick_settings(place, backend="deconvolution", untrusted="mark")
    rng = np.random.default_rng(0)
    with running(settings) as daemon, source(daemon) as connection:
        first = first_of(metadata, "DAPI")
        upload = opened(connection, place / "output", side=256, first=first)
        for number, away_um in enumerate(defocus_um):
            pixels = Specimen().frame("DAPI", away_um, 10.0, rng)[:256, :256]
            pump_until(upload, lambda: upload.credit)
            axes = f'{{"channel":"DAPI","time":{number}}}'
            upload.submit(np.ascontiguousarray(pixels), axes, json.dumps(metadata), 0)
        upload.close(len(defocus_um))
        pump_until(upload, lambda: upload.closed)
        with Connection(daemon.endpoint, "view", inline=True) as view:
            view.welcome(PATIENCE_S)
            view.send(wire.Follow(0))
            told = view.receive(PATIENCE_S)
    assert isinstance(told, wire.Outcomes)
    return sorted(told.outcomes, key=lambda outcome: json.loads(outcome.axes)["time"])


def test_the_distance_is_that_of_the_stage_without_its_side(tmp_path: Path) -> None:
    away_um = [10.0, -20.0]
    told = outcomes(tmp_path, away_um, {"PixelSizeUm": 0.645, "NumericalAperture": 0.45})
    found = [outcome.defocus_um for outcome in told]
    assert found == sorted(found)
    for outcome, um in zip(told, away_um, strict=True):
        assert 0 < outcome.defocus_uncertainty_um < abs(um)
        assert outcome.defocus_um == pytest.approx(abs(um), abs=3 * outcome.defocus_uncertainty_um)


def test_without_an_aperture_no_distance_is_claimed(tmp_path: Path) -> None:
    (told,) = outcomes(tmp_path, [16.0], {"PixelSizeUm": 0.645})
    assert told.blur_px
    assert told.defocus_um is None

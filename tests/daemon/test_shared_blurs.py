"""The blur that the positions of an acquisition share."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from live import opened, pump_until, quick_settings, read_all, running, source

from refocusd.daemon.acquisitions.blur.shared import (
    LEAST_MEASURED,
    MOST_USES,
    SharedBlurs,
    kind_of,
    pooled,
    surer,
)
from refocusd.demo.specimen import Specimen
from refocusd.frame import canonical_axes
from refocusd.transport.messages import KnownBlur


def at(position: int, channel: str = "DAPI") -> str:
    return canonical_axes({"channel": channel, "position": position, "time": 0})


def measured(*widths_px: float) -> SharedBlurs:
    blurs = SharedBlurs()
    for position, width in enumerate(widths_px):
        blurs.add("a", at(position), width)
    return blurs


def test_positions_in_one_channel_and_plane_are_of_one_kind() -> None:
    assert kind_of(at(0)) == kind_of(at(7)) != kind_of(at(0, "GFP"))
    assert kind_of('{"column":1,"row":2,"z":3}') == kind_of('{"z":3}') != kind_of('{"z":4}')


def test_a_few_positions_tell_the_blur_of_the_next_ones() -> None:
    assert measured(*[6.0] * (LEAST_MEASURED - 1)).of("a", at(9)) is None
    blurs = measured(5.8, 6.0, 6.2)
    found = blurs.of("a", at(9))
    assert found is not None
    assert found.sigma_px == pytest.approx(6.0)
    assert blurs.of("a", at(9, "GFP")) is None
    assert blurs.of("b", at(9)) is None
    blurs.end("a")
    assert blurs.of("a", at(9)) is None


def test_the_blur_is_measured_again_now_and_then() -> None:
    blurs = measured(6.0, 6.0, 6.0)
    told = [blurs.of("a", at(9)) for _ in range(MOST_USES + 2)]
    assert told[MOST_USES - 1] is not None
    assert told[MOST_USES:] == [None, None]
    blurs.add("a", at(10), 7.0)
    assert blurs.of("a", at(11)) is not None


def test_frames_that_are_nearly_in_focus_are_measured_each() -> None:
    assert measured(1.3, 1.3, 1.4).of("a", at(9)) is None


def test_the_blur_is_uncertain_where_positions_differ_in_focus() -> None:
    alike, unlike = pooled([5.9, 6.0, 6.1]), pooled([3.0, 6.0, 12.0])
    assert alike is not None
    assert unlike is not None
    assert alike.uncertainty == 0.08
    assert unlike.uncertainty > math.log(2)


def test_a_measured_form_is_worth_more_than_a_width_that_is_more_certain() -> None:
    shared = KnownBlur(6.0, 0.08, "memory")
    assert surer(KnownBlur(7.0, 0.2, "nominal"), shared) == shared
    assert surer(None, shared) == shared
    profile = KnownBlur(7.0, 0.1, "profile", [1.0, 0.5])
    assert surer(profile, shared) == profile
    assert surer(profile, None) == profile


def test_a_scan_of_positions_measures_the_blur_in_a_few_of_them(tmp_path: Path) -> None:
    settings = quick_settings(tmp_path, backend="deconvolution", untrusted="mark")
    rng = np.random.default_rng(0)
    with running(settings) as daemon, source(daemon) as connection:
        upload = opened(connection, tmp_path / "scan", side=256)
        for position in range(6):
            pixels = np.ascontiguousarray(Specimen().frame("DAPI", 16.0, 10.0, rng)[:256, :256])
            pump_until(upload, lambda: upload.credit)
            upload.submit(pixels, at(position), "{}", 0)
            pump_until(upload, lambda: not upload.in_flight)
        upload.close(6)
        pump_until(upload, lambda: upload.closed)
    facts = [said["refocusd"] for _, (_, said) in sorted(read_all(tmp_path / "scan").items())]
    assert [one["blur_source"] for one in facts] == ["frame"] * 3 + ["memory"] * 3
    assert facts[-1]["blur_uncertainty"] < facts[0]["blur_uncertainty"]

"""Peaks between planes, corrected metrics, behaviour of the stage, the focal surface."""

from __future__ import annotations

import numpy as np
import pytest
from refocusd_calibration.focus.choose_metric import MetricFigures, choose_metric, judge_metric
from refocusd_calibration.focus.metrics import (
    METRICS,
    Grid,
    find_hot_pixels,
    measure_frame,
)
from refocusd_calibration.focus.peak import count_peaks, fit_peak, noise_of
from refocusd_calibration.focus.stage_motion import Passage, fit_motion
from refocusd_calibration.focus.surface import fit_surface
from simulated_focus import FocusScene

from refocusd.errors import InputError
from refocusd.frame import Pixels
from refocusd.imaging.optics import Optics
from refocusd.profiles.hot_pixels import HotPixels

pytestmark = pytest.mark.fast

TWENTY = Optics(0.45, 0.52)


@pytest.mark.parametrize(
    "shape",
    [
        lambda u: np.exp(-(u**2)),
        lambda u: 1 / (1 + u**2),
        lambda u: np.maximum(1 - u**2 / 4, 0),
        lambda u: 1 / (1 + u**2) ** 2,
    ],
    ids=["gaussian", "lorentzian", "parabola", "squared lorentzian"],
)
@pytest.mark.parametrize("focus_um", [-0.43, 0.0, 0.26])
def test_a_peak_of_any_shape_is_found_between_planes(shape: object, focus_um: float) -> None:
    assert callable(shape)
    z = np.arange(-8.0, 8.1, 0.8)
    peak = fit_peak(z, 5 + 3 * shape((z - focus_um) / 2.1))
    assert peak is not None
    # Within a hundredth of the half-width.
    assert peak.z_um == pytest.approx(focus_um, abs=0.02)
    assert peak.height + peak.base == pytest.approx(8, rel=0.03)


def test_a_depth_is_where_a_fifth_of_the_height_is_lost() -> None:
    z = np.linspace(-10, 10, 41)
    peak = fit_peak(z, np.exp(-(z**2) / 8))
    assert peak is not None
    assert peak.half_depth_um == pytest.approx(np.sqrt(8 * np.log(1.25)), rel=0.02)


def test_a_curve_without_a_maximum_has_no_peak() -> None:
    z = np.arange(12.0)
    assert fit_peak(z, np.exp(z / 3)) is None
    assert fit_peak(z, np.ones(12)) is None


def test_the_uncertainty_of_a_peak_covers_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(3)
    z = np.arange(-8.0, 8.1, 0.8)
    pulls = []
    for _ in range(300):
        focus = rng.uniform(-0.4, 0.4)
        y = np.exp(-((z - focus) ** 2) / 8) + 0.02 * rng.standard_normal(len(z))
        peak = fit_peak(z, y)
        assert peak is not None
        pulls.append((peak.z_um - focus) / np.hypot(peak.uncertainty_um, peak.model_um))
    within = np.abs(pulls)
    assert 0.62 <= np.mean(within < 1) <= 0.90
    assert np.mean(within < 2) >= 0.90


def test_peaks_are_counted_with_those_at_the_ends() -> None:
    z = np.linspace(-6, 6, 25)
    one, two = np.exp(-(z**2)), np.exp(-((z + 3) ** 2)) + 0.7 * np.exp(-((z - 3) ** 2))
    assert count_peaks(one, noise_of(one)) == 1
    assert count_peaks(two, noise_of(two)) == 2
    assert count_peaks(one + 0.8 * np.exp(z - 6), 0.0) == 2
    assert count_peaks(np.ones(9), 0.0) == 0


def test_noise_is_distinguished_from_the_curve_under_it() -> None:
    rng = np.random.default_rng(0)
    z = np.linspace(-10, 10, 81)
    assert noise_of(np.exp(-(z**2) / 18) + 0.01 * rng.standard_normal(81)) == pytest.approx(
        0.01, rel=0.4
    )


def test_every_metric_is_larger_in_focus_and_offset_and_gain_do_not_matter() -> None:
    scene = FocusScene(TWENTY, (128, 128), light=2000, offset=0, read_noise=0, gain=20)
    sharp, blurred = scene.stack([0.0, 12.0])
    grid = Grid.over(sharp.shape)
    for metric in METRICS:
        values = [measure_frame(frame, grid, 0)[0][metric].mean() for frame in (sharp, blurred)]
        assert values[0] > values[1], metric
        other = (3 * sharp.astype(np.int64) + 500).astype(np.uint16)
        assert measure_frame(other, grid, 500)[0][metric].mean() == pytest.approx(
            values[0], rel=1e-3
        ), metric


def test_hot_pixels_are_found_by_their_sameness_and_mended() -> None:
    clean = FocusScene(TWENTY, (128, 128), light=500)
    hot = FocusScene(TWENTY, (128, 128), light=500, hot_share=2e-3)
    z = np.linspace(-8, 8, 5)
    stack = hot.stack(z)
    found = find_hot_pixels(list(stack))
    assert not find_hot_pixels(list(clean.stack(z))).any()
    strong = (stack.astype(float) - clean.stack(z)).min(axis=0) > 250
    assert strong.sum() > 5
    assert found[strong].mean() > 0.9
    mended = HotPixels(np.flatnonzero(found).tolist(), found.shape).repaired(stack[0])
    assert np.abs(mended.astype(float) - clean.stack(z)[0])[strong & found].max() < 200


def test_tiles_cover_a_frame_and_know_where_they_are() -> None:
    grid = Grid.over((520, 696))
    assert (grid.rows, grid.columns) == (5, 8)
    assert grid.centres_px().mean(axis=0) == pytest.approx((0, 0), abs=1)
    assert grid.centres_px()[0] == pytest.approx((-304.5, -208), abs=1)
    with pytest.raises(InputError, match="too small"):
        Grid.over((20, 200))


def test_the_metric_that_decides_has_one_peak_and_little_uncertainty() -> None:
    def figures(metric: str, peaks: int, uncertainty_um: float) -> MetricFigures:
        return MetricFigures(metric, peaks, True, 50.0, 2.0, uncertainty_um)

    two = figures("tenengrad", 2, 0.001)
    broad = figures("focus_score", 1, 0.1)
    sharp = figures("dct_entropy", 1, 0.02)
    assert choose_metric([two, broad, sharp]) is sharp
    # If they are nearly equal, the order of preference decides, not chance.
    assert choose_metric([two, figures("focus_score", 1, 0.03), sharp]).metric == "focus_score"
    assert choose_metric([two]) is two


def test_a_metric_is_judged_by_its_worst_sweep() -> None:
    z = np.linspace(-6, 6, 25)
    good, bad = np.exp(-(z**2) / 4), np.exp(z / 3)
    assert judge_metric("brenner", [(z, good)]).fit_to_decide
    assert not judge_metric("brenner", [(z, good), (z, bad)]).fit_to_decide


def passages(places: list[tuple[int, float, float | None]]) -> list[Passage]:
    return [Passage(direction, z, 0.01, time) for direction, z, time in places]


def test_backlash_drift_and_repeatability_are_distinguished() -> None:
    rng = np.random.default_rng(1)
    truth = [
        (1 if i % 2 == 0 else -1, 5 + 0.15 * (1 if i % 2 == 0 else -1) + 0.2 * i, 60.0 * i)
        for i in range(8)
    ]
    motion = fit_motion(
        [Passage(d, z + 0.01 * rng.standard_normal(), 0.01, t) for d, z, t in truth]
    )
    assert motion.backlash_um is not None
    assert motion.backlash_um.value == pytest.approx(0.3, abs=3 * motion.backlash_um.uncertainty)
    assert motion.backlash_um.uncertainty < 0.03
    assert motion.drift_um_per_min is not None
    assert motion.drift_um_per_min.value == pytest.approx(0.2, abs=0.01)
    assert motion.repeatability_um is not None
    assert 0.003 < motion.repeatability_um.value < 0.02
    assert motion.centre_um == pytest.approx(5.7, abs=0.03)


def test_one_pair_of_sweeps_gives_backlash_only_and_says_so() -> None:
    motion = fit_motion(passages([(1, 5.2, 0.0), (-1, 5.0, 60.0)]))
    assert motion.backlash_um is not None
    assert motion.backlash_um.value == pytest.approx(0.2)
    assert motion.drift_um_per_min is None
    assert any("apart" in note for note in motion.notes)


def test_one_sweep_says_nothing_of_the_stage() -> None:
    motion = fit_motion(passages([(1, 5.2, None)]))
    assert (motion.backlash_um, motion.drift_um_per_min, motion.repeatability_um) == (None,) * 3


@pytest.mark.parametrize(
    ("tilt", "curvature", "kind"),
    [(0, 0, "flat"), (0.002, 0, "plane"), (0.002, 4e-5, "paraboloid")],
)
def test_a_focal_surface_is_recovered_despite_outliers(
    tilt: float, curvature: float, kind: str
) -> None:
    rng = np.random.default_rng(2)
    x, y = (
        side.ravel() for side in np.meshgrid(np.linspace(-150, 150, 8), np.linspace(-110, 110, 6))
    )
    z = 3 + tilt * x - tilt / 2 * y + curvature * (x**2 + y**2) + 0.02 * rng.standard_normal(len(x))
    z[::11] += 2.0
    surface = fit_surface(x, y, z, np.full(len(x), 0.02))
    assert surface is not None
    assert surface.kind == kind
    assert not surface.used[::11].any()
    for value, sigma, true in zip(
        surface.coefficients, surface.uncertainties, (3, tilt, -tilt / 2, curvature), strict=False
    ):
        assert value == pytest.approx(true, abs=4 * sigma)
    assert surface.curvature is not None
    assert surface.curvature[0] == pytest.approx(curvature, abs=4 * surface.curvature[1])
    assert surface.centre_um == pytest.approx(3, abs=0.03)


def test_a_row_of_tiles_or_a_few_give_no_surface() -> None:
    ones = np.ones(8)
    assert fit_surface(np.arange(8.0), 0 * ones, ones, ones) is None
    assert fit_surface(np.arange(4.0), np.arange(4.0) ** 2, ones[:4], ones[:4]) is None


def test_a_dark_frame_has_finite_metrics() -> None:
    frame: Pixels = np.full((64, 64), 7, np.uint8)
    values, light = measure_frame(frame, Grid.over((64, 64)), 7)
    assert light == 0
    assert all(np.isfinite(values[name]).all() for name in METRICS)

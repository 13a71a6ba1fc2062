"""Through-focus measurements: recovery of the truth, real stacks, bad input refused or flagged."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import tifffile
import zarr
from numpy.typing import ArrayLike, NDArray
from plates_on_disk import write_image
from recordings_on_disk import write_ndtiff
from refocusd_calibration.focus.measure import FocusMeasurement, measure_focus
from refocusd_calibration.stage.z_sweeps import open_series
from simulated_focus import FocusScene, depth_of_field_um, series_of_stack

from benchmarks.quality.focus_curve import FocusCurve
from refocusd.errors import InputError
from refocusd.imaging.optics import Optics
from refocusd.profiles.profile import FocusSection, Measured

TWENTY = Optics(0.45, 0.52)
DEPTH = depth_of_field_um(TWENTY)
#: Planes through focus, in depths of field.
PLANES = np.arange(-9, 10) * 0.4


def measured(
    stack: NDArray[np.uint16], z_um: ArrayLike, pixel_um: float = 0.645
) -> FocusMeasurement:
    return measure_focus(series_of_stack(stack, z_um), pixel_um=pixel_um)


def failed(measurement: FocusMeasurement) -> set[str]:
    return {check.name for check in measurement.checks if not check.passed}


@pytest.mark.parametrize("na", [0.25, 0.45, 0.75, 0.95])
@pytest.mark.parametrize("light", [1000.0, 60.0], ids=["bright", "dim"])
def test_best_focus_lies_within_a_tenth_of_the_depth_of_field(na: float, light: float) -> None:
    optics = Optics(na, 0.52, pixel_um=0.29 / na)
    depth = depth_of_field_um(optics)
    for seed, focus in enumerate((-0.31, 0.17)):
        scene = FocusScene(
            optics, seed=seed, light=light, surface_um=(focus * depth, 0, 0, 0), hot_share=2e-4
        )
        z = PLANES * depth
        result = measured(scene.stack(z, seed), z, optics.pixel_um)
        assert result.passed, failed(result)
        best = result.section.best_um
        assert best.value == pytest.approx(focus * depth, abs=0.1 * depth)
        assert abs(best.value - focus * depth) < 4 * best.uncertainty
        assert best.uncertainty < 0.1 * depth
        # The depth of the metric is of the order of the quarter-wave criterion.
        width = result.section.depth_of_field_um
        assert width is not None
        assert 0.5 < width.value / depth < 2.5


def test_a_tilted_and_curved_field_is_recovered() -> None:
    half = 128 * TWENTY.pixel_um
    c, a, b, q = 0.5, 0.8 * DEPTH / half, -0.4 * DEPTH / half, 1.2e-4
    scene = FocusScene(TWENTY, light=800, surface_um=(c, a, b, q), density=1.2)
    z = np.arange(-12, 13) * 0.4 * DEPTH
    result = measured(scene.stack(z), z)
    section = result.section
    assert result.surface is not None
    assert result.surface.kind == "paraboloid"
    assert section.best_um.value == pytest.approx(c, abs=0.1 * DEPTH)
    assert section.tilt_mrad is not None
    for found, true in zip(section.tilt_mrad, (a, b), strict=True):
        assert found.value == pytest.approx(1e3 * true, rel=0.1, abs=4 * found.uncertainty)
    assert section.curvature_per_m is not None
    assert section.curvature_per_m.value == pytest.approx(2e6 * q, rel=0.15)
    assert len(section.surface_um) == len(section.surface_uncertainty_um) == 4


@pytest.mark.slow
def test_uncertainties_cover_the_truth_as_often_as_they_say() -> None:
    half = 80 * TWENTY.pixel_um
    focus, tilt = [], []
    for seed in range(30):
        rng = np.random.default_rng(seed)
        c = rng.uniform(-0.4, 0.4) * DEPTH
        a = (seed % 2) * 0.5 * DEPTH / half
        scene = FocusScene(
            TWENTY,
            (160, 160),
            seed=seed,
            light=float(rng.choice([60, 200, 800])),
            surface_um=(c, a, 0, 0),
        )
        z = PLANES * DEPTH
        section = measured(scene.stack(z, seed), z).section
        focus.append((section.best_um.value - c) / section.best_um.uncertainty)
        assert section.tilt_mrad is not None
        tilt += [
            (found.value - 1e3 * true) / found.uncertainty
            for found, true in zip(section.tilt_mrad, (a, 0.0), strict=True)
        ]
    for pulls in (np.abs(focus), np.abs(tilt)):
        # 68 % and 95 % are nominal; the limits are two standard errors lower for 30 draws.
        assert np.mean(pulls < 1) >= 0.50
        assert np.mean(pulls < 2) >= 0.86
        # And not because the uncertainties are too large to be of use.
        assert np.mean(pulls < 0.3) <= 0.6


def test_backlash_and_drift_of_a_stage_are_recovered() -> None:
    backlash, drift_um_per_min = 0.5, 0.3
    scene = FocusScene(TWENTY, (160, 160), light=500)
    z: list[float] = []
    direction: list[int] = []
    up = PLANES * DEPTH
    for sweep in range(4):
        part = up if sweep % 2 == 0 else up[::-1]
        z.extend(part if sweep == 0 else part[1:])
        direction.extend([1 if sweep % 2 == 0 else -1] * (len(up) - (sweep > 0)))
    times = np.arange(len(z)) * 2.0
    # Approached from below, the specimen is in focus at a higher reading.
    true = np.array(z) - np.array(direction) * backlash / 2 - drift_um_per_min * times / 60
    result = measure_focus(
        series_of_stack(scene.stack(true.tolist()), z, time_s=times), pixel_um=0.645
    )
    section = result.section
    assert len(section.z_um) == len(z)
    assert section.backlash_um is not None
    assert section.backlash_um.value == pytest.approx(backlash, abs=0.05)
    assert section.drift_um_per_min is not None
    assert section.drift_um_per_min.value == pytest.approx(drift_um_per_min, abs=0.05)
    assert section.repeatability_um is not None
    assert section.repeatability_um.value < 0.05


def test_sweeps_without_backlash_show_none() -> None:
    scene = FocusScene(TWENTY, (160, 160), light=500)
    up = (PLANES * DEPTH).tolist()
    z = [*up, *up[-2::-1], *up[1:]]
    section = measured(scene.stack(z), z).section
    assert section.backlash_um is not None
    assert abs(section.backlash_um.value) < 3 * section.backlash_um.uncertainty + 0.02
    assert section.drift_um_per_min is None


def test_hot_pixels_do_not_hide_the_focus() -> None:
    scene = FocusScene(TWENTY, light=80, hot_share=2e-3, surface_um=(0.4, 0, 0, 0))
    z = PLANES * DEPTH
    result = measured(scene.stack(z), z)
    assert result.section.best_um.value == pytest.approx(0.4, abs=0.1 * DEPTH)
    assert any("hot pixels" in note for note in result.notes)


@pytest.mark.parametrize("middle", [6.0, -6.0])
def test_a_focus_outside_the_range_is_flagged(middle: float) -> None:
    z = PLANES * DEPTH / 2
    scene = FocusScene(TWENTY, (128, 128), surface_um=(middle, 0, 0, 0))
    result = measured(scene.stack(z), z)
    assert "focus inside the range" in failed(result)
    assert result.section.best_um.value == pytest.approx(math.copysign(z[-1], middle), abs=DEPTH)
    check = next(check for check in result.checks if check.name == "focus inside the range")
    assert "move the range" in check.detail


def test_a_stage_that_does_not_move_is_refused() -> None:
    scene = FocusScene(TWENTY, (128, 128))
    z = PLANES * DEPTH
    with pytest.raises(InputError, match="stage did not move"):
        measured(scene.stack([0.0] * len(z)), z)
    with pytest.raises(InputError, match="identical to the one before"):
        measured(np.repeat(scene.stack([0.0]), len(z), axis=0), z)


def test_a_plane_that_the_stage_did_not_reach_is_flagged() -> None:
    scene = FocusScene(TWENTY, (128, 128))
    z = PLANES * DEPTH
    true = z.copy()
    true[8] = z[4]
    result = measured(scene.stack(true), z)
    assert "stage arrived" in failed(result)
    check = next(check for check in result.checks if check.name == "stage arrived")
    assert f"{z[8]:g} um" in check.detail


def test_an_empty_field_is_refused() -> None:
    z = PLANES * DEPTH
    dark = np.random.default_rng(0).poisson(100, (len(z), 128, 128)).astype(np.uint16)
    with pytest.raises(InputError, match="field is empty"):
        measured(dark, z)


def test_a_specimen_that_moves_is_flagged() -> None:
    scene = FocusScene(TWENTY, (192, 192))
    z = PLANES * DEPTH
    stack = scene.stack(z)
    moved = np.stack([np.roll(plane, 2 * index, axis=1) for index, plane in enumerate(stack)])
    assert "specimen still" in failed(measured(moved, z))
    assert "specimen still" not in failed(measured(stack, z))


def test_a_scene_that_changes_is_flagged() -> None:
    z = PLANES * DEPTH
    one, other = FocusScene(TWENTY, (192, 192)), FocusScene(TWENTY, (192, 192), seed=5)
    stack = np.concatenate([one.stack(z[:6]), other.stack(z[6:])])
    assert "specimen still" in failed(measured(stack, z))


def test_bleaching_is_flagged_and_does_not_shift_the_focus() -> None:
    scene = FocusScene(TWENTY, light=1500, haze=0.0, surface_um=(0.3, 0, 0, 0))
    z = PLANES * DEPTH
    fading = np.exp(-np.arange(len(z)) / 25)[:, None, None].astype(np.float32)
    result = measured(scene.expose(scene.expected(z) * fading), z)
    assert failed(result) == {"light steady"}
    assert result.section.best_um.value == pytest.approx(0.3, abs=0.1 * DEPTH)


def test_saturated_planes_and_coarse_steps_are_flagged() -> None:
    z = np.arange(-5, 6) * 4 * DEPTH
    stack = FocusScene(TWENTY, light=60_000, gain=0.1).stack(z)
    assert {"not saturated", "planes close enough"} <= failed(measured(stack, z))


def test_too_few_planes_are_refused(tmp_path: Path) -> None:
    stack = FocusScene(TWENTY, (128, 128)).stack([-1.0, 0.0, 1.0])
    tifffile.imwrite(tmp_path / "stack.tif", stack, photometric="minisblack")
    with (
        pytest.raises(InputError, match="at least 5"),
        open_series([tmp_path / "stack.tif"], z_step_um=1.0),
    ):
        pass


def test_planes_in_no_order_are_put_in_order() -> None:
    scene = FocusScene(TWENTY, (128, 128), surface_um=(0.5, 0, 0, 0))
    z = np.random.default_rng(4).permutation(PLANES * DEPTH)
    series = series_of_stack(scene.stack(z), z)
    assert [sweep.direction for sweep in series.sweeps] == [0]
    assert measure_focus(series, pixel_um=0.645).section.best_um.value == pytest.approx(
        0.5, abs=0.1 * DEPTH
    )


def test_the_mitochondria_are_sharpest_at_plane_18(test_data: Path) -> None:
    with open_series(
        [test_data / "z_stacks/dfnn_mitochondria_stack.tif"], z_step_um=0.05
    ) as series:
        result = measure_focus(series, pixel_um=0.1)
    best = result.section.best_um
    assert best.value / 0.05 == pytest.approx(18, abs=1.5)
    assert abs(best.value - 0.9) < 2 * best.uncertainty
    assert result.passed, failed(result)


def test_phase_contrast_sharpest_at_the_edge_is_flagged(test_data: Path) -> None:
    with open_series([test_data / "z_stacks/isl_phase_contrast_z0-12.tif"], z_step_um=1) as series:
        result = measure_focus(series, pixel_um=0.65)
    assert "focus inside the range" in failed(result)
    assert 9.5 <= result.section.best_um.value <= 12


def test_a_stack_that_does_not_say_its_steps_is_refused(tmp_path: Path) -> None:
    stack = FocusScene(TWENTY, (64, 64)).stack(PLANES)
    path = tmp_path / "stack.tif"
    tifffile.imwrite(path, stack, metadata={"axes": "ZYX"})
    with pytest.raises(InputError, match="--z-step"), open_series([path]):
        pass
    with open_series([path], z_step_um=0.5) as series:
        assert series.sweeps[0].z_um.tolist() == (np.arange(19) * 0.5).tolist()
    imagej = tmp_path / "imagej.tif"
    tifffile.imwrite(
        imagej, stack, imagej=True, metadata={"axes": "ZYX", "spacing": 0.4, "unit": "um"}
    )
    with open_series([imagej]) as series:
        assert series.sweeps[0].z_um[1] == pytest.approx(0.4)


def test_a_series_may_lie_in_an_ome_zarr(tmp_path: Path) -> None:
    path = tmp_path / "series.zarr"
    write_image(path, axes="zyx", levels=1)  # plane distance 2 um
    planes = FocusScene(TWENTY, (64, 64)).stack(PLANES)
    zarr.create_array(path / "0", data=planes, chunks=(1, 64, 64), overwrite=True)
    with open_series([path]) as series:
        np.testing.assert_allclose(series.sweeps[0].z_um, np.arange(19) * 2.0)
        assert series.pixel_um == pytest.approx(0.65)
        of_store = measure_focus(series, pixel_um=0.65)
    of_stack = measured(planes, np.arange(19) * 2.0, 0.65)
    assert of_store.section.best_um == of_stack.section.best_um


def test_a_curve_tells_the_distance_from_focus() -> None:
    scene = FocusScene(TWENTY, light=1000)
    z = PLANES * DEPTH * 1.5
    section = measured(scene.stack(z), z).section
    other = FocusScene(TWENTY, light=1000, seed=7)
    for metric in ("tenengrad", "normalised_variance"):
        curve = FocusCurve.of(section, metric)
        assert curve.ratio[0] == 1
        assert (np.diff(curve.ratio) <= 0).all()
        nowhere = curve.distance_at(1.2)
        assert nowhere is not None
        assert nowhere.value == 0
        assert curve.distance_at(0.0) is None or curve.ratio[-1] == 0
        # Another field of the same specimen, at known distances.
        values = measured(other.stack(z), z).section.curves[metric]
        top = max(values)
        for index in (4, 6, 13):
            found = curve.distance_at(values[index] / top)
            assert found is not None
            assert found.value == pytest.approx(abs(z[index]), abs=max(0.3 * abs(z[index]), 1.0))
            assert curve.ratio_at(found.value) == pytest.approx(values[index] / top, abs=0.05)


def test_a_curve_needs_planes_on_both_sides() -> None:
    section = FocusSection(
        metric="brenner",
        best_um=Measured(value=0.0, uncertainty=1.0),
        z_um=[0.0, 1.0, 2.0, 3.0, 4.0],
        curves={"brenner": [5.0, 4.0, 3.0, 2.0, 1.0]},
    )
    with pytest.raises(InputError, match="both sides"):
        FocusCurve.of(section)
    with pytest.raises(InputError, match="no curve of"):
        FocusCurve.of(section, "tenengrad")


@pytest.mark.parametrize("downwards", [False, True])
def test_a_corrected_z_step_keeps_the_direction_that_the_stage_went(
    tmp_path: Path, downwards: bool
) -> None:
    step = -1.0 if downwards else 1.0
    planes = np.zeros((6, 32, 32), np.uint16)
    said = [
        ({"z": n}, plane, {"ZPosition_um_Intended": 50 + step * n})
        for n, plane in enumerate(planes)
    ]
    path = write_ndtiff(tmp_path / "raw", said, {"PixelSize_um": 0.5})
    with open_series([path], z_step_um=2.0) as series:
        [sweep] = series.sweeps
        assert sweep.direction == step
        assert np.ptp(sweep.z_um) == 10.0
        assert series.counted
    with open_series([path]) as series:
        assert not series.counted

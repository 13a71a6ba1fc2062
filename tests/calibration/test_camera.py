"""A simulated camera is measured, and its parameters are recovered."""

from __future__ import annotations

import tracemalloc
from collections.abc import Sequence
from functools import partial

import numpy as np
import pytest
from refocusd_calibration.camera.measure import CameraMeasurement, measure_camera
from refocusd_calibration.camera.series import Level, Series
from simulated_camera import SimulatedCamera

from refocusd.frame import Pixels
from refocusd.profiles.profile import Measured

DARK_MS = (1.0, 100.0, 400.0)


def brightness(camera: SimulatedCamera, top: float) -> float:
    """Electrons per ms with which the centre reaches `top` of saturation in 100 ms."""
    full = min((camera.full_scale - camera.offset) * camera.gain, camera.full_well_e)
    return top * full / 100


def flat_ms(levels: int) -> list[float]:
    return [100 * number / levels for number in range(1, levels + 1)]


def measured(
    camera: SimulatedCamera,
    *,
    frames: int = 4,
    levels: int = 12,
    top: float = 0.9,
    seed: int = 0,
    dark_ms: Sequence[float] = DARK_MS,
) -> CameraMeasurement:
    dark = camera.series(dark_ms, frames, seed=2 * seed)
    light = brightness(camera, top)
    flat = camera.series(flat_ms(levels), frames, light_e_per_ms=light, seed=2 * seed + 1)
    return measure_camera(dark, flat)


def failed(measurement: CameraMeasurement) -> list[str]:
    return [check.name for check in measurement.checks if not check.passed]


CAMERAS = {
    "12 bit, 1 e- of read noise": SimulatedCamera(gain=0.25, read_noise=1.0, bits=12),
    "12 bit, 10 e- of read noise": SimulatedCamera(gain=2.0, read_noise=10.0, bits=12),
    "16 bit sCMOS": SimulatedCamera(
        gain=0.46,
        read_noise=1.6,
        read_noise_spread=0.4,
        bits=16,
        prnu=0.005,
        dsnu_e=0.5,
        shading=0.3,
    ),
    "16 bit CCD": SimulatedCamera(gain=0.5, read_noise=6.0, bits=16, dark_current=2.0, offset=500),
    "8 bit": SimulatedCamera(gain=40.0, read_noise=25.0, bits=8, offset=10.0),
    "8 bit with hot pixels": SimulatedCamera(
        gain=20.0, read_noise=30.0, bits=8, offset=12.0, hot_fraction=2e-3, prnu=0.01
    ),
}


@pytest.mark.parametrize("camera", CAMERAS.values(), ids=CAMERAS)
def test_gain_and_read_noise_come_back(camera: SimulatedCamera) -> None:
    found = measured(camera, frames=8)
    section = found.section
    assert section.gain_e_per_count.value == pytest.approx(camera.gain, rel=0.02)
    assert section.read_noise_e.value == pytest.approx(camera.read_noise, rel=0.05)
    assert section.offset_counts.value == pytest.approx(camera.offset, abs=0.1)
    assert failed(found) == []


def deviations(values: Sequence[Measured], truths: Sequence[float]) -> list[float]:
    """Errors in units of the stated standard uncertainties."""
    return [
        abs(item.value - truth) / item.uncertainty
        for item, truth in zip(values, truths, strict=True)
    ]


@pytest.mark.parametrize(
    "settings",
    [
        {"gain": 1.0, "read_noise": 3.0, "bits": 12},
        {"gain": 0.46, "read_noise": 1.5, "bits": 16, "full_well_e": 20000.0},
        {"gain": 40.0, "read_noise": 25.0, "bits": 8, "offset": 10.0},
        {
            "gain": 0.8,
            "read_noise": 4.0,
            "bits": 16,
            "prnu": 0.01,
            "shading": 0.3,
            "dark_current": 20.0,
        },
    ],
    ids=["12 bit", "16 bit", "8 bit", "uneven"],
)
def test_the_stated_uncertainty_covers_the_truth_as_often_as_it_claims(
    settings: dict[str, float],
) -> None:
    cameras = [SimulatedCamera(shape=(48, 48), seed=seed, **settings) for seed in range(60)]  # type: ignore[arg-type]
    found = [measured(camera, seed=camera.seed).section for camera in cameras]
    quantities = {
        "gain": deviations([s.gain_e_per_count for s in found], [c.gain for c in cameras]),
        "read noise": deviations([s.read_noise_e for s in found], [c.read_noise for c in cameras]),
        "offset": deviations(
            [s.offset_counts for s in found], [float(c.dark_offset.mean()) for c in cameras]
        ),
        "dark current": deviations(
            [s.dark_current_e_per_s for s in found if s.dark_current_e_per_s],
            [c.dark_current for c in cameras],
        ),
    }
    for name, deviation in quantities.items():
        # 68 % and 95 % are nominal; the limits are binomial bounds of 1 in 1000 for 60 trials.
        within = [float(np.mean(np.array(deviation) < k)) for k in (1, 2)]
        assert 0.48 <= within[0] <= 0.87, f"{name}: {within[0]:.2f} within u"
        assert within[1] >= 0.84, f"{name}: {within[1]:.2f} within 2 u"


@pytest.mark.parametrize("shading", [0.0, 0.4])
def test_the_full_well_is_found_where_pixels_fall_silent(shading: float) -> None:
    camera = SimulatedCamera(
        shape=(96, 96), gain=0.5, read_noise=2.0, bits=16, full_well_e=15000.0, shading=shading
    )
    section = measured(camera, frames=6, top=1.3).section
    assert section.full_well_e is not None
    assert section.full_well_e.value == pytest.approx(15000, rel=0.01)
    assert abs(section.full_well_e.value - 15000) < 4 * section.full_well_e.uncertainty
    assert section.saturation_counts == pytest.approx(30100, rel=0.005)
    assert not all(section.ptc_fitted)


def test_the_full_well_is_found_where_counts_end() -> None:
    camera = SimulatedCamera(gain=1.0, bits=12)
    section = measured(camera, top=1.3).section
    assert section.saturation_counts == 4095
    assert section.full_well_e is not None
    assert section.full_well_e.value == pytest.approx(3995, rel=0.02)


def test_a_series_that_is_never_saturated_states_no_full_well() -> None:
    section = measured(SimulatedCamera(bits=12), top=0.6).section
    assert section.full_well_e is None
    assert section.saturation_counts == 4095


def test_dark_current_linearity_and_fixed_patterns_come_back() -> None:
    camera = SimulatedCamera(
        shape=(128, 128),
        gain=0.5,
        bits=16,
        full_well_e=30000,
        dark_current=20.0,
        prnu=0.01,
        dsnu_e=2.0,
        shading=0.3,
    )
    section = measured(camera, frames=8).section
    assert section.dark_current_e_per_s is not None
    assert section.dark_current_e_per_s.value == pytest.approx(20, rel=0.05)
    assert section.prnu_percent == pytest.approx(1.0, rel=0.1)
    assert section.dsnu_e == pytest.approx(2.0, rel=0.1)
    assert section.linearity_error_percent is not None
    assert section.linearity_error_percent < 0.2


def test_one_dark_exposure_gives_no_dark_current() -> None:
    section = measured(SimulatedCamera(), dark_ms=[10.0]).section
    assert section.dark_current_e_per_s is None
    assert section.gain_e_per_count.value == pytest.approx(1.0, rel=0.02)


def test_hot_pixels_are_found_each_and_no_other() -> None:
    camera = SimulatedCamera(shape=(96, 96), hot_fraction=2e-3, read_noise=3.0)
    section = measured(camera, frames=6).section
    assert {tuple(place) for place in section.hot_pixels} == {
        (int(y), int(x)) for y, x in np.argwhere(camera.hot)
    }
    assert section.hot_pixel_count == int(camera.hot.sum()) > 0


def test_the_flat_field_comes_back_and_pixels_only_where_frames_suffice() -> None:
    camera = SimulatedCamera(shape=(128, 128), gain=0.5, bits=16, prnu=0.01, shading=0.4)
    truth = camera.light * camera.response
    found = measured(camera, frames=8)
    flat = found.maps["flat"].values
    error = flat - truth / truth.mean()
    assert float(np.std(error)) < 0.003
    assert float(np.abs(flat.mean() - 1)) < 1e-5
    # Two dim frames per level: noise hides the pixels, but not the shading.
    few = measured(SimulatedCamera(shape=(128, 128), prnu=0.003, shading=0.4), frames=2, top=0.2)
    smooth = few.maps["flat"].values[20:-20, 20:-20]
    light = SimulatedCamera(shape=(128, 128), shading=0.4).light
    light = (light / light.mean())[20:-20, 20:-20]
    assert float(np.abs(smooth - light).max()) < 0.03


def test_maps_of_an_scmos_come_with_many_frames() -> None:
    camera = SimulatedCamera(
        shape=(32, 32), gain=0.5, bits=16, dsnu_e=3.0, read_noise=2.0, read_noise_spread=0.5
    )
    found = measured(camera, frames=120, levels=8, dark_ms=[1.0])
    assert set(found.maps) == {"flat", "offset", "variance", "gain"}
    offset = found.maps["offset"].values - camera.dark_offset
    assert float(np.std(offset)) < 1.5 * 4.0 / np.sqrt(120)
    noise = np.sqrt(found.maps["variance"].values) * camera.gain
    assert float(np.corrcoef(noise.ravel(), camera.noise.ravel())[0, 1]) > 0.97
    gain = found.maps["gain"].values
    assert float(np.median(gain)) == pytest.approx(0.5, rel=0.02)
    # 5 levels, 595 degrees of freedom: 6 % per pixel.
    assert float(np.std(gain / 0.5)) < 0.09
    few = measured(camera, frames=8, levels=6, dark_ms=[1.0])
    assert set(few.maps) == {"flat", "offset"}


def test_a_flickering_lamp_is_not_mistaken_for_noise_of_the_camera() -> None:
    camera = SimulatedCamera(shape=(96, 96), gain=0.5, bits=16, shading=0.4, prnu=0.01)
    dark = camera.series(DARK_MS, 4)
    light = brightness(camera, 0.9)
    flat = camera.series(flat_ms(12), 6, light_e_per_ms=light, flicker=0.004, seed=1)
    found = measure_camera(dark, flat)
    assert found.section.gain_e_per_count.value == pytest.approx(0.5, rel=0.02)
    assert "light" not in failed(found)


def test_read_noise_below_the_rounding_is_a_limit_and_says_so() -> None:
    camera = SimulatedCamera(gain=40.0, read_noise=4.0, bits=8, offset=10.0)
    found = measured(camera)
    noise = found.section.read_noise_e
    assert noise.value - 2 * noise.uncertainty < 4.0 < noise.value + 2 * noise.uncertainty
    assert any("rounding" in check.detail for check in found.checks if check.name == "read noise")


def test_memory_does_not_grow_with_the_frames() -> None:
    shape = (128, 128)
    rng = np.random.default_rng(0)

    def series(levels: Sequence[tuple[float, float]], frames: int) -> Series:
        """A series whose frames are made as they are read, like those of a recording."""

        def frame(mean: float) -> Pixels:
            return rng.normal(100 + mean, np.sqrt(9 + mean), shape).astype(np.uint16)

        def level(mean: float) -> Level:
            return Level(mean, [partial(frame, mean)] * frames)

        return Series(tuple(level(mean) for _, mean in levels), shape, 65535, bits=16)

    def peak(frames: int) -> int:
        tracemalloc.start()
        measure_camera(
            series([(1, 0.1)], frames), series([(ms, 500 * ms) for ms in range(1, 7)], frames)
        )
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    few, many = peak(4), peak(40)
    # 36 more frames at each of 7 levels are 8 MB.
    assert many < few + 500_000

"""Series that do not characterise the camera are refused or flagged, with advice."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile
from recordings_on_disk import write_ndtiff
from refocusd_calibration.camera.measure import CameraMeasurement, measure_camera
from refocusd_calibration.camera.series import (
    Level,
    Series,
    series_of_frames,
    series_of_recording,
)
from simulated_camera import SimulatedCamera, level_of

from refocusd.errors import InputError
from refocusd.formats.open_dataset import open_dataset
from refocusd.frame import Pixels

pytestmark = pytest.mark.fast

CAMERA = SimulatedCamera(gain=1.0, read_noise=3.0, bits=12)
DARK_MS = (1.0, 100.0, 400.0)
FLAT_MS = tuple(float(ms) for ms in range(10, 101, 10))
LIGHT = 35.0


def dark(camera: SimulatedCamera = CAMERA) -> Series:
    return camera.series(DARK_MS, 4)


def flat(camera: SimulatedCamera = CAMERA, **more: float) -> Series:
    return camera.series(FLAT_MS, 4, light_e_per_ms=more.pop("light", LIGHT), seed=1, **more)


def failed(measurement: CameraMeasurement) -> dict[str, str]:
    return {check.name: check.detail for check in measurement.checks if not check.passed}


def test_a_good_series_fails_no_check() -> None:
    assert failed(measure_camera(dark(), flat())) == {}


@pytest.mark.parametrize(
    ("series", "message"),
    [
        (lambda: (dark(), flat(light=600.0)), r"saturated.*shorter exposures or less light"),
        (lambda: (dark(), CAMERA.series(FLAT_MS, 4, seed=7)), "as dark as the dark ones"),
        (lambda: (flat(), dark()), r"needs 4 or more|as dark as"),
        (lambda: (dark(), CAMERA.series([10, 20, 30], 4, light_e_per_ms=LIGHT)), "has 3 exposures"),
        (
            lambda: (dark(), CAMERA.series(FLAT_MS, 1, light_e_per_ms=LIGHT)),
            "flat series has one frame at 10 ms",
        ),
        (lambda: (CAMERA.series(DARK_MS, 1), flat()), "dark series has one frame at 1 ms"),
        (
            lambda: (dark(SimulatedCamera(shape=(48, 64))), flat()),
            "64×48 px and the flat ones 64×64 px",
        ),
        (lambda: (dark(SimulatedCamera(bits=8)), flat()), "types differ"),
    ],
    ids=["saturated", "dark only", "swapped", "levels", "flat", "dark", "sizes", "types"],
)
def test_a_series_that_measures_nothing_is_refused(
    series: Callable[[], tuple[Series, Series]], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        measure_camera(*series())


def test_frames_of_mixed_sizes_are_refused() -> None:
    small, large = np.zeros((32, 32), np.uint16), np.zeros((32, 48), np.uint16)
    with pytest.raises(InputError, match=r"mixes frames of 32×32 px .* 48×32 px"):
        series_of_frames([level_of(1, [small, small]), level_of(2, [large, large])])
    with pytest.raises(InputError, match="exposure of 0 ms"):
        series_of_frames([level_of(0, [small, small])])
    with pytest.raises(InputError, match="has no frame"):
        series_of_frames([])
    inside = np.zeros((64, 64), np.uint16)
    odd_one = [level_of(ms, [inside, large, inside]) for ms in DARK_MS]
    with pytest.raises(InputError, match="mixed at 400 ms"):
        measure_camera(series_of_frames(odd_one), flat())


def test_an_even_light_leak_is_flagged() -> None:
    leaking = CAMERA.series(DARK_MS, 4, light_e_per_ms=0.4)
    assert "close the shutter" in failed(measure_camera(leaking, flat()))["light leak"]


def test_a_leak_on_one_side_is_flagged_by_its_shape() -> None:
    camera = SimulatedCamera(shape=(128, 128), gain=0.5, bits=16, read_noise=1.5)
    rng = np.random.default_rng(5)
    side = np.linspace(0, 0.06, 128)[None, :] * np.ones((128, 1))
    levels = [level_of(ms, [camera.expose(ms, side, rng) for _ in range(8)]) for ms in DARK_MS]
    found = measure_camera(series_of_frames(levels), flat(camera, light=150.0))
    # 30 e-/s on average could be dark current.
    assert "one part of the field" in failed(found)["light leak"]


def test_a_leak_in_a_single_exposure_is_flagged_by_its_size() -> None:
    leaking = CAMERA.series([100.0], 4, light_e_per_ms=15.0)
    assert "light leak" in failed(measure_camera(leaking, flat()))


def test_a_light_that_changes_in_the_dark_series_is_flagged() -> None:
    flickering = CAMERA.series(DARK_MS, 6, light_e_per_ms=0.08, flicker=0.6)
    assert "warming up" in failed(measure_camera(flickering, flat()))["dark drift"]


def test_a_light_that_changes_at_one_exposure_is_flagged() -> None:
    assert "steady" in failed(measure_camera(dark(), flat(flicker=0.05)))["light"]


def test_a_drifting_light_is_flagged() -> None:
    assert (
        "light changed between exposures"
        in failed(measure_camera(dark(), flat(drift=0.15, light=30.0)))["linearity"]
    )


def test_a_nonlinear_camera_is_flagged_by_both_curves() -> None:
    found = failed(measure_camera(dark(), flat(replace(CAMERA, bend=0.3))))
    assert "not linear" in found["linearity"]
    assert "photon transfer" in found


def test_a_moving_specimen_is_flagged() -> None:
    camera = SimulatedCamera(shape=(96, 96))
    rng = np.random.default_rng(3)
    y, x = np.mgrid[:96, :96]
    levels = []
    for ms in FLAT_MS:
        frames = []
        for step in range(4):
            cell = 0.2 * np.exp(-((x - 40 - 6 * step) ** 2 + (y - 48) ** 2) / 200)
            frames.append(camera.expose(ms, LIGHT * (1 - cell), rng))
        levels.append(level_of(ms, frames))
    found = measure_camera(dark(camera), series_of_frames(levels))
    assert "without a specimen" in failed(found)["movement"]


def test_a_specimen_that_keeps_still_is_flagged() -> None:
    camera = SimulatedCamera(shape=(96, 96))
    rng = np.random.default_rng(3)
    texture = 1 - 0.5 * (np.indices((96, 96)).sum(axis=0) // 3 % 2)
    levels = [
        level_of(ms, [camera.expose(ms, LIGHT * texture, rng) for _ in range(4)]) for ms in FLAT_MS
    ]
    found = measure_camera(dark(camera), series_of_frames(levels))
    assert "specimen or dirt" in failed(found)["response"]


def test_dark_frames_that_are_cut_off_at_zero_are_flagged() -> None:
    camera = replace(CAMERA, offset=2.0)
    assert (
        "raise the camera's offset"
        in failed(measure_camera(dark(camera), flat(camera)))["dark clipping"]
    )


def test_flats_that_are_too_dim_are_flagged() -> None:
    camera = replace(CAMERA, read_noise=20.0)
    found = failed(measure_camera(dark(camera), flat(camera, light=3.0)))
    assert "expose longer" in found["range"]


def test_averaged_frames_are_refused() -> None:
    rng = np.random.default_rng(0)

    def averaged(level: float) -> list[Pixels]:
        mean = rng.normal(100 + 20 * level, 3, (64, 64))
        return [np.rint(mean + rng.normal(0, 3, mean.shape)).astype(np.uint16) for _ in range(4)]

    series = series_of_frames([level_of(ms, averaged(ms)) for ms in FLAT_MS])
    with pytest.raises(InputError, match="averaged, denoised"):
        measure_camera(dark(), series)


def test_a_recording_without_exposures_needs_them_as_a_list(tmp_path: Path) -> None:
    frames = np.stack([CAMERA.expose(ms, 0.0, np.random.default_rng(1)) for ms in (5, 5, 9, 9)])
    path = tmp_path / "dark.tif"
    tifffile.imwrite(path, frames, photometric="minisblack")
    with open_dataset(path) as recording:
        with pytest.raises(
            InputError, match="do not state their exposure: give --dark-exposures-ms"
        ):
            series_of_recording(recording)
        with pytest.raises(InputError, match="4 frames, which cannot be divided equally among 3"):
            series_of_recording(recording, [5, 9, 12])
        series = series_of_recording(recording, [5, 9])
        assert [(level.exposure_ms, level.count) for level in series.levels] == [(5, 2), (9, 2)]
        assert np.array_equal(series.levels[1].reads[0](), frames[2])


def test_a_recording_is_grouped_by_its_exposures(tmp_path: Path) -> None:
    frames = [np.full((24, 32), 100 + index, np.uint16) for index in range(6)]
    # Up and down again: each exposure comes twice.
    said = [{"Exposure": ms, "BitDepth": 12, "Camera": "Zyla"} for ms in (1, 2, 4, 4, 2, 1)]
    path = write_ndtiff(
        tmp_path / "flat",
        [({"exposure": index, "time": 0}, frames[index], said[index]) for index in range(6)],
    )
    with open_dataset(path) as recording:
        series = series_of_recording(recording)
        assert [(level.exposure_ms, level.count) for level in series.levels] == [
            (1, 2),
            (2, 2),
            (4, 2),
        ]
        assert [int(frame[0, 0]) for frame in series.levels[1].frames()] == [101, 104]
        assert series.bits == 12
        assert sum(level.count for level in series.levels) == 6


@pytest.mark.parametrize("seed", range(40))
def test_any_series_gives_numbers_or_one_clear_error(seed: int) -> None:
    """Implausible combinations of offset, noise, gain and light: no crash, no NaN, no warning."""
    rng = np.random.default_rng(seed)
    top = int(rng.choice([255, 1023, 65535]))
    shape = (int(rng.integers(16, 40)), int(rng.integers(16, 40)))
    offset, noise = rng.choice([0, 1, 10, 60]), rng.choice([0, 0.1, 1, 20])
    slope, light = rng.choice([0, 0.01, 1, 50]), rng.choice([0.1, 1, 10, 1000])
    frames = int(rng.integers(2, 5))

    def frame(mean: float, spread: float) -> Pixels:
        counts = np.clip(np.rint(rng.normal(mean, spread, shape)), 0, top)
        return np.asarray(counts, np.uint8) if top == 255 else np.asarray(counts, np.uint16)

    def level(ms: float, signal: float) -> Level:
        spread = np.sqrt(noise**2 + slope * signal)
        return level_of(ms, [frame(offset + signal, spread) for _ in range(frames)])

    dark_levels = [level(10.0**step, 0.0) for step in range(int(rng.integers(1, 4)))]
    lit_levels = [level(ms, light * ms) for ms in range(1, int(rng.integers(4, 9)) + 1)]
    try:
        found = measure_camera(series_of_frames(dark_levels), series_of_frames(lit_levels))
    except InputError:
        return
    section = found.section
    for item in (section.offset_counts, section.gain_e_per_count, section.read_noise_e):
        assert np.isfinite(item.value)
        assert 0 <= item.uncertainty < np.inf

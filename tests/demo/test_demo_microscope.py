"""The demo's specimen, and the real Micro-Manager core that images it."""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.signal import fftconvolve

from refocusd.demo.microscope import DemoMicroscope, Event
from refocusd.demo.specimen import SAMPLE, Camera, FocalPlane, Specimen
from refocusd.errors import ConfigError, InputError
from refocusd.imaging.optics import defocus_psf

Z_UM = [0.0, 4.0, -8.0, 16.0, 32.0]


@pytest.fixture(scope="module")
def specimen() -> Specimen:
    return Specimen()


def test_the_sample_is_the_file_its_provenance_describes() -> None:
    provenance = (SAMPLE.parent / "PROVENANCE.md").read_text(encoding="utf-8")
    assert hashlib.sha256(SAMPLE.read_bytes()).hexdigest() in provenance


def test_light_is_spread_but_not_lost_out_of_focus(specimen: Specimen) -> None:
    frames = [specimen.expected("DAPI", z) for z in (0, 4, 8, 16, 32)]
    assert np.ptp([frame.mean() for frame in frames]) < 0.02
    contrasts = [float(frame.std()) for frame in frames]
    assert contrasts == sorted(contrasts, reverse=True)


def test_a_field_is_the_plane_convolved_with_the_psf_and_has_no_wrap_around(
    specimen: Specimen,
) -> None:
    """Independently computed: pad by reflection, convolve in space, crop."""
    margin = 128
    sharp = np.pad(specimen.sharp("DAPI"), margin, mode="symmetric")
    psf = defocus_psf(specimen.optics("DAPI"), 16.0)
    blurred = fftconvolve(sharp, psf, mode="same")[margin:-margin, margin:-margin]
    expected = 100 + blurred * 10.0 / 2.0
    np.testing.assert_allclose(specimen.expected("DAPI", 16.0), expected, atol=0.05)


def test_the_slide_can_be_moved_and_never_ends(specimen: Specimen) -> None:
    here = specimen.expected("DAPI", 8.0)
    right = specimen.expected("DAPI", 8.0, xy_um=(100 * 0.645, 0.0))
    np.testing.assert_array_equal(right[:, :-100], here[:, 100:])
    below = specimen.expected("DAPI", 8.0, xy_um=(0.0, 50 * 0.645))
    np.testing.assert_array_equal(below[:-50], here[50:])
    np.testing.assert_array_equal(
        specimen.expected("DAPI", 8.0, xy_um=(-1024 * 0.645, 1024 * 0.645)), here
    )


def test_defocus_is_the_distance_from_a_focal_plane_that_may_be_tilted(
    specimen: Specimen,
) -> None:
    tilted = Specimen(focus=FocalPlane(z0_um=2.0, tilt_x=0.01, tilt_y=-0.02))
    np.testing.assert_array_equal(tilted.expected("Cy5", 10.0), specimen.expected("Cy5", 8.0))
    there = (645.0, 64.5)
    assert tilted.focus.at(*there) == pytest.approx(2.0 + 6.45 - 1.29)
    np.testing.assert_array_equal(
        tilted.truth("Cy5", xy_um=there), specimen.expected("Cy5", 0.0, xy_um=there)
    )


def test_channels_differ_in_content_and_brightness(specimen: Specimen) -> None:
    truths = {channel: specimen.truth(channel) for channel in specimen.channels}
    assert set(truths) == {"DAPI", "FITC", "Rhodamine", "Cy5"}
    peaks = [float(np.percentile(truth, 99)) for truth in truths.values()]
    assert 580 <= peaks[0] <= 1090  # like the in-focus fields of BBBC006
    correlations = np.corrcoef([t.ravel() for t in truths.values()])[~np.eye(4, dtype=bool)]
    assert np.abs(correlations).max() < 0.3


def z_score(frame: NDArray[np.uint16], expected: NDArray[np.float32]) -> NDArray[np.float64]:
    """Deviation in units of the camera's noise (gain 2, read noise 4, rounding)."""
    variance = (expected.astype(np.float64) - 100) / 2 + (4 / 2) ** 2 + 1 / 12
    return (frame - expected) / np.sqrt(variance)


def is_of(frame: NDArray[np.uint16], expected: NDArray[np.float32]) -> bool:
    deviation = z_score(frame, expected)
    return abs(float(deviation.mean())) < 0.02 and abs(float(deviation.std()) - 1) < 0.02


def test_noise_has_the_mean_and_variance_of_shot_and_read_noise(specimen: Specimen) -> None:
    rng = np.random.default_rng(3)
    expected = specimen.expected("DAPI", 4.0)
    frames = [specimen.frame("DAPI", 4.0, 10.0, rng) for _ in range(20)]
    deviations = np.array([z_score(frame, expected) for frame in frames])
    bright = expected > np.percentile(expected, 95)
    dark = expected < np.percentile(expected, 20)
    for region in (bright, dark):
        assert abs(float(deviations[:, region].mean())) < 0.02
        assert float(deviations[:, region].var()) == pytest.approx(1.0, abs=0.03)
    # A fixed pattern would survive the mean over frames.
    assert float(deviations.mean(axis=0).var()) == pytest.approx(1 / 20, rel=0.1)


def test_equal_generators_give_equal_frames(specimen: Specimen) -> None:
    one, same, other = (
        specimen.frame("Cy5", 8.0, 10.0, np.random.default_rng(seed)) for seed in (5, 5, 6)
    )
    np.testing.assert_array_equal(one, same)
    assert float((one != other).mean()) > 0.5


def test_counts_follow_the_exposure_up_to_saturation(specimen: Specimen) -> None:
    rng = np.random.default_rng(0)
    short, long = (specimen.expected("DAPI", 0.0, exposure_ms=ms) for ms in (10.0, 20.0))
    np.testing.assert_allclose(long - 100, 2 * (short - 100), rtol=1e-4, atol=1e-3)
    assert int(specimen.frame("DAPI", 0.0, 500.0, rng).max()) == 4095
    dark = Specimen(camera=Camera(offset=0.0)).frame("DAPI", 0.0, 0.001, rng)
    assert int(dark.min()) == 0
    assert int(dark.max()) < 20


def test_a_frame_of_a_known_plane_takes_under_two_milliseconds(specimen: Specimen) -> None:
    rng = np.random.default_rng(0)
    specimen.frame("DAPI", 8.0, 10.0, rng)
    seconds = []
    for _ in range(50):
        start = time.perf_counter()
        specimen.frame("DAPI", 8.0, 10.0, rng)
        seconds.append(time.perf_counter() - start)
    # The fastest run, because other processes may use the processor.
    assert min(seconds) < 2e-3


def test_planes_kept_are_bounded_and_forgotten_ones_come_back_equal() -> None:
    specimen = Specimen(planes_kept=2)
    first = specimen.expected("DAPI", 1.0)
    for z in range(2, 6):
        specimen.expected("DAPI", float(z))
    assert len(specimen._planes) == 2
    np.testing.assert_array_equal(specimen.expected("DAPI", 1.0), first)


def test_what_the_specimen_cannot_show_is_named(specimen: Specimen) -> None:
    with pytest.raises(ConfigError, match="no channel 'GFP'; it has DAPI, FITC"):
        specimen.truth("GFP")
    with pytest.raises(ConfigError, match="exposure is 0"):
        specimen.expected("DAPI", 0.0, exposure_ms=0.0)
    with pytest.raises(ConfigError, match="stage position is"):
        specimen.expected("DAPI", float("nan"))


def test_an_installation_without_the_sample_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("refocusd.demo.specimen.SAMPLE", tmp_path / "nuclei.tif")
    with pytest.raises(InputError, match="reinstall refocusd"):
        Specimen()


def acquire(
    microscope: DemoMicroscope, folder: Path, name: str, events: list[Event]
) -> tuple[Any, Counter[str]]:
    """Run a real acquisition; returns the raw dataset, read from disk, and what the camera did."""
    from ndstorage import Dataset
    from pycromanager import Acquisition

    seen: Counter[str] = Counter()
    with Acquisition(
        directory=str(folder),
        name=name,
        show_display=False,
        notification_callback_fn=lambda event: seen.update([str(event.milestone)]),
    ) as acquisition:
        acquisition.acquire(events)
    acquisition.get_dataset().close()
    return Dataset(str(folder / f"{name}_1")), seen


def test_snapped_frames_show_the_specimen_at_the_stages_position(
    demo_microscope: DemoMicroscope, tmp_path: Path
) -> None:
    events = demo_microscope.events_snapped(2, Z_UM, ["DAPI", "Cy5"])
    dataset, seen = acquire(demo_microscope, tmp_path, "snapped", events)
    try:
        coordinates = dataset.get_image_coordinates_list()
        assert len(coordinates) == len(events) == 20
        assert seen["pre_snap"] == 20
        assert seen["pre_sequence_started"] == 0
        for axes in coordinates:
            raw, metadata = dataset.read_image(**axes), dataset.read_metadata(**axes)
            assert raw.shape == (512, 512)
            assert raw.dtype == np.uint16
            z_um = Z_UM[axes["z"]]
            expected = demo_microscope.specimen.expected(axes["channel"], z_um)
            assert is_of(raw, expected), axes
            assert metadata["ZPosition_um_Intended"] == z_um
            assert metadata["PixelSize_um"] == 0.645
            assert metadata["Width"] == 512  # a number, as for snapped frames
    finally:
        dataset.close()


def test_sequenced_frames_come_from_the_cameras_own_sequences(
    demo_microscope: DemoMicroscope, tmp_path: Path
) -> None:
    events = demo_microscope.events_sequenced(8, [0.0, -8.0, 32.0], ["Cy5", "DAPI"])
    dataset, seen = acquire(demo_microscope, tmp_path, "sequenced", events)
    try:
        coordinates = dataset.get_image_coordinates_list()
        assert len(coordinates) == len(events) == 48
        assert seen["pre_snap"] == 0
        assert seen["pre_sequence_started"] == 6  # 3 positions, 2 channels
        numbers = Counter[str]()
        for axes in coordinates:
            raw, metadata = dataset.read_image(**axes), dataset.read_metadata(**axes)
            z_um = [0.0, -8.0, 32.0][axes["z"]]
            expected = demo_microscope.specimen.expected(axes["channel"], z_um)
            assert is_of(raw, expected), axes
            assert metadata["Width"] == "512"  # a string, as for sequenced frames
            numbers[metadata["ImageNumber"]] += 1
        assert numbers == {str(number): 6 for number in range(8)}
    finally:
        dataset.close()


def test_a_frame_of_another_plane_or_channel_would_be_noticed(specimen: Specimen) -> None:
    frame = specimen.frame("DAPI", 4.0, 10.0, np.random.default_rng(0))
    assert is_of(frame, specimen.expected("DAPI", 4.0))
    for channel, z_um in (("DAPI", 3.5), ("DAPI", 8.0), ("Cy5", 4.0)):
        assert not is_of(frame, specimen.expected(channel, z_um))


def test_the_cores_exposure_and_xy_stage_are_the_ones_that_count(
    demo_microscope: DemoMicroscope, tmp_path: Path
) -> None:
    core = demo_microscope.core
    xy_um = (129.0, -64.5)
    place = {"x": xy_um[0], "y": xy_um[1], "z": 16.0, "exposure": 20.0}
    event: Event = {"axes": {"time": 0}, "config_group": ["Channel", "Rhodamine"], **place}
    try:
        dataset, _ = acquire(demo_microscope, tmp_path, "moved", [event])
        raw = dataset.read_image(time=0)
        dataset.close()
    finally:
        core.set_xy_position(0.0, 0.0)
        core.set_exposure(10.0)
    expected = demo_microscope.specimen.expected("Rhodamine", 16.0, exposure_ms=20.0, xy_um=xy_um)
    assert is_of(raw, expected)


def test_events_of_one_channel_and_plane_are_still_snapped(
    demo_microscope: DemoMicroscope, tmp_path: Path
) -> None:
    """Only time differs between these events, so the engine would tend to merge them."""
    events = demo_microscope.events_snapped(30, [8.0])
    dataset, seen = acquire(demo_microscope, tmp_path, "time", events)
    dataset.close()
    assert seen["pre_snap"] == 30
    assert seen["pre_sequence_started"] == 0


@pytest.mark.parametrize(
    ("times", "z_um", "channels", "message"),
    [
        (0, [0.0], ["DAPI"], "0 times"),
        (2, [], ["DAPI"], "0 z positions"),
        (2, [0.0], [], "0 channels"),
        (2, [0.0, 4.0, 0.0], ["DAPI"], "must each differ"),
        (2, [0.0], ["DAPI", "GFP"], "no channel 'GFP'"),
    ],
)
def test_events_that_make_no_sense_are_refused(
    times: int, z_um: list[float], channels: list[str], message: str, specimen: Specimen
) -> None:
    microscope = DemoMicroscope(specimen)
    with pytest.raises(ConfigError, match=re.escape(message)):
        microscope.events_snapped(times, z_um, channels)
    with pytest.raises(ConfigError, match="at least 2 frames"):
        microscope.events_sequenced(1, [0.0])


def test_a_second_microscope_at_the_same_time_is_refused(
    demo_microscope: DemoMicroscope,
) -> None:
    second = DemoMicroscope(demo_microscope.specimen)
    with pytest.raises(ConfigError, match="running in this process already"):
        second.__enter__()
    with pytest.raises(ConfigError, match="not open"):
        _ = second.core
    assert demo_microscope.core.get_position() is not None


def test_missing_demo_devices_are_named_with_the_command_that_installs_them(
    monkeypatch: pytest.MonkeyPatch, specimen: Specimen
) -> None:
    monkeypatch.setitem(sys.modules, "mm_test_adapters", None)
    with pytest.raises(ConfigError, match=re.escape('pip install "refocusd[demo]"')):
        DemoMicroscope(specimen).__enter__()


SCRIPT = """
import sys, threading
from pathlib import Path
import numpy as np
from pycromanager import Acquisition
from refocusd.demo.microscope import DemoMicroscope
from refocusd.demo.specimen import Specimen
from refocusd.errors import ConfigError
"""


def run_script(source: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", SCRIPT + source, *arguments],
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=60,
        check=False,
    )


TWICE = """
specimen = Specimen()
rng = np.random.default_rng(7)
expected = [specimen.frame("DAPI", z, 10.0, rng) for z in (0.0, 8.0)]
for name in ("first", "second"):
    with DemoMicroscope(seed=7) as microscope:
        with Acquisition(directory=sys.argv[1], name=name, show_display=False) as acquisition:
            acquisition.acquire(microscope.events_snapped(1, [0.0, 8.0]))
        dataset = acquisition.get_dataset()
        for z in (0, 1):
            np.testing.assert_array_equal(
                dataset.read_image(channel="DAPI", time=0, z=z), expected[z]
            )
        dataset.close()
        assert microscope.frames == 2
    names = [thread.name for thread in threading.enumerate()]
    assert names == ["MainThread"], names
print("done")
"""


def test_a_process_can_open_it_twice_and_gets_the_same_frames_again(tmp_path: Path) -> None:
    """Raw pixels are exactly the specimen's, and closing leaves no thread."""
    done = run_script(TWICE, str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[-1] == "done"


BINNED = """
try:
    with DemoMicroscope() as microscope:
        microscope.core.set_property("Camera", "Binning", "2")
        with Acquisition(directory=sys.argv[1], name="raw", show_display=False) as acquisition:
            acquisition.acquire(microscope.events_snapped(1, [0.0]))
        raw = acquisition.get_dataset().read_image(channel="DAPI", time=0, z=0)
        assert raw.shape == (256, 256) and raw.max() == 0, raw
except ConfigError as error:
    print(error)
"""


def test_a_frame_that_cannot_be_shown_is_reported_and_does_not_hang(tmp_path: Path) -> None:
    done = run_script(BINNED, str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert "recorded black ones" in done.stdout
    assert "leave binning, ROI and pixel type as they are" in done.stdout


NO_DEVICES = """
try:
    with DemoMicroscope(adapters=Path(sys.argv[1])):
        pass
except ConfigError as error:
    print(error)
with DemoMicroscope() as microscope:
    print(microscope.core.get_image_width())
"""


def test_devices_that_do_not_load_are_named_and_the_next_start_works(tmp_path: Path) -> None:
    done = run_script(NO_DEVICES, str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert f"does not load with the adapters in {tmp_path}" in done.stdout
    assert done.stdout.split()[-1] == "512"

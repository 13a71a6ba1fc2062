"""Calibration profiles in a daemon: their effect, their metadata, and resuming."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from finished import blurred, told
from live import opened, pump_until, quick_settings, read_all, running, source
from numpy.typing import NDArray
from recordings_on_disk import write_ndtiff
from scipy.ndimage import gaussian_filter

from refocusd.daemon.daemon import Daemon, daemon_status
from refocusd.datasets.run_folder import made_by
from refocusd.formats.open_dataset import open_dataset
from refocusd.frame import checksum
from refocusd.profiles.microscope_metadata import first_of
from refocusd.profiles.profile import CameraSection, Measured, Microscope, Profile, save_profile
from refocusd.sources.feed import Feed
from refocusd.sources.replay import replay
from refocusd.transport import messages as wire

SIDE = 192
FRAME = {"Camera": "Zyla", "Binning": 1, "PixelSizeUm": 0.65, "ROI": f"0-0-{SIDE}-{SIDE}"}
DAPI = {"channel": "DAPI", "time": 0}
#: In pairs, because an isolated one is found without a profile.
HOT = [
    (y, x + beside) for y in range(20, SIDE, 17) for x in range(15, SIDE, 19) for beside in (0, 1)
]


def profile(*, age_days: int = 0, channel: str = "", hot: Any = HOT, side: int = SIDE) -> Profile:
    return Profile(
        created=(datetime.now(UTC) - timedelta(days=age_days)).isoformat(),
        version="1",
        microscope=Microscope(camera="Zyla", channel=channel, pixel_um=0.65, na=0.45),
        camera=CameraSection(
            offset_counts=Measured(value=100.0, uncertainty=0.1),
            gain_e_per_count=Measured(value=0.5, uncertainty=0.01),
            read_noise_e=Measured(value=1.5, uncertainty=0.1),
            hot_pixels=list(hot),
            shape=(side, side),
        ),
    )


@pytest.fixture(scope="module")
def clean() -> NDArray[np.uint16]:
    """An out-of-focus frame without defects."""
    sample = resources.files("refocusd").joinpath("demo/sample/nuclei.tif")
    with resources.as_file(sample) as path:
        nuclei = tifffile.imread(path)[:SIDE, :SIDE].astype(np.float64)
    light = gaussian_filter(nuclei, 5.0)
    light *= 2000 / light.max()
    return np.random.default_rng(3).poisson(100 + light).astype(np.uint16)


@pytest.fixture(scope="module")
def shining(clean: NDArray[np.uint16]) -> NDArray[np.uint16]:
    """The same with hot pixels."""
    frame = clean.copy()
    for y, x in HOT:
        frame[y, x] = 30_000
    return frame


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("calibrated")


@pytest.fixture(scope="module")
def daemon(place: Path) -> Iterator[Daemon]:
    """A daemon with the shipped engine; tests change the profiles in ``calibrations``."""
    calibrations = str(place / "calibrations")
    settings = quick_settings(
        place, backend="openvino", precision="f32", threads=1, calibrations=calibrations
    )
    with running(settings) as one:
        yield one


@dataclass(frozen=True)
class Made:
    """One refocused frame and its metadata."""

    pixels: NDArray[Any]
    said: dict[str, Any]
    run: str
    warnings: list[str]
    beside: dict[str, Any]


def refocused(
    daemon: Daemon, output: Path, raw: NDArray[np.uint16], told: dict[str, Any] | None = None
) -> Made:
    """Refocus a frame as a separate acquisition."""
    metadata = FRAME | (told or {})
    with source(daemon) as connection:
        first = first_of(metadata, "DAPI")
        upload = opened(connection, output, side=raw.shape[0], first=first)
        assert not upload.refused
        axes = json.dumps(DAPI, separators=(",", ":"))
        upload.submit(raw, axes, json.dumps(metadata), 0)
        upload.close(1)
        pump_until(upload, lambda: upload.closed)
    assert upload.opened is not None
    about = daemon_status(daemon.endpoint).details[-1]
    assert about.run == upload.opened.run
    ((pixels, said),) = read_all(output).values()
    return Made(pixels, said["refocusd"], about.run, about.warnings, made_by(output))


@pytest.fixture(scope="module")
def uncalibrated(daemon: Daemon, place: Path, shining: NDArray[np.uint16]) -> Made:
    return refocused(daemon, place / "uncalibrated", shining)


@pytest.fixture(scope="module")
def calibrated(
    daemon: Daemon, place: Path, shining: NDArray[np.uint16], uncalibrated: Made
) -> Made:
    save_profile(profile(), place / "calibrations" / "zyla.json")
    return refocused(daemon, place / "calibrated", shining)


def test_a_frame_names_the_profile_that_applied(uncalibrated: Made, calibrated: Made) -> None:
    assert uncalibrated.said["calibration"] is None
    assert calibrated.said["calibration"] == calibrated.beside["profiles"][0]
    assert calibrated.beside["calibration"] != calibrated.said["calibration"]
    assert uncalibrated.beside["calibration"] is None
    assert calibrated.beside["first"]["Camera"] == "Zyla"


def test_a_profile_makes_another_run(uncalibrated: Made, calibrated: Made) -> None:
    assert calibrated.run != uncalibrated.run
    assert calibrated.said["run"] == calibrated.run


def test_hot_pixels_do_not_shine_in_the_refocused_frame(
    daemon: Daemon, place: Path, clean: NDArray[np.uint16], uncalibrated: Made, calibrated: Made
) -> None:
    never_hot = refocused(daemon, place / "never hot", clean)
    around = np.zeros((SIDE, SIDE), bool)
    for y, x in HOT:
        around[y - 2 : y + 3, x - 2 : x + 3] = True
    span = float(np.ptp(np.percentile(never_hot.pixels, [0.1, 99.9])))
    rest = never_hot.pixels.astype(float)
    bad, good = (np.abs(m.pixels - rest)[around].max() for m in (uncalibrated, calibrated))
    assert bad > 0.5 * span, "these hot pixels would not be seen anyway"
    assert good < 0.05 * span
    # Nor do they affect the normalisation of the frame.
    assert calibrated.said["scale"] == pytest.approx(never_hot.said["scale"], rel=0.02)
    assert uncalibrated.said["scale"] > 1.2 * never_hot.said["scale"]
    assert calibrated.said["focus_before"] == pytest.approx(never_hot.said["focus_before"], rel=0.1)


def test_the_raw_frame_is_what_it_was(calibrated: Made, shining: NDArray[np.uint16]) -> None:
    assert calibrated.said["raw_checksum"] == checksum(shining)


def test_another_camera_has_no_part_in_it(
    daemon: Daemon,
    place: Path,
    shining: NDArray[np.uint16],
    uncalibrated: Made,
    calibrated: Made,
) -> None:
    other = refocused(daemon, place / "other camera", shining, {"Camera": "Orca"})
    assert other.run == uncalibrated.run
    assert other.said["calibration"] is None
    np.testing.assert_array_equal(other.pixels, uncalibrated.pixels)


def test_warnings_say_what_does_not_go_together(
    daemon: Daemon, place: Path, shining: NDArray[np.uint16], calibrated: Made
) -> None:
    no_raw = "no raw data on disk: frames that cannot be refocused live are skipped"
    assert calibrated.warnings == [no_raw]
    file = place / "calibrations" / "zyla.json"
    save_profile(profile(age_days=300), file)
    try:
        odd = refocused(daemon, place / "odd", shining, {"PixelSizeUm": 0.1})
    finally:
        save_profile(profile(), file)
    stale, size, range_, *rest = odd.warnings
    assert "is stale: its camera section was measured 300 days ago" in stale
    assert "pixel size (0.1 um) is not that of calibration profile" in size
    assert "a pixel of 0.1 um is outside the range that the model live-nuclei" in range_
    assert rest == [no_raw]
    assert odd.beside["warnings"] == [stale, size, range_]


def test_a_frame_in_focus_passes_bit_for_bit(daemon: Daemon, place: Path, calibrated: Made) -> None:
    rng = np.random.default_rng(1)
    tops = rng.random((SIDE // 4, SIDE // 4)) < 0.1
    sharp = np.kron(np.where(tops, 6000, 200), np.ones((4, 4)))
    frame = (sharp + rng.normal(0, 2, sharp.shape)).astype(np.uint16)
    for y, x in HOT:
        frame[y, x] = 30_000
    made = refocused(daemon, place / "in focus", frame)
    assert made.said["state"] == "passed_through"
    assert [made.said["calibration"]] == made.beside["profiles"]
    np.testing.assert_array_equal(made.pixels, frame)


def test_a_subregion_is_corrected_where_its_metadata_place_it(
    daemon: Daemon, place: Path, shining: NDArray[np.uint16], calibrated: Made
) -> None:
    part = np.ascontiguousarray(shining[32:160, 64:192])
    told = refocused(daemon, place / "region", part, {"ROI": "64-32-128-128"})
    untold = refocused(daemon, place / "no region", part, {"ROI": None})
    assert told.said["calibration"] == untold.said["calibration"] is not None
    assert told.warnings == calibrated.warnings
    assert "its hot pixels are not replaced" in untold.warnings[0]
    y, x = next((y - 32, x - 64) for y, x in HOT if 40 < y < 150 and 72 < x < 180)
    assert told.pixels[y, x] < 3000 < untold.pixels[y, x]


def test_invalid_first_metadata_are_refused(daemon: Daemon, place: Path) -> None:
    with source(daemon) as connection:
        upload = opened(connection, place / "refused", first="[1]")
        assert "not a JSON object" in upload.refused
        upload = opened(connection, place / "refused", profiles=["0" * 16])
        assert "started with calibration profile 0000000000000000" in upload.refused


def test_hook_and_replay_tell_the_first_frame(tmp_path: Path) -> None:
    save_profile(profile(side=64), tmp_path / "calibrations" / "zyla.json")
    settings = quick_settings(tmp_path, calibrations=str(tmp_path / "calibrations"))
    frame, metadata = blurred(1)[0], {"Camera": "Zyla", "PixelSizeUm": 0.65}
    raw = write_ndtiff(tmp_path / "raw", [(DAPI, frame, metadata)])
    with running(settings) as daemon:
        with open_dataset(raw) as recording:
            replay(recording, daemon.endpoint, tmp_path / "replayed", times_s=None)
        feed = Feed(
            daemon.endpoint, output=str(tmp_path / "hooked"), expected=1, buffer_nbytes=1 << 20
        )
        feed.begin("hooked", has_raw=False)
        feed.take(frame, {**metadata, "Axes": DAPI}, 0)
        feed.end()
        counts = feed.wait(20)
    assert counts is not None
    assert counts.passed_through == 1
    for name in ("replayed", "hooked"):
        assert made_by(tmp_path / name)["first"] == {**metadata, "Channel": "DAPI"}
        assert states(tmp_path / name) == made_by(tmp_path / name)["profiles"] != []


@pytest.mark.parametrize("inline", [False, True])
def test_workers_are_told_of_more_regions_than_they_remember(tmp_path: Path, inline: bool) -> None:
    corners = [(x, x // 2) for x in range(4 * wire.MAX_CALIBRATIONS // 3)] * 2
    save_profile(profile(side=256), tmp_path / "calibrations" / "zyla.json")
    settings = quick_settings(
        tmp_path, calibrations=str(tmp_path / "calibrations"), inline=inline, ring_mib=8
    )
    frame = blurred(1)[0]
    with running(settings) as daemon, source(daemon) as connection:
        upload = opened(connection, tmp_path / "out", first=first_of({"Camera": "Zyla"}))
        for number, (x, y) in enumerate(corners):
            pump_until(upload, lambda: upload.credit)
            region = {"Camera": "Zyla", "ROI": f"{x}-{y}-64-64"}
            upload.submit(
                frame, json.dumps({"time": number}, separators=(",", ":")), json.dumps(region), 0
            )
        upload.close(len(corners))
        pump_until(upload, lambda: upload.closed)
        assert upload.closed is not None
    # A profile that a worker did not know would have failed.
    assert upload.closed.counts.passed_through == len(corners)
    assert len(set(states(tmp_path / "out"))) == 1


# -- unfinished acquisitions, without a network ------------------------------------------


def begun(tmp_path: Path) -> tuple[Path, str]:
    """A raw dataset of 8 frames, 3 of which were refocused with a profile, and the run's id."""
    frames = blurred(8)
    named = [
        ({"time": n, "channel": "DAPI"}, plane, {"Camera": "Zyla"})
        for n, plane in enumerate(frames)
    ]
    raw = write_ndtiff(tmp_path / "raw", named)
    calibrations = tmp_path / "calibrations"
    save_profile(profile(side=64, hot=[(3, 3)]), calibrations / "zyla.json")
    settings = quick_settings(tmp_path, calibrations=str(calibrations))
    with running(settings) as daemon, source(daemon) as connection:
        first = first_of(named[0][2])
        upload = opened(connection, tmp_path / "raw_refocused", raw=str(raw), first=first)
        assert upload.opened is not None
        for axes, plane, metadata in named[:3]:
            pump_until(upload, lambda: upload.credit)
            key = json.dumps(dict(sorted(axes.items())), separators=(",", ":"))
            upload.submit(plane, key, json.dumps(metadata), 0)
        pump_until(
            upload, lambda: daemon_status(daemon.endpoint).details[0].counts.passed_through == 3
        )
        return raw, upload.opened.run


def states(output: Path) -> list[str]:
    return [said["refocusd"]["calibration"] for _, said in read_all(output).values()]


def test_a_run_is_resumed_with_its_own_profiles(tmp_path: Path) -> None:
    raw, run = begun(tmp_path)
    calibrations = tmp_path / "calibrations"
    own = calibrations / "zyla.json"
    kept = own.read_bytes()
    own.unlink()
    flags = ("--calibrations", calibrations)
    status, said = told("resume", raw, *flags, place=tmp_path)
    assert status == 2
    flat = " ".join(said.split())
    assert "started with calibration profile" in flat
    assert "which is not in" in flat
    assert f"refocusd process {raw}" in flat
    # Restored beside a profile that matches better: the run is unchanged.
    own.write_bytes(kept)
    save_profile(profile(channel="DAPI", side=64), calibrations / "newer.json")
    status, said = told("resume", raw, *flags, place=tmp_path)
    assert status == 0, said
    output = raw.with_name("raw_refocused")
    assert made_by(output)["run"] == run
    assert len(states(output)) == 8
    assert set(states(output)) == set(made_by(output)["profiles"])
    # From scratch, the better match is used: another run beside the first.
    status, said = told("process", raw, *flags, place=tmp_path)
    assert status == 0, said
    (second,) = tmp_path.glob("raw_refocused_*")
    assert made_by(second)["run"] != run
    assert set(states(second)) != set(states(output))


def test_a_daemon_picks_up_what_was_begun_with_a_profile(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    raw, run = begun(tmp_path)
    calibrations = tmp_path / "calibrations"
    settings = quick_settings(tmp_path, calibrations=str(calibrations))
    aside = calibrations.rename(tmp_path / "aside")
    named = "was left unfinished: the run was started with calibration profile"
    with caplog.at_level(logging.WARNING), running(settings) as daemon:
        # They are looked for at the broker's next tick after the workers are ready.
        with closing(source(daemon)) as connection:
            for _ in range(100):
                if named in caplog.text:
                    break
                connection.receive(0.1)
        assert daemon_status(daemon.endpoint).details == []
    assert named in caplog.text
    aside.rename(calibrations)
    with running(settings) as daemon:
        with closing(source(daemon)) as connection:
            while not (ended := [d for d in _details(daemon) if d.state == "ended"]):
                connection.receive(0.1)
        assert [d.run for d in ended] == [run]
    assert len(states(raw.with_name("raw_refocused"))) == 8


def _details(daemon: Daemon) -> list[wire.AcquisitionStatus]:
    return daemon_status(daemon.endpoint).details

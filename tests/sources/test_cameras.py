"""Several cameras with the same axes: what raw keeps is refocused, the rest is reported."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from live import quick_settings, read_all, running
from waiting import PATIENCE_S

import refocusd
from refocusd.daemon.daemon import Daemon
from refocusd.demo.microscope import DemoMicroscope
from refocusd.sources.cameras import Cameras
from refocusd.transport.messages import Counts

EVENTS = {
    "snapped": [{"axes": {"time": t}, "min_start_time": 0.01 * t} for t in range(3)],
    "sequenced": [{"axes": {"time": t}} for t in range(3)],
}


@pytest.fixture
def two_cameras(demo_microscope: DemoMicroscope) -> Iterator[Any]:
    core = demo_microscope.core
    if "Both" not in list(core.get_loaded_devices()):
        for label, library, device in (
            ("Camera2", "DemoCamera", "DCam"),
            ("Both", "Utilities", "Multi Camera"),
        ):
            core.load_device(label, library, device)
            core.initialize_device(label)
        for name in ("PixelType", "OnCameraCCDXSize", "OnCameraCCDYSize"):
            core.set_property("Camera2", name, core.get_property("Camera", name))
        core.set_property("Both", "Physical Camera 1", "Camera")
        core.set_property("Both", "Physical Camera 2", "Camera2")
    core.set_camera_device("Both")
    try:
        yield core
    finally:
        core.set_camera_device("Camera")


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    with running(quick_settings(tmp_path)) as daemon:
        yield daemon


def numbering() -> Callable[..., Any]:
    """A user's hook that sets all pixels of the n-th frame to n."""
    taken = iter(range(1, 100))
    return lambda image, metadata: (np.full_like(image, next(taken)), metadata)


def acquire(source: refocusd.Source, kind: str, directory: Path | None, own: Any) -> Path | None:
    from pycromanager import Acquisition

    arguments = source.hooks(str(directory) if directory else None, kind, image_process_fn=own)
    with Acquisition(show_display=False, **arguments) as acquisition:
        acquisition.acquire(EVENTS[kind])
        dataset = acquisition.get_dataset()
    return Path(dataset.path) if directory else None


def values(folder: Path) -> dict[str, int]:
    return {key: int(pixels[0, 0]) for key, (pixels, _) in read_all(folder).items()}


@pytest.mark.usefixtures("two_cameras")
@pytest.mark.parametrize("kind", ["snapped", "sequenced"])
def test_of_frames_with_the_same_axes_the_one_that_raw_keeps_is_refocused(
    daemon: Daemon, tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    source = refocusd.Source(daemon.endpoint)
    with caplog.at_level(logging.WARNING):
        raw = acquire(source, kind, tmp_path, numbering())
        counts = source.wait(PATIENCE_S)
    assert raw is not None
    assert counts == Counts(acquired=6, passed_through=3, skipped=3)
    assert len(values(raw)) == 3
    assert values(raw.with_name(raw.name + "_refocused")) == values(raw)
    assert "several cameras give frames with the same axes" in caplog.text


@pytest.mark.usefixtures("two_cameras")
@pytest.mark.parametrize("kind", ["snapped", "sequenced"])
def test_without_raw_data_each_camera_has_an_axis_value_of_its_own(
    daemon: Daemon, tmp_path: Path, kind: str
) -> None:
    output = tmp_path / "live"
    source = refocusd.Source(daemon.endpoint, output=str(output))
    acquire(source, kind, None, numbering())
    assert source.wait(PATIENCE_S) == Counts(acquired=6, passed_through=6)
    assert sorted(values(output).values()) == [1, 2, 3, 4, 5, 6]
    if kind == "sequenced":
        return  # pycromanager mixes up the events of cameras that are not in step
    assert set(values(output)) == {
        f'{{"camera":"{camera}","time":{t}}}' for camera in ("Camera", "Camera2") for t in range(3)
    }


@pytest.mark.usefixtures("two_cameras")
def test_axes_that_a_users_hook_gives_the_cameras_are_kept(daemon: Daemon, tmp_path: Path) -> None:
    cameras = iter("ababab")

    def own(image: Any, metadata: dict[str, Any]) -> Any:
        metadata["Axes"]["channel"] = next(cameras)
        return image, metadata

    source = refocusd.Source(daemon.endpoint)
    raw = acquire(source, "snapped", tmp_path, own)
    assert raw is not None
    assert source.wait(PATIENCE_S) == Counts(acquired=6, passed_through=6)
    assert len(values(raw)) == len(values(raw.with_name(raw.name + "_refocused"))) == 6


def test_one_camera_has_no_axis_and_is_asked_for_once() -> None:
    asked = []

    def names() -> list[str]:
        asked.append(1)
        return ["Camera"]

    cameras = Cameras(names)
    for number in range(3):
        said = {"Axes": {"time": number}, "CameraChannelIndex": 0}
        assert cameras.camera_of(said) == ""
    assert len(asked) == 1


def test_interleaved_cameras_are_distinguished() -> None:
    cameras = Cameras(lambda: ["left", "right", "top"])
    assert cameras.camera_of({"Axes": {}, "CameraChannelIndex": 2}) == "top"
    assert cameras.camera_of({"Axes": {}, "Both-CameraChannelIndex": "1"}) == "right"
    assert cameras.camera_of({"Axes": {}, "CameraChannelIndex": 3}) == ""
    assert cameras.camera_of({"Axes": {"camera": "x"}, "CameraChannelIndex": 1}) == ""
    come = [cameras.others_come(key) for key in "aabbaab"]
    assert come == [True, True, True, True, False, True, False]

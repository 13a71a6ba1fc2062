"""The layers that napari gets from refocused datasets; napari itself is not needed."""

from __future__ import annotations

import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from view_process import view_of
from view_standin import CHANNELS, PIXEL_UM, Scene, StandIn, scene_of_nuclei, written_run
from waiting import until

from refocusd.cli.main import main
from refocusd.datasets.run_folder import RUN_FILE
from refocusd.errors import TransportError
from refocusd.formats.open_sink import SinkKind
from refocusd.napari_plugin.layers import LayerData
from refocusd.napari_plugin.live import NAMES, LiveStatus, frame_layers, watched
from refocusd.napari_plugin.reader import dataset_layers, get_reader
from refocusd.view.client import ApiClient, ShownFrame


@pytest.fixture(scope="module")
def scene() -> Scene:
    return scene_of_nuclei()


def by_name(layers: list[LayerData]) -> dict[str, LayerData]:
    return {layer[1]["name"]: layer for layer in layers}


@pytest.mark.parametrize("kind", ["ndtiff", "ome-zarr"])
def test_raw_refocused_and_trust_lie_over_each_other(
    kind: SinkKind, scene: Scene, tmp_path: Path
) -> None:
    output = written_run(tmp_path, scene, kind)
    reader = get_reader(str(output))
    assert reader is not None
    layers = by_name(reader(output))
    names = [f"{what} {c}" for what in ("cells_1", "cells_1_refocused", "trust") for c in CHANNELS]
    assert list(layers) == names
    planes = len(scene.axes) // len(CHANNELS)
    for number, channel in enumerate(CHANNELS):
        raw, raw_look, _ = layers[f"cells_1 {channel}"]
        refocused, look, _ = layers[f"cells_1_refocused {channel}"]
        trust, trust_look, _ = layers[f"trust {channel}"]
        assert raw.shape == refocused.shape == (2, planes, *scene.raw.shape[1:])
        index = scene.axes.index({"channel": channel, "z": 2})
        np.testing.assert_array_equal(raw[1, 2], scene.raw[index])
        np.testing.assert_array_equal(refocused[1, 2], scene.refocused[index])
        np.testing.assert_array_equal(trust[1, 2], scene.trust(index))
        assert look["scale"] == raw_look["scale"] == (1.0, 1.0, PIXEL_UM, PIXEL_UM)
        assert look["units"] == ("pixel", "pixel", "um", "um")
        assert look["axis_labels"] == ("time", "z", "y", "x")
        assert look["contrast_limits"] == raw_look["contrast_limits"]
        # Refocused covers raw and is not added to it.
        assert look["blending"] == raw_look["blending"] == ("additive" if number else "translucent")
        # The upper left corners of the first cell and the first pixel coincide.
        corner_um = trust_look["translate"][-1] - 16 * PIXEL_UM / 2
        assert corner_um == pytest.approx(-PIXEL_UM / 2)
        assert trust_look["scale"][-2:] == (16 * PIXEL_UM, 16 * PIXEL_UM)
        assert look["metadata"]["refocusd"]["model"] == "live-2"


def test_a_frame_that_is_pending_is_black_and_nothing_is_said_of_its_trust(
    scene: Scene, tmp_path: Path
) -> None:
    layers = by_name(dataset_layers(written_run(tmp_path, scene)))
    channel = str(scene.axes[-1]["channel"])
    assert np.asarray(layers[f"cells_1 {channel}"][0][1, -1]).any()
    assert not np.asarray(layers[f"cells_1_refocused {channel}"][0][1, -1]).any()
    assert (np.asarray(layers[f"trust {channel}"][0][1, -1]) == 255).all()


def test_without_raw_and_trust_the_refocused_frames_are_shown(scene: Scene, tmp_path: Path) -> None:
    output = written_run(tmp_path, scene)
    shutil.rmtree(tmp_path / "cells_1")
    shutil.rmtree(output / "trust")
    assert list(by_name(dataset_layers(output))) == [f"cells_1_refocused {c}" for c in CHANNELS]


def test_what_is_not_ours_is_left_to_others(scene: Scene, tmp_path: Path) -> None:
    output = written_run(tmp_path, scene)
    assert get_reader(str(tmp_path / "cells_1")) is None
    assert get_reader([str(output)]) is None
    (output / RUN_FILE).unlink()
    assert get_reader(str(output)) is None


def test_nothing_of_refocusd_imports_napari_or_qt() -> None:
    code = (
        "import sys, refocusd.napari_plugin.reader, refocusd.napari_plugin.live, refocusd.cli.main;"
        "sys.exit(any(name in sys.modules for name in ('napari', 'qtpy', 'dask')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_live_frames_lie_side_by_side_with_one_contrast(scene: Scene) -> None:
    with StandIn(scene, fps=0) as daemon, view_of(daemon.endpoint) as port:
        looking, drawn = threading.Event(), threading.Event()
        looking.set()
        news = watched(ApiClient(f"http://127.0.0.1:{port}"), looking, drawn)
        statuses = (said for said in news if isinstance(said, LiveStatus))
        status = until(lambda: (s := next(statuses)).paused is not None and s, "a daemon")
        drawn.set()
        frame = until(lambda: (f := next(news)) and isinstance(f, ShownFrame) and f, "a frame")
        news.close()
    assert "model: live-nuclei-2" in status.text
    assert "cells_1: live" in status.text
    assert {each["verdict"] for each in status.doubted} == {"doubtful"}
    (raw, raw_look, _), (refocused, look, _), (trust, trust_look, _) = frame_layers(frame)
    assert [each["name"] for each in (raw_look, look, trust_look)] == list(NAMES)
    axes = {name: value for name, value in frame.about["axes"].items() if name != "time"}
    index = scene.axes.index(axes)
    np.testing.assert_array_equal(raw, scene.raw[index])
    np.testing.assert_array_equal(refocused, scene.refocused[index])
    np.testing.assert_array_equal(trust, scene.trust(index))
    assert look["contrast_limits"] == raw_look["contrast_limits"]
    assert look["scale"] == raw_look["scale"] == (PIXEL_UM, PIXEL_UM)
    assert look["translate"] == (0.0, 0.0)
    assert raw_look["translate"][1] < -raw.shape[1] * PIXEL_UM


def test_a_script_that_does_not_look_gets_the_state_only(scene: Scene) -> None:
    with StandIn(scene) as daemon, view_of(daemon.endpoint) as port:
        news = watched(ApiClient(f"http://127.0.0.1:{port}"), threading.Event(), threading.Event())
        told = [next(news) for _ in range(8)]
        news.close()
    assert not any(isinstance(said, ShownFrame) for said in told)


def test_the_end_of_a_view_is_reported(scene: Scene) -> None:
    with StandIn(scene) as daemon:
        with view_of(daemon.endpoint) as port:
            news = watched(
                ApiClient(f"http://127.0.0.1:{port}"), threading.Event(), threading.Event()
            )
            next(news)
        with pytest.raises(TransportError, match=r"ended|gone"):
            list(news)


def test_without_napari_the_message_says_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "napari", None)  # as if it were not installed
    assert main(["view", "--napari"]) != 0
    assert "refocusd[napari]" in capsys.readouterr().err

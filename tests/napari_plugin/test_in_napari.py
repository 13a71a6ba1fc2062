"""The plugin in napari itself, without a screen: `.ci/napari` runs these."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from plates_on_disk import FIELDS, write_plate
from view_process import view_of
from view_standin import CHANNELS, PIXEL_UM, Scene, StandIn, scene_of_nuclei, written_run
from waiting import until

import refocusd.napari_plugin
from refocusd.datasets.run_folder import trust_maps_of
from refocusd.errors import TransportError
from refocusd.formats.open_dataset import open_dataset
from refocusd.formats.open_sink import create_sink
from refocusd.napari_plugin.live import NAMES
from refocusd.view.client import ApiClient

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
reason = 'napari is not installed: pip install "refocusd[napari]", or run .ci/napari'
ViewerModel = pytest.importorskip("napari.components", reason=reason).ViewerModel
npe2 = pytest.importorskip("npe2", reason=reason)
QApplication = pytest.importorskip("qtpy.QtWidgets", reason=reason).QApplication

MANIFEST = Path(refocusd.napari_plugin.__file__).with_name("napari.yaml")


@pytest.fixture(scope="module")
def scene() -> Scene:
    return scene_of_nuclei()


@pytest.fixture(scope="module")
def plugins() -> Any:
    manager = npe2.PluginManager.instance()
    manager.discover()
    if "refocusd" not in manager:
        manager.register(npe2.PluginManifest.from_file(MANIFEST))
    return manager


@pytest.fixture(scope="module")
def application() -> Any:
    return QApplication.instance() or QApplication([])


@pytest.fixture
def daemon(scene: Scene) -> Iterator[StandIn]:
    with StandIn(scene, fps=5.0) as daemon:
        yield daemon


@contextmanager
def connected(daemon: StandIn) -> Iterator[Any]:
    """The widget in a viewer, connected to a view of the daemon."""
    from refocusd.napari_plugin.widget import LiveWidget

    with view_of(daemon.endpoint) as port:
        widget = LiveWidget(ViewerModel(), f"http://127.0.0.1:{port}")
        widget.toggle_connection()
        yield widget
        widget.deleteLater()


@pytest.fixture
def widget(application: Any, daemon: StandIn) -> Iterator[Any]:
    with connected(daemon) as widget:
        yield widget


def seen(application: Any, done: Callable[[], Any], what: str) -> Any:
    """Wait while Qt processes events, as for a user."""
    return until(lambda: application.processEvents() or done(), what)


def test_the_manifest_is_valid_and_what_it_names_can_be_imported() -> None:
    manifest = npe2.PluginManifest.from_file(MANIFEST)
    manifest.validate_imports()
    (reader,) = manifest.contributions.readers
    names = ["a_refocused", "a_refocused.zarr", "a_refocused_0123abcd", "a_refocused_0123abcd.zarr"]
    assert all(any(Path(name).match(p) for p in reader.filename_patterns) for name in names)


@pytest.mark.parametrize("kind", ["ndtiff", "ome-zarr"])
def test_a_dropped_dataset_opens_beside_its_raw_one(
    kind: Any, plugins: Any, scene: Scene, tmp_path: Path
) -> None:
    viewer = ViewerModel()
    viewer.open(str(written_run(tmp_path, scene, kind)), plugin="refocusd")
    assert [layer.name for layer in viewer.layers][::2] == [
        f"{name} {CHANNELS[0]}" for name in ("cells_1", "cells_1_refocused", "trust")
    ]
    viewer.dims.set_point((0, 1), (1, 2))
    refocused = viewer.layers[f"cells_1_refocused {CHANNELS[0]}"]
    index = scene.axes.index({"channel": CHANNELS[0], "z": 2})
    np.testing.assert_array_equal(refocused.data[1, 2], scene.refocused[index])
    # A pixel and its cell of the trust map are at the same place in the specimen.
    trust = viewer.layers[f"trust {CHANNELS[0]}"]
    pixel = trust.world_to_data(refocused.data_to_world((1, 2, 16 * 3 + 7.5, 16 * 5 + 7.5)))
    assert pixel == pytest.approx((1, 2, 3, 5))
    colours = trust.colormap.map(np.array([10, 30, 80, 255]) / 255)
    assert [tuple(np.rint(255 * colour[:3])) for colour in colours[:3]] == [
        (0, 170, 190),
        (255, 176, 0),
        (176, 38, 255),
    ]
    assert colours[3][3] == 0


def test_the_newest_frame_is_a_layer_with_its_trust_over_it(
    application: Any, widget: Any, daemon: StandIn
) -> None:
    layers = widget._viewer.layers
    seen(application, lambda: set(NAMES) <= {layer.name for layer in layers}, "the live layers")
    raw, refocused, trust = (layers[name] for name in NAMES)
    assert tuple(refocused.scale) == (PIXEL_UM, PIXEL_UM)
    assert trust.visible
    widget.overlay.click()
    assert not trust.visible
    before = refocused.metadata["refocusd"]["axes"]
    seen(application, lambda: refocused.metadata["refocusd"]["axes"] != before, "the next frame")
    assert len(layers) == 3
    raw.contrast_limits = (10, 20)
    assert refocused.contrast_limits == [10, 20]


def test_refocusing_is_paused_and_resumed(application: Any, widget: Any, daemon: StandIn) -> None:
    seen(application, widget.pause.isEnabled, "a daemon")
    for paused, next_word in ((True, "Resume"), (False, "Pause")):
        widget.pause.click()
        text = widget.pause.text
        seen(application, lambda: text().startswith(next_word), next_word)  # noqa: B023
        assert daemon.paused is paused
    assert "model: live-nuclei-2" in widget.state.text()


def test_a_frame_to_look_at_is_shown_whatever_comes(
    application: Any, scene: Scene, tmp_path: Path
) -> None:
    raw = written_run(tmp_path, scene).with_name("cells_1")
    with StandIn(scene, fps=5.0, raw=raw) as daemon, connected(daemon) as widget:
        item = seen(application, lambda: widget.doubted.item(1), "frames to look at")
        assert "doubtful: light of one part changed" in item.text()
        widget.doubted.itemActivated.emit(item)
        wanted = {"channel": "DAPI", "time": 0, "z": 0}

        def shown() -> bool:
            layer = next((each for each in widget._viewer.layers if each.name == NAMES[1]), None)
            return layer is not None and layer.metadata["refocusd"]["axes"] == wanted

        seen(application, shown, "the frame of the list")
        assert not widget.live.isChecked()


def test_a_frame_that_is_gone_does_not_end_the_connection(
    application: Any, widget: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    monkeypatch.setattr("napari.utils.notifications.show_warning", told.append)
    item = seen(application, lambda: widget.doubted.item(0), "frames to look at")
    widget.doubted.itemActivated.emit(item)
    seen(application, lambda: told, "the reason")
    assert "is not on disk" in told[0]
    assert widget.connecting.text() == "Disconnect"


@pytest.mark.parametrize("error", [TransportError("it is gone"), ValueError("odd answer")])
def test_a_panel_that_cannot_go_on_says_so(
    application: Any, widget: Any, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    seen(application, widget.pause.isEnabled, "a daemon")
    monkeypatch.setattr(ApiClient, "frame", fail)
    seen(application, lambda: widget.connecting.text() == "Connect", "the end")
    assert str(error) in widget.state.text()
    assert not widget.pause.isEnabled()


def test_what_is_wrong_is_reported_in_the_widget(application: Any, widget: Any) -> None:
    seen(application, widget.pause.isEnabled, "a daemon")
    widget.connecting.click()
    assert widget.state.text() == "Not connected"
    widget.token_file.setText("/not/there")
    widget.connecting.click()
    assert "cannot be read" in widget.state.text()
    widget.token_file.clear()
    widget.url.setText("http://127.0.0.1:9")
    widget.connecting.click()
    seen(application, lambda: "no live view" in widget.state.text(), "the reason")
    assert widget.connecting.text() == "Connect"


def test_ome_zarr_of_ours_opens_without_our_reader_too(
    plugins: Any, scene: Scene, tmp_path: Path
) -> None:
    pytest.importorskip("napari_ome_zarr", reason="napari-ome-zarr is not installed")
    # It accepts folders with this ending.
    folder = written_run(tmp_path, scene, "ome-zarr").rename(tmp_path / "cells_1_refocused.zarr")
    viewer = ViewerModel()
    viewer.open([folder, trust_maps_of(folder)], plugin="napari-ome-zarr", stack=False)
    names = [f"refocused: {channel}" for channel in CHANNELS]
    assert [layer.name for layer in viewer.layers] == [*names, *(f"{name} [1]" for name in names)]
    refocused, trust = viewer.layers[names[0]], viewer.layers[f"{names[0]} [1]"]
    index = scene.axes.index({"channel": CHANNELS[0], "z": 2})
    np.testing.assert_array_equal(refocused.data[1, 2], scene.refocused[index])
    np.testing.assert_array_equal(trust.data[1, 2], scene.trust(index))
    assert tuple(refocused.scale) == (1.0, 1.0, PIXEL_UM, PIXEL_UM)


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_a_refocused_plate_opens_without_our_reader_too(
    plugins: Any, version: str, tmp_path: Path
) -> None:
    pytest.importorskip("napari_ome_zarr", reason="napari-ome-zarr is not installed")
    raw, out = tmp_path / "plate.zarr", tmp_path / "plate_refocused.zarr"
    pixels = write_plate(raw, version=version)
    with open_dataset(raw) as frames, create_sink("ndtiff", out, frames.summary) as sink:
        for key in frames.axes_keys():
            frame = frames.read(key)
            sink.write(frame.pixels, frame.axes, frame.metadata)
    viewer = ViewerModel()
    viewer.open(str(out / FIELDS[0]), plugin="napari-ome-zarr")
    assert [layer.name for layer in viewer.layers] == ["0: DAPI", "0: GFP"]
    np.testing.assert_array_equal(viewer.layers[1].data[0][1, 2], pixels[FIELDS[0]][1, 1, 2])
    assert tuple(viewer.layers[0].scale) == (30.0, 2.0, 0.65, 0.65)
    viewer.open(str(out), plugin="napari-ome-zarr")
    assert len(viewer.layers) == 4

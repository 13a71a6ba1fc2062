"""The panel beside napari-micromanager, in one window (of Xvfb): `.ci/napari` runs this."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from live import quick_settings, running
from view_process import view_of
from waiting import until

from refocusd.napari_plugin.live import NAMES
from refocusd.sources.pymmcore_plus import attach_mda

if os.environ.get("QT_QPA_PLATFORM") != "xcb":
    # Without a screen, Qt ends the process when napari's window is drawn.
    why = "it takes a window that is drawn: .ci/napari runs this with Xvfb"
    pytest.skip(why, allow_module_level=True)
reason = "napari-micromanager is not installed: run .ci/napari"
napari = pytest.importorskip("napari", reason=reason)
napari_micromanager = pytest.importorskip("napari_micromanager", reason=reason)
useq = pytest.importorskip("useq", reason=reason)
adapters = pytest.importorskip("mm_test_adapters", reason="mm-test-adapters is not installed")


@pytest.mark.timeout(600)
def test_an_mda_of_napari_micromanager_is_shown_refocused_in_its_window(tmp_path: Path) -> None:
    from refocusd.napari_plugin.widget import LiveWidget

    libs = Path(adapters.device_adapter_path())
    viewer = napari.Viewer(show=False)
    window = napari_micromanager.MainWindow(viewer)
    viewer.window.add_dock_widget(window, name="Micro-Manager")
    core = window.core
    core.setDeviceAdapterSearchPaths([str(libs)])
    core.loadSystemConfiguration(str(libs / "MMConfig_demo.cfg"))
    sequence = useq.MDASequence(channels=["DAPI"], z_plan={"range": 4, "step": 2})
    with running(quick_settings(tmp_path)) as daemon, view_of(daemon.endpoint) as port:
        attached = attach_mda(core, tmp_path / "out", endpoint=daemon.endpoint)
        panel = LiveWidget(viewer, f"http://127.0.0.1:{port}")
        viewer.window.add_dock_widget(panel, name="refocusd")
        panel.toggle_connection()
        application = napari.qt.get_qapp()

        def names() -> set[str]:
            application.processEvents()
            return {layer.name for layer in viewer.layers}

        until(lambda: names() is not None and panel.pause.isEnabled(), "the panel's connection")
        acquiring = core.run_mda(sequence)
        until(lambda: set(NAMES[:2]) <= names(), "the refocused frame")
        # napari-micromanager shows what it acquires in its own layer.
        until(lambda: names() - set(NAMES), "the layer of napari-micromanager")
        acquiring.join()
        until(lambda: names() is not None and attached.wait(0.1), "the end")
        counts = attached.wait(90.0)
        attached.detach()
        panel.toggle_connection()
    assert counts is not None
    assert counts.acquired == counts.passed_through == 3
    viewer.close()

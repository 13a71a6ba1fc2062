"""The guide's recipe, run in ndv, the viewer of pymmcore-gui: `.ci/napari` runs this."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from view_process import view_of
from view_standin import StandIn, scene_of_nuclei
from waiting import until

import refocusd
from refocusd.view import client

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
ndv = pytest.importorskip("ndv", reason="ndv is not installed: run .ci/napari")
QApplication = pytest.importorskip("qtpy.QtWidgets").QApplication

GUIDE = Path(refocusd.__file__).parents[1] / "docs" / "guide" / "napari.md"


def recipe() -> str:
    (code,) = re.findall(r"```python\n(.*?)```", GUIDE.read_text(encoding="utf-8"), re.DOTALL)
    return str(code)


def test_the_newest_frame_is_shown_with_raw_on_the_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """It works even if the daemon starts after the viewer and ends before it."""
    scene = scene_of_nuclei()
    monkeypatch.setattr(ndv, "run_app", lambda: None)
    with StandIn(scene, fps=5.0) as daemon, view_of(daemon.endpoint) as port:
        nobody = client.ApiClient("http://127.0.0.1:9")
        somebody = client.ApiClient(f"http://127.0.0.1:{port}")
        monkeypatch.setattr(client, "ApiClient", lambda: nobody)
        names: dict[str, Any] = {}
        exec(recipe(), names)
        application, viewer = QApplication.instance(), names["viewer"]
        names["look"]()
        assert viewer.data.shape == (2, 2), "nobody is there"
        names["client"] = somebody
        seen: set[str] = set()

        def goes_on() -> bool:
            application.processEvents()
            seen.add(names["shown"])
            return len(seen) > 3

        until(goes_on, "frames")
        names["timer"].stop()
        beside = [np.hstack(pair) for pair in zip(scene.raw, scene.refocused, strict=True)]
        assert any(np.array_equal(viewer.data, pair) for pair in beside)
    names["look"]()
    viewer.close()

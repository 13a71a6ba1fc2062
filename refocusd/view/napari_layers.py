"""``refocusd view --napari``: raw and refocused as two linked layers, kept up to date."""

from __future__ import annotations

import importlib
from dataclasses import dataclass, field
from typing import Any

from refocusd.errors import ConfigError
from refocusd.frame import Pixels
from refocusd.profiles.microscope_metadata import pixel_um_of
from refocusd.view.frames.snapshot import auto_window
from refocusd.view.state.link import DaemonLink
from refocusd.view.state.view_state import Preview, ViewState

__all__ = ["LayerData", "layer_data", "show_in_napari"]

#: What napari calls a LayerDataTuple: pixels, attributes of the layer, its type.
LayerData = tuple[Pixels, dict[str, Any], str]

#: Asked of the daemon, in pixels a side, and drawn a second.
SIDE = 1024
PERIOD_MS = 100


def layer_data(preview: Preview) -> list[LayerData]:
    """The raw and the refocused layer of a live frame, with one contrast and scale."""
    um = pixel_um_of(preview.metadata)
    side = preview.shown.step * (um or 1.0)
    window = auto_window(preview.raw, preview.refocused)
    attributes = {
        "scale": (side, side),
        "contrast_limits": (window.low, window.high),
        "metadata": {
            "acquisition": preview.shown.name,
            "axes": dict(preview.axes),
            "state": preview.shown.state,
            "every_nth_pixel": preview.shown.step,
            "unit": "um" if um else "pixel",
            "note": "refocused is an estimate by a neural network, not a measurement",
        },
    }
    return [
        (preview.raw, {"name": "raw", **attributes}, "image"),
        (preview.refocused, {"name": "refocused", **attributes}, "image"),
    ]


def show_in_napari(endpoint: str) -> int:
    """Open napari and show the newest frames until its window is closed.

    Raises
    ------
    ConfigError
        If napari is not installed.
    """
    napari = _napari()
    # With napari there is Qt.
    timers = importlib.import_module("qtpy.QtCore")
    state = ViewState(endpoint)
    viewer = napari.Viewer(title="refocusd")
    shown = _Shown(viewer, state)
    with DaemonLink(state), state.page():
        timer = timers.QTimer()
        timer.timeout.connect(shown.update)
        timer.start(PERIOD_MS)
        napari.run()
        timer.stop()
    return 0


def _napari() -> Any:
    try:
        return importlib.import_module("napari")
    except ImportError as error:
        raise ConfigError(
            'napari is not installed; `pip install "refocusd[napari]"`, or use the page: '
            "`refocusd view`"
        ) from error


@dataclass
class _Shown:
    """The two layers in a viewer: added with the first frame, updated with the next."""

    _viewer: Any
    _state: ViewState
    _number: int = 0
    _linked: bool = False
    _layers: dict[str, Any] = field(default_factory=dict)

    def update(self) -> None:
        """Show the newest frame, if it is a new one."""
        self._state.looks(SIDE)
        preview = self._state.newest()
        if preview is None:
            self._viewer.status = self._state.link.reason or "waiting for the first frame"
            return
        if preview.number == self._number:
            return
        self._number = preview.number
        for pixels, attributes, _ in layer_data(preview):
            name = attributes["name"]
            layer = self._layers.get(name)
            if layer is None or layer not in self._viewer.layers:
                self._layers[name] = self._viewer.add_image(pixels, **attributes)
                continue
            layer.data = pixels
            layer.scale = attributes["scale"]
            layer.metadata = attributes["metadata"]
        self._link()

    def _link(self) -> None:
        layers = list(self._layers.values())
        if len(layers) == 2 and not self._linked:
            # One contrast for both; the user's grid mode shows them side by side.
            link = importlib.import_module("napari.experimental").link_layers
            link(layers, ("contrast_limits", "gamma", "scale"))
            self._viewer.grid.enabled = True
            self._viewer.scale_bar.visible = True
            self._linked = True

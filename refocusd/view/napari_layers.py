"""``refocusd view --napari``: raw and refocused as two linked layers, kept up to date."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any

from refocusd.errors import ConfigError
from refocusd.frame import Pixels
from refocusd.view.frames.encode import pixel_um
from refocusd.view.frames.snapshot import auto_window
from refocusd.view.state.link import DaemonLink
from refocusd.view.state.view_state import Preview, ViewState

__all__ = ["LayerImage", "layer_images", "show_in_napari"]

#: Asked of the daemon, in pixels a side, and drawn a second.
SIDE = 1024
PERIOD_MS = 100


@dataclass(frozen=True, slots=True, eq=False)
class LayerImage:
    """What one layer of napari is to show.

    Parameters
    ----------
    name : str
    pixels : ndarray, shape (rows, columns)
    scale : tuple of float
        Height and width of one of these pixels, in `unit`.
    unit : {"um", "pixel"}
    contrast_limits : tuple of float
        The same for both layers.
    metadata : dict
    """

    name: str
    pixels: Pixels
    scale: tuple[float, float]
    unit: str
    contrast_limits: tuple[float, float]
    metadata: dict[str, Any]


def layer_images(preview: Preview) -> tuple[LayerImage, LayerImage]:
    """The raw and the refocused layer of a live frame."""
    um = pixel_um(preview.metadata)
    side = preview.shown.step * (um or 1.0)
    window = auto_window(preview.raw, preview.refocused)
    metadata = {
        "acquisition": preview.shown.name,
        "axes": dict(preview.axes),
        "state": preview.shown.state,
        "every_nth_pixel": preview.shown.step,
        "note": "refocused is an estimate by a neural network, not a measurement",
    }
    raw, refocused = (
        LayerImage(
            name,
            pixels,
            (side, side),
            "um" if um else "pixel",
            (window.low, window.high),
            metadata,
        )
        for name, pixels in (("raw", preview.raw), ("refocused", preview.refocused))
    )
    return raw, refocused


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
    shown = _Shown(napari, viewer, state)
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


class _Shown:
    """The two layers in a viewer: added with the first frame, updated with the next."""

    def __init__(self, napari: Any, viewer: Any, state: ViewState) -> None:
        self._napari = napari
        self._viewer = viewer
        self._state = state
        self._number = 0
        self._layers: dict[str, Any] = {}

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
        for image in layer_images(preview):
            layer = self._layers.get(image.name)
            if layer is None or layer not in self._viewer.layers:
                self._layers[image.name] = self._viewer.add_image(
                    image.pixels,
                    name=image.name,
                    scale=image.scale,
                    contrast_limits=image.contrast_limits,
                    metadata=image.metadata,
                )
                continue
            layer.data = image.pixels
            layer.scale = image.scale
            layer.metadata = image.metadata
        self._link()

    def _link(self) -> None:
        layers = list(self._layers.values())
        if len(layers) == 2 and not getattr(self, "_linked", False):
            # One contrast for both; the user's grid mode shows them side by side.
            link = importlib.import_module("napari.experimental").link_layers
            link(layers, ("contrast_limits", "gamma", "scale"))
            self._viewer.grid.enabled = True
            self._viewer.scale_bar.visible = True
            self._linked = True

"""State and frames of a running daemon for the widget, which reads them in another thread."""

from __future__ import annotations

import threading
from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

from refocusd.errors import TransportError
from refocusd.napari_plugin.layers import ESTIMATE, LayerData, spatial, trust_look
from refocusd.view.client import ApiClient, ShownFrame
from refocusd.view.frames.snapshot import auto_window

#: Names of the layers, from bottom to top.
NAMES = ("raw (live)", "refocused (live)", "trust (live)")
#: Longest side of live frames, in pixels.
SIDE = 1024
#: After this time the next frame is fetched, even if the viewer has not drawn the last one.
DRAWING_S = 5.0


@dataclass(frozen=True, slots=True)
class LiveStatus:
    """The daemon's state, in words.

    Parameters
    ----------
    text : str
        One or more lines.
    paused : bool or None
        Whether refocusing is paused; None while no daemon answers.
    doubted : tuple of dict
        Frames to look at, the newest first: `acquisition`, `axes`, `verdict`, `reasons`.
    """

    text: str
    paused: bool | None = None
    doubted: tuple[dict[str, Any], ...] = ()

    @classmethod
    def of(cls, said: dict[str, Any]) -> LiveStatus:
        """The status from an answer of the view's API."""
        health, daemon = said["health"], said["daemon"]
        lines = ["ready" if health["ready"] else f"not ready: {health['reason']}"]
        if daemon is None:
            return cls(lines[0])
        if daemon["paused"]:
            lines = ["paused"]
        if engine := daemon["engine"]:
            lines += [f"model: {engine['model_id'] or engine['backend']}"]
        lines += [f"{daemon['fps']:.1f} frames/s, {daemon['pending']} pending"]
        for about in daemon["acquisitions"][-1:]:
            counts = ", ".join(
                f"{n} {name.replace('_', ' ')}" for name, n in about["counts"].items()
            )
            lines += [f"{about['name']}: {about['state']}", counts, *about["warnings"][-1:]]
        return cls("\n".join(lines), daemon["paused"], tuple(daemon["doubted"]))


def watched(
    client: ApiClient, looking: threading.Event, drawn: threading.Event
) -> Generator[LiveStatus | ShownFrame | None]:
    """Yield what is new for as long as the view runs, and None every few seconds if nothing is.

    Parameters
    ----------
    client : ApiClient
    looking : Event
        Set while frames are wanted.
    drawn : Event
        Set by the reader once it has drawn a frame: a slow one gets fewer frames, never old ones.

    Raises
    ------
    TransportError
        If there is no view (any more), or it refuses this program.
    """
    shown = ""
    for event in client.events("events", heartbeat=True):
        if event.name == "status":
            yield LiveStatus.of(event.data)
        elif event.name != "frame" or not looking.is_set():
            yield None
        elif frame := client.frame("frame/latest", side=str(SIDE), after=shown):
            shown = frame.about["id"]
            drawn.clear()
            yield frame
            drawn.wait(DRAWING_S)
    raise TransportError(f"the live view at {client.url} has ended")


def frame_layers(frame: ShownFrame) -> list[LayerData]:
    """Layers named `NAMES`: refocused and trust at the origin, raw to the left of them."""
    about = frame.about
    um = about["pixel_um"]
    side = about["step"] * (um or 1.0)
    window = auto_window(*frame.frames.values())
    placed = spatial(2, um)
    look = {
        **placed,
        "scale": (side, side),
        "contrast_limits": (window.low, window.high),
        "metadata": {
            "refocusd": {
                **{name: about[name] for name in ("acquisition", "name", "axes", "state", "facts")},
                "every_nth_pixel": about["step"],
                "note": ESTIMATE,
            }
        },
    }
    layers: list[LayerData] = []
    for name, of_layer in zip(("raw", "refocused"), NAMES, strict=False):
        if (pixels := frame.frames.get(name)) is not None:
            left = -1.02 * side * pixels.shape[1] if name == "raw" else 0.0
            layers.append((pixels, {**look, "name": of_layer, "translate": (0.0, left)}, "image"))
    if frame.trust is not None:
        of_trust = {**trust_look(2, um), "name": NAMES[2], "metadata": look["metadata"]}
        layers.append((frame.trust, of_trust, "image"))
    return layers

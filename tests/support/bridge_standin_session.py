"""One short session of refocusd with the bridge: recorded once, then compared with the client.

Run as a script it writes ``data/bridge_session.json`` from what the installed pyjavaz sends.
"""

from __future__ import annotations

import gc
import json
from pathlib import Path
from typing import Any

import numpy as np
from bridge_standin import Standin
from bridge_standin_microscope import Microscope

from refocusd.sources.micromanager.bridge import Bridge

SESSION = Path(__file__).parent / "data" / "bridge_session.json"


def play() -> list[dict[str, Any]]:
    """Messages of a session that uses every class, with object names made comparable."""
    microscope = Microscope()
    store = microscope.begin("cells")
    pixels = np.arange(32 * 20, dtype=np.uint16).reshape(20, 32)
    store.put({"time": 0, "channel": 1}, pixels)
    microscope.expose(7, pixels)
    microscope.snap(pixels)
    with Standin(microscope, recorded=[]) as standin:
        _talk(standin.port)
        recorded = standin.recorded or []
    names: dict[str, str] = {}

    def named(value: Any) -> Any:
        if isinstance(value, dict):
            return {
                key: names.setdefault(inner, f"object {len(names) + 1}")
                if key == "hash-code"
                else 4827
                if key == "port"
                else named(inner)
                for key, inner in value.items()
            }
        return [named(inner) for inner in value] if isinstance(value, list) else value

    return [{"sent": named(sent), "answered": named(got)} for sent, got in recorded]


def _talk(port: int) -> None:
    bridge = Bridge("127.0.0.1", port)
    studio = bridge.studio
    assert bridge.call(bridge.call(studio.acquisitions).is_acquisition_running) is True
    settings = bridge.call(bridge.call(studio.acquisitions).get_acquisition_settings)
    assert (bridge.call(settings.save), bridge.call(settings.root)) == (False, "")
    listed = bridge.call(bridge.call(studio.displays).get_all_data_viewers)
    assert bridge.call(listed.to_string).count("DisplayController@") == 2
    viewers = bridge.items(listed)
    provider = bridge.call(viewers[0].get_data_provider)
    assert bridge.items(bridge.call(provider.get_axes)) == ["channel", "time"]
    assert bridge.call(provider.get_next_index, "channel") == 2
    where = bridge.call(bridge.call(studio.data).create_coords, "time=0,channel=1")
    image = bridge.call(provider.get_image, where)
    assert bridge.call(image.get_raw_pixels).dtype == np.uint16
    assert bridge.properties(bridge.call(image.get_metadata))["Camera"] == "Camera"
    assert bridge.call(provider.get_save_path) is None
    tagged = bridge.call(bridge.core.get_last_tagged_image)
    assert bridge.field(tagged, "tags")["ImageNumber"] == "7"
    assert bridge.field(tagged, "pix").size == 32 * 20
    assert bridge.call(bridge.call(studio.live).is_live_mode_on) is True
    display = bridge.call(bridge.call(studio.live).get_display)
    assert hasattr(bridge.call(display.get_data_provider), "delete_all_images")
    # Release every object while the bridge still exists.
    del studio, settings, listed, viewers, provider, where, image, tagged, display
    bridge.let_go()
    gc.collect()


if __name__ == "__main__":
    SESSION.parent.mkdir(exist_ok=True)
    messages = play()
    # Times and identities of a run are not part of the protocol.
    SESSION.write_text(json.dumps(messages, indent=1), encoding="utf-8")

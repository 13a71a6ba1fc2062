"""``refocusd view``: watch raw and refocused frames live, in a browser or in napari.

Serves the live view of a running daemon; needs nothing from the network.

examples:
  refocusd view                             http://127.0.0.1:8750/
  refocusd view --endpoint tcp://127.0.0.1:8751 --port 9000
  refocusd view --napari                    layers in napari (pip install "refocusd[napari]")
  refocusd view --host 10.0.0.5 --token-file token.txt --cert cert.pem --key key.pem
"""

from __future__ import annotations

import argparse

from refocusd.optional import need
from refocusd.transport.secure.user_keys import derived_secret
from refocusd.view.command import add_view_flags, run_view, view_options
from refocusd.view.http.options import ViewOptions
from refocusd.view.serve import serving


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    add_view_flags(parser)
    parser.add_argument(
        "--napari", action="store_true", help="show raw, refocused and trust map in napari instead"
    )


def run(arguments: argparse.Namespace) -> int:
    """Run the command and return its exit status."""
    if arguments.napari:
        return _show_in_napari(view_options(arguments))
    return run_view(arguments)


def _show_in_napari(options: ViewOptions) -> int:
    """Open napari with the widget and its own view server until its window is closed."""
    napari = need("napari", "refocusd view --napari", "napari")
    from refocusd.napari_plugin.widget import LiveWidget

    own = ViewOptions(options.endpoint, port=0, token=derived_secret("view"))
    with serving(own) as view:
        viewer = napari.Viewer(title="refocusd")
        viewer.scale_bar.visible = True
        widget = LiveWidget(viewer, view.url)
        viewer.window.add_dock_widget(widget, name="Live refocusing")
        widget.toggle_connection()
        napari.run()
    return 0

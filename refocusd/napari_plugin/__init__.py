"""The plugin for napari: a reader of refocused datasets, and a dock widget of the running daemon.

========  ==========================================================================================
`layers`  Image layers as napari takes them, made without napari
`live`    What a running daemon says and shows, for the widget: watched in another thread
`reader`  Refocused datasets as layers: raw, refocused and trust maps, channel by channel, read when shown
`widget`  The dock widget: connects to a running daemon's view, pauses it, and shows its newest frame
========  ==========================================================================================

napari finds both through the manifest ``napari.yaml``.  Nothing else in refocusd imports this package,
except ``refocusd view --napari``; nothing in it imports napari, so that the layers can be made, and
tested, without it.  The widget takes any viewer that has `layers` and `add_image`.

May import everything but `daemon`, `demo` and `cli`.
"""

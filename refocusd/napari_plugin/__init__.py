"""The plugin for napari: a reader of refocused datasets, and a dock widget of the running daemon.

========  ==========================================================================================
`layers`  Image layers in napari's form, made without napari
`live`    State and frames of a running daemon for the widget, which reads them in another thread
`reader`  Refocused datasets as layers: raw, refocused and trust maps, channel by channel, read when shown
`widget`  The dock widget: connects to a running daemon's view, pauses it, and shows its newest frame
========  ==========================================================================================

napari finds both through the manifest ``napari.yaml``.  Only ``refocusd view --napari`` imports this
package.  Nothing in it imports napari at the start, so that the layers can be made and tested
without it.  The widget takes any viewer that has `layers` and `add_image`.

May import everything but `daemon`, `demo` and `cli`.
"""

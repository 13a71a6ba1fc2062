"""Model bundles, and what runs them.

===================  ==========================================================
`engine`             the Protocol that every backend implements
`choose`             picks and builds the engine that the settings ask for
`openvino`           the embedded CPU engine (the default)
`tensorrt`, `cuda`   engines on NVIDIA cards; `cache` keeps what was compiled
`deconvolution`      physics without a network, from the frame's own blur
`identity`           frames as they are: measures the path without a network
`tiling`             which pixels a network sees at a time, and answers for
`autotune`           the best tiles on this machine, measured once
`normalise`          offset and scale of a whole frame
`verdict`            what is said of a refocused frame
`bundle`             a portable model folder, checked before it is used;
                     `bundle_description`, `onnx_guard` and `tensors` check it
`library`            the bundles that are shipped, and the user's own
`intake`, `archive`  adding a bundle to these
`foreign`            models of bioimage.io, by what `foreign_rdf` reads of them
`network`            a bundle's network as it is, for measuring and checking:
                     `receptive_field`, `bundle_check`
`models/`            the bundles that are shipped
===================  ==========================================================

May import `errors`, `frame`, `config`, `quality`.  Nothing in a bundle is ever
executed; engines are built from it on the machine that runs them.
"""

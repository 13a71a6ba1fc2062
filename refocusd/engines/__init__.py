"""Model bundles, and what runs them.

===============  ===================================================================================
`autotune`       Best tile and batch for an engine and a frame size, as measured on this computer
`cache`          Cache of compiled engines, by what they were compiled from
`choose`         The engine that the settings ask for, or the best that works here
`deconvolution`  Deconvolution with each frame's own blur, without a network
`engine`         The interfaces of engines and networks that the worker uses
`identity`       The identity, which returns frames unchanged, for measurements
`scaled`         Refocuses frames at the scale of their blur, whose width it measures
`self_test`      Compares an engine with the test tensors of its bundle
`tiled`          Runs a compiled network that sees frames at full size on frames of any size
`tiling`         Tiles of a frame: the pixels that a network sees at a time, and which of its results are used
`verdict`        The verdict on a frame: whether there was anything to refocus, and whether the result can be trusted
`runtimes/`      The runtimes of a bundle's network: OpenVINO, TensorRT through ONNX Runtime, torch
===============  ===================================================================================

May import `models`, `imaging`, `profiles` and what lies below.  Nothing in a bundle is ever
executed; engines are built from it on the machine that runs them.
"""

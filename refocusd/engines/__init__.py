"""Model bundles, and what runs them.

===============  ===================================================================================
`autotune`       Best tile and batch for an engine and a frame size, as measured on this computer
`cache`          Compiled engines, kept by what they were compiled from
`choose`         The engine that the settings ask for, or the best that works here
`deconvolution`  Deconvolution by each frame's own blur: physics, without a network
`engine`         What every backend offers to the worker
`identity`       The identity: frames come back as they are
`scaled`         Refocuses frames at the scale of their blur, which it measures as it goes
`self_test`      Compares an engine with the test tensors of its bundle
`tiled`          Frames of any size through a compiled network that sees them at full size
`tiling`         Tiles of a frame: which pixels a network sees at a time, and which of its results are used
`verdict`        The verdict on a frame: whether there was anything to refocus, and whether the result can be trusted
`runtimes/`      What runs a bundle's network: OpenVINO, TensorRT through ONNX Runtime, torch
===============  ===================================================================================

May import `models`, `imaging`, `profiles` and what lies below.  Nothing in a bundle is ever
executed; engines are built from it on the machine that runs them.
"""

"""Model bundles, and what runs them.

===============  ===================================================================================
`autotune`       Best tile and batch for an engine and a frame size, measured once on this computer
`cache`          Compiled engines, kept by what they were compiled from
`choose`         The engine that the settings ask for, or the best that works here
`cuda`           The engine by torch, on NVIDIA cards where TensorRT is absent
`deconvolution`  Deconvolution by each frame's own blur: physics, without a network
`engine`         What every backend offers to the worker
`identity`       The identity: frames come back as they are
`openvino`       The embedded CPU engine: a bundle's ONNX, compiled by OpenVINO
`self_test`      An engine held against the tensors of its bundle
`tiling`         Tiles of a frame: which pixels a network sees at a time, and which it answers for
`verdict`        What is said of a frame: whether there was anything to refocus, and whether the result can be trusted
`scaled/`        Models that work at the scale of the blur: one engine, and what runs their network
`tensorrt/`      Engines on NVIDIA cards by TensorRT, without torch
===============  ===================================================================================

May import `models`, `imaging`, `profiles` and what lies below.  Nothing in a bundle is ever
executed; engines are built from it on the machine that runs them.
"""

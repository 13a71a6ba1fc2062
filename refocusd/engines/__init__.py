"""Model bundles, and what runs them.

===============  ===================================================================================
`autotune`       Best tile and batch for an engine and a frame size, as measured on this computer
`cache`          Compiled engines, kept by what they were compiled from
`card`           The NVIDIA card of this machine, as its driver describes it
`choose`         The engine that the settings ask for, or the best that works here
`cuda`           Networks by torch, on NVIDIA cards where TensorRT is absent
`deconvolution`  Deconvolution by each frame's own blur: physics, without a network
`engine`         What every backend offers to the worker
`half`           A network as ONNX with its convolutions in half precision
`identity`       The identity: frames come back as they are
`onnxruntime`    A bundle's ONNX run by ONNX Runtime, through one of its execution providers
`openvino`       The embedded engine: a bundle's ONNX, compiled by OpenVINO for the CPU or another of its devices
`scaled`         Refocuses frames at the scale of their blur, and finds that blur out as it goes
`self_test`      An engine held against the tensors of its bundle
`tensorrt`       Engines on NVIDIA cards: compiled by TensorRT for RTX, run through ONNX Runtime's plug-in for it
`tiled`          Frames of any size through a compiled network that sees them at full size
`tiling`         Tiles of a frame: which pixels a network sees at a time, and which it answers for
`verdict`        What is said of a frame: whether there was anything to refocus, and whether the result can be trusted
===============  ===================================================================================

May import `models`, `imaging`, `profiles` and what lies below.  Nothing in a bundle is ever
executed; engines are built from it on the machine that runs them.
"""

"""The runtimes of a bundle's network: OpenVINO, TensorRT through ONNX Runtime, torch.

=============  =====================================================================================
`card`         The NVIDIA card of this machine, as described by its driver
`half`         Converts the convolutions of an ONNX network to half precision
`onnxruntime`  Runs a bundle's ONNX with ONNX Runtime, through one of its execution providers
`openvino`     The default engine: a bundle's ONNX, compiled by OpenVINO for the CPU or another of its devices
`tensorrt`     Engines on NVIDIA cards: compiled by TensorRT for RTX, run through ONNX Runtime's plug-in for it
`torch`        Networks run by torch, on NVIDIA cards without TensorRT
=============  =====================================================================================

Each module is imported only when its engine is wanted (`refocusd.engines.choose`), because it may load a
library of gigabytes.
"""

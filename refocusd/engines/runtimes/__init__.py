"""What runs a bundle's network: OpenVINO, TensorRT through ONNX Runtime, torch.

=============  =====================================================================================
`card`         The NVIDIA card of this machine, as its driver describes it
`half`         A network as ONNX with its convolutions in half precision
`onnxruntime`  A bundle's ONNX run by ONNX Runtime, through one of its execution providers
`openvino`     The embedded engine: a bundle's ONNX, compiled by OpenVINO for the CPU or another of its devices
`tensorrt`     Engines on NVIDIA cards: compiled by TensorRT for RTX, run through ONNX Runtime's plug-in for it
`torch`        Networks by torch, on NVIDIA cards where TensorRT is absent
=============  =====================================================================================

Each module is imported when its engine is asked for (`refocusd.engines.choose`), as it may load a library of
gigabytes.
"""

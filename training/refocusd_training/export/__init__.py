"""Exports model bundles: networks (ONNX, int8, TensorRT), description and model card."""

"""What a training leaves: a model bundle with its networks (ONNX, int8, TensorRT), description and card."""

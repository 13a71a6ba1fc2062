"""Exports model bundles: networks (ONNX, int8, TensorRT), description and model card.

==========  ========================================================================================
`bundle`    Makes a model bundle from a finished run: ONNX, safetensors, test tensors, description
`by_torch`  Builds a TensorRT engine from a bundle's weights by torch-tensorrt, on a machine without a card
`card`      Makes the model card, which is the README of a bundle
`int8`      Makes an int8 network for the CPU, with 8-bit convolutions as far as no quality is lost
`onnx`      Exports any network of the registry as one ONNX file
`rdf`       Makes a bundle's ``rdf.yaml``: a bioimage.io model description (format 0.5) with refocusd's section
`tensorrt`  Builds TensorRT engines from a bundle before their first use, for cards that need not be here
==========  ========================================================================================
"""

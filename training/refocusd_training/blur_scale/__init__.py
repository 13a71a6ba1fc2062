"""Trains the network that works at the scale of the blur (`refocusd_training.networks.blur_scale`).

========  ==========================================================================================
`bundle`  Makes a model bundle of the trained network: ONNX, safetensors, test tensors, card
`fit`     Trains the network at the scale of the blur, for so many minutes
`frames`  Frames to train on, made at the scale of the blur: sharp light, blurred, through a camera
========  ==========================================================================================

May import `blur`, `data`, `networks` and `simulate`.
"""

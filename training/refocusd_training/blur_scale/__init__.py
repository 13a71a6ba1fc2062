"""Trains the network that works at the scale of the blur (`refocusd_training.networks.blur_scale`).

========  ==========================================================================================
`bundle`  Makes a model bundle from the trained network: ONNX, safetensors, test tensors, card
`fit`     Trains the network at the scale of the blur for a given time
`frames`  Makes training frames at the scale of the blur: sharp light that is blurred and recorded by a camera
========  ==========================================================================================

May import `blur`, `data`, `networks` and `simulate`.
"""

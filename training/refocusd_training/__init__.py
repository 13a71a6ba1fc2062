"""Trains the networks that refocusd ships, on defocus simulated from sharp images.

The way from images to a bundle, one module a step:

===============  ===================================================================================
`config`         Settings of one training run, read from TOML; an unknown key is an error
`deconvolution`  Deconvolution with a known PSF: the baseline that a network has to beat
`weights`        Weights trained on ImageNet: torchvision's official files, by URL or from a path
`blur/`          Makes the network that estimates a frame's blur (`refocusd.imaging.blur`)
`blur_scale/`    Trains the network that works at the scale of the blur (`refocusd_training.networks.blur_scale`)
`commands/`      `refocusd train ...`: the command line of the training package
`data/`          Training data: makes batches from images, plates and stacks
`evaluation/`    Evaluates a bundle; the result decides whether it ships
`export/`        Exports model bundles: networks (ONNX, int8, TensorRT), description and model card
`fine_tune/`     Trains a bundle further on a lab's own frames, and refuses it if that made it worse
`loop/`          The training loop, on Lightning: batches in, checkpoints out
`losses/`        The losses that training minimises
`networks/`      The networks, in separate encoders, decoders and heads; each takes and returns one frame
`simulate/`      Simulates raw frames from a sharp image: specimen → optics → camera
`trust/`         Fits what `refocusd.engines.verdict` judges refocused frames by
===============  ===================================================================================

May import `refocusd`'s lower layers (`errors`, `frame`, `optics`, `quality`,
`engines.normalise`); `refocusd` never imports this package.  torch is imported
only by the modules that train or export.
"""

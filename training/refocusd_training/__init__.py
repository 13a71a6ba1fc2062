"""Trains the networks that refocusd ships, on defocus simulated from sharp images.

Each step from images to a bundle is a module or a package:

===============  ===================================================================================
`config`         Settings of one training run, read from TOML; an unknown key is an error
`deconvolution`  Deconvolution with a known PSF: the baseline that a network has to beat
`weights`        Loads weights trained on ImageNet: torchvision's official files, by URL or from a path
`blur/`          Makes the network that estimates a frame's blur (`refocusd.imaging.blur`)
`blur_scale/`    Trains the network that works at the scale of the blur (`refocusd_training.networks.blur_scale`)
`commands/`      `refocusd train ...`: the command line of the training package
`data/`          Training data: makes batches from images, plates and stacks
`evaluation/`    Evaluates a bundle; the result decides whether it ships
`export/`        Exports model bundles: networks (ONNX, int8, TensorRT), description and model card
`fine_tune/`     Trains a bundle further on a user's own frames, and refuses the result if it is worse
`loop/`          The training loop, on Lightning: batches in, checkpoints out
`losses/`        The losses for training
`networks/`      The networks, as separate encoders, decoders and heads; each takes and returns one frame
`simulate/`      Simulates raw frames from a sharp image: specimen → optics → camera
`trust/`         Fits the thresholds and weights by which `refocusd.engines.verdict` judges refocused frames
===============  ===================================================================================

May import everything of `refocusd` but `daemon`, `view`, `worker` and `ledger`; `refocusd` never
imports this package.  torch is imported only by the modules that train or export.
"""

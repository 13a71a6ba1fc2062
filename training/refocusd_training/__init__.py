"""Trains the networks that refocusd ships, on defocus simulated from sharp images.

The way from images to a bundle, one module a step:

==============  ===========================================================
`data`          the sharp images: where they lie, how they are fetched and read
`split`         which of them train, validate and test; near-duplicates together
`simulate`      specimen, optics and camera: a sharp image becomes raw frames
`networks`      the live network
`losses`        what training minimises
`config`        all settings of a run
`loop`          the loop and its checkpoints (`train`: its public names)
`fine_tune`     a bundle trained on for a lab's own microscope
`export`        checkpoint → model bundle (bioimage.io 0.5, ONNX, safetensors)
`blur`          the estimator of a frame's blur, which `refocusd.imaging.blur` ships
`evaluate`      a bundle against held-out specimens, optics and Richardson-Lucy
`commands`      `refocusd train ...`
==============  ===========================================================

May import `refocusd`'s lower layers (`errors`, `frame`, `optics`, `quality`,
`engines.normalise`); `refocusd` never imports this package.  torch is imported
only by the modules that train or export.
"""

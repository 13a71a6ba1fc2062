"""The losses that training minimises.

============  ====================================================================
`config`      which loss, and its weights
`build`       from a configuration to a loss
`refocus`     the losses of pixels, of spectra and of structure
`feature`     VGG-16's activations and their Gram matrices
`defocus`     the defocus head's
============  ====================================================================
"""

from refocusd_training.losses.build import build_loss
from refocusd_training.losses.config import LossConfig
from refocusd_training.losses.defocus import defocus_loss
from refocusd_training.losses.refocus import refocus_loss

__all__ = ["LossConfig", "build_loss", "defocus_loss", "refocus_loss"]

"""The losses for training.

=========  =========================================================================================
`build`    Builds a loss from a configuration
`config`   The choice of the loss: the ``[loss]`` table of a configuration
`defocus`  The loss of the defocus head
`feature`  The feature loss of the reference method (Johnson et al. 2016, arXiv:1603.08155)
`refocus`  Pixel losses, in units of the truth's range
=========  =========================================================================================
"""

from refocusd_training.losses.build import build_loss
from refocusd_training.losses.config import LossConfig
from refocusd_training.losses.defocus import defocus_loss
from refocusd_training.losses.refocus import refocus_loss

__all__ = ["LossConfig", "build_loss", "defocus_loss", "refocus_loss"]

"""The networks, in separate encoders, decoders and heads; each takes and returns one frame.

==============  ======================================================================
`config`        which network, and how wide
`build`         from a configuration or a bundle's description to a network
`base`          what each can do
`live`          pixel-unshuffle U-net for CPUs
`resnet_unet`   U-net on ResNet-34, the reference method's
`resnet`        its encoder
`defocus`       the head that estimates defocus
`upsample`      twice the resolution without a grid
==============  ======================================================================

May import `refocusd.errors` and `refocusd_training.weights`.
"""

from refocusd_training.networks.base import RefocusNetwork
from refocusd_training.networks.build import build_described, build_network, description_of
from refocusd_training.networks.config import NetworkConfig
from refocusd_training.networks.live import SIZE_MULTIPLE, LiveUNet, LiveUNetConfig
from refocusd_training.networks.resnet_unet import ResNetUNet
from refocusd_training.networks.upsample import icnr_

__all__ = [
    "SIZE_MULTIPLE",
    "LiveUNet",
    "LiveUNetConfig",
    "NetworkConfig",
    "RefocusNetwork",
    "ResNetUNet",
    "build_described",
    "build_network",
    "description_of",
    "icnr_",
]

"""The networks, as separate encoders, decoders and heads; each takes and returns one frame.

=============  =====================================================================================
`base`         The interface of every network in this package
`blur_scale`   A network at the scale of the blur: Richardson-Lucy first, then a few convolutions that refine it
`build`        Builds a network from a configuration or from a bundle's description
`config`       The choice of the network: the ``[network]`` table of a configuration or bundle
`defocus`      `DefocusHead`: estimates the defocus of each part of a frame from a network's deepest features
`live`         `LiveUNet`: the small network that refocuses on a CPU while frames arrive
`resnet`       The encoder: ResNet-34 (He et al. 2016, arXiv:1512.03385) up to its last pooling
`resnet_unet`  `ResNetUNet`: the reference method's network, in the layout of fastai's ``DynamicUnet``
`upsample`     Upsampling by two without grid artefacts, for both families of networks
=============  =====================================================================================

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

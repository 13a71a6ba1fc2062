"""Builds a network from a configuration or from a bundle's description."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace

import msgspec
import torch
from torch import nn

from refocusd.errors import BundleError, ConfigError
from refocusd_training.networks.base import RefocusNetwork
from refocusd_training.networks.blur_scale import BlurScaleNet
from refocusd_training.networks.config import NetworkConfig
from refocusd_training.networks.live import LiveUNet, LiveUNetConfig
from refocusd_training.networks.resnet_unet import ResNetUNet
from refocusd_training.weights import load_encoder

#: Name of `BlurScaleNet` in a bundle's description.
BLUR_SCALE = "blur-scale"
#: Fields that describe a network of each family in a bundle, in addition to its name.
OF_FAMILY = {
    "live": ("widths", "blocks", "half", "fine"),
    "resnet34": ("stages", "depths"),
    "resnet34-96": ("stages", "depths"),
}


def build_network(
    config: NetworkConfig, seed: int = 0, *, pretrained: bool = True
) -> RefocusNetwork:
    """Make a network, initialised from a seed and, if configured, from a pre-trained encoder.

    Parameters
    ----------
    config : NetworkConfig
    seed : int
        Seed of torch's generator.
    pretrained : bool
        If False, ``encoder_weights`` is ignored, because all weights are loaded afterwards.

    Raises
    ------
    InputError
        If the encoder's weights cannot be obtained or do not fit.
    """
    torch.manual_seed(seed)
    network: RefocusNetwork
    if config.name == "live":
        widths = LiveUNetConfig(
            tuple(config.widths),  # type: ignore[arg-type]
            tuple(config.blocks),  # type: ignore[arg-type]
            config.half,
            config.fine,
        )
        network = LiveUNet(widths, defocus_head=config.defocus_head)
    else:
        network = ResNetUNet(
            config.stages,
            config.depths,
            beside=config.name == "resnet34",
            defocus_head=config.defocus_head,
        )
        if config.encoder_weights and pretrained:
            name = load_encoder(network.encoder, config.encoder_weights)
            network.initialised = f"encoder from {name}, the rest from the seed"
    return network


def description_of(config: NetworkConfig) -> dict[str, object]:
    """Description of a network for `build_described`, in plain numbers and strings."""
    known = asdict(config)
    keys = ("name", *OF_FAMILY[config.name], "defocus_head")
    return {k: list(known[k]) if isinstance(known[k], tuple) else known[k] for k in keys}


def build_described(description: Mapping[str, object]) -> nn.Module:
    """Make the network that a bundle describes; the caller loads its weights.

    Raises
    ------
    BundleError
        If the description is not that of a known network.
    """
    if description.get("name") == BLUR_SCALE:
        return _blur_scale_net(description)
    try:
        config = msgspec.convert(dict(description), NetworkConfig)
    except (msgspec.ValidationError, ConfigError) as error:
        raise BundleError(
            f"the bundle describes a network that this version cannot build ({error}); use a "
            "matching version, or a backend that takes its ONNX"
        ) from error
    return build_network(replace(config, encoder_weights=""))


def _blur_scale_net(description: Mapping[str, object]) -> BlurScaleNet:
    try:
        channels = msgspec.convert(description.get("channels"), tuple[int, ...])
    except msgspec.ValidationError as error:
        raise BundleError(f"the bundle's network has no list of channels ({error})") from error
    if not 2 <= len(channels) <= 8 or not all(1 <= count <= 4096 for count in channels):
        raise BundleError(f"the bundle's network has channels {channels}: give 2 to 8 of 1 to 4096")
    return BlurScaleNet(channels)

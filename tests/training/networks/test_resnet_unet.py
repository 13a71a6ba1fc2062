"""The reference method's network at its full size."""

from __future__ import annotations

import pytest
import torch
from refocusd_training.networks import NetworkConfig, RefocusNetwork, ResNetUNet, build_network
from torch.utils.flop_counter import FlopCounterMode


@pytest.fixture(scope="module", params=["resnet34", "resnet34-96"])
def network(request: pytest.FixtureRequest) -> RefocusNetwork:
    return build_network(NetworkConfig(name=request.param)).eval()


def test_it_has_the_references_size_and_work(network: RefocusNetwork) -> None:
    parameters = sum(p.numel() for p in network.parameters())
    assert parameters == pytest.approx(41.2e6, rel=0.002)
    with torch.inference_mode(), FlopCounterMode(display=False) as counted:
        out = network(torch.zeros(1, 1, 64, 64))
    assert out.shape == (1, 1, 64, 64)
    multiplications = counted.get_total_flops() / 2 / 64**2
    assert multiplications == pytest.approx(470e3, rel=0.01)


def test_its_full_resolution_suits_tensor_cores_or_is_the_references(
    network: RefocusNetwork,
) -> None:
    assert isinstance(network, ResNetUNet)
    assert network.last1.weight.shape[0] == (97 if network.from_input is None else 96)


def test_the_encoder_is_torchvisions_resnet34(network: RefocusNetwork) -> None:
    state = network.get_submodule("encoder").state_dict()
    assert len([key for key in state if key.endswith("conv1.weight")]) == 1 + 16
    assert state["layer3.5.conv2.weight"].shape == (256, 256, 3, 3)
    assert state["layer4.0.downsample.0.weight"].shape == (512, 256, 1, 1)
    encoder = sum(p.numel() for p in network.encoder_parameters())
    # torchvision's 21.28 million, for one colour instead of three.
    assert encoder == 21_284_672 - 2 * 64 * 49

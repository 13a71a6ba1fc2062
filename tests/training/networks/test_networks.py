"""The networks of the registry: shapes, initialisation, and descriptions that rebuild them."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import pytest
import torch
from refocusd_training.networks import (
    LiveUNet,
    NetworkConfig,
    RefocusNetwork,
    build_described,
    build_network,
    description_of,
    icnr_,
)
from safetensors.torch import load_file

from refocusd.errors import BundleError, ConfigError
from refocusd.models.bundle import load_bundle

SMALL = NetworkConfig(
    widths=(8, 16, 16), blocks=(1, 1, 1), half=8, fine=4, stages=(8, 8, 12, 16), depths=(1, 1, 1, 1)
)
FAMILIES = [replace(SMALL, name=name) for name in ("live", "resnet34", "resnet34-96")]


def by_name(config: NetworkConfig) -> str:
    return config.name


@pytest.fixture(params=FAMILIES, ids=by_name)
def network(request: pytest.FixtureRequest) -> RefocusNetwork:
    return build_network(replace(request.param, defocus_head=True)).eval()


@pytest.mark.parametrize("shape", [(1, 1, 32, 32), (3, 1, 64, 160)])
def test_a_frame_comes_back_with_its_shape(network: RefocusNetwork, shape: tuple[int, ...]) -> None:
    raw = torch.rand(shape)
    with torch.inference_mode():
        refocused, defocus = network.forward_with_defocus(raw)
        assert torch.equal(network(raw), refocused)
    assert refocused.shape == shape
    assert defocus.shape == (shape[0], 2, shape[2] // 32, shape[3] // 32)
    assert (defocus[:, 0] > 0).all()
    assert torch.isfinite(defocus).all()


@pytest.mark.parametrize("config", FAMILIES, ids=by_name)
def test_every_weight_learns(config: NetworkConfig) -> None:
    network = build_network(replace(config, defocus_head=True)).train()
    for module in network.modules():
        # Some weights start at zero and block the gradient of earlier layers.
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.normal_(module.weight, std=0.1)
    refocused, defocus = network.forward_with_defocus(torch.rand(2, 1, 64, 64))
    (refocused.square().mean() + defocus.square().mean()).backward()  # type: ignore[no-untyped-call]
    silent = [n for n, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    assert silent == []


@pytest.mark.parametrize("config", FAMILIES, ids=by_name)
def test_a_seed_and_a_description_make_the_same_network(config: NetworkConfig) -> None:
    one, two = build_network(config, 3), build_network(config, 3)
    other = build_network(config, 4)
    weights = one.state_dict()
    assert all(torch.equal(weights[k], v) for k, v in two.state_dict().items())
    assert not all(torch.equal(weights[k], v) for k, v in other.state_dict().items())
    plain = msgspec.json.decode(msgspec.json.encode(description_of(config)))
    again = build_described(plain)
    again.load_state_dict(weights)
    raw = torch.rand(1, 1, 32, 32)
    with torch.inference_mode():
        assert torch.equal(again.eval()(raw), one.eval()(raw))


def test_the_shipped_weights_fit_the_live_network() -> None:
    bundle = load_bundle("live-nuclei")
    assert bundle.weights is not None
    assert bundle.network is not None
    network = build_described(bundle.network)
    network.load_state_dict(load_file(bundle.weights))
    assert sum(p.numel() for p in network.parameters()) * 4 < 6e6  # twice within 15 MB


def test_only_a_pretrained_encoder_is_called_one() -> None:
    live, resnet = (build_network(config) for config in FAMILIES[:2])
    assert live.encoder_parameters() == []
    encoder = resnet.encoder_parameters()
    assert 0 < len(encoder) < len(list(resnet.parameters()))
    with pytest.raises(ValueError, match="without a defocus head"):
        live.forward_with_defocus(torch.rand(1, 1, 32, 32))


def test_pixel_shuffle_starts_as_nearest_neighbour() -> None:
    convolution = torch.nn.Conv2d(6, 4 * 5, 1, bias=False)
    icnr_(convolution.weight)
    out = torch.nn.functional.pixel_shuffle(convolution(torch.rand(1, 6, 8, 8)), 2)
    assert torch.equal(out[..., ::2, ::2], out[..., 1::2, 1::2])
    assert torch.equal(out[..., ::2, ::2], out[..., ::2, 1::2])


@pytest.mark.parametrize("config", FAMILIES, ids=by_name)
def test_a_flat_frame_stays_flat_away_from_the_border(config: NetworkConfig) -> None:
    # Padding affects the borders; in the middle, no phase of any grid may be visible.
    side = 1024 if config.name != "live" else 512
    middle = slice(side // 2 - 16, side // 2 + 16)
    with torch.inference_mode():
        out = build_network(config).eval()(torch.full((1, 1, side, side), 0.3))
    part = out[0, 0, middle, middle]
    assert float(part.max() - part.min()) < 1e-5


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"name": "vgg"}, "live, resnet34"),
        ({"widths": (8, 16)}, "give 3 numbers"),
        ({"half": 0}, "from 1 to 4096"),
        ({"stages": (6, 8, 8, 8)}, "multiples of 4"),
        ({"encoder_weights": "imagenet"}, "for resnet34"),
    ],
)
def test_what_cannot_be_built_is_refused(changes: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        replace(SMALL, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "description",
    [{"name": "other"}, {"name": "live", "widths": "wide"}, {"name": "live", "widths": [1, 2]}],
)
def test_a_description_of_something_else_is_refused(description: dict[str, object]) -> None:
    with pytest.raises(BundleError, match="describes a network"):
        build_described(description)


def test_the_live_network_is_the_live_network() -> None:
    assert isinstance(build_network(NetworkConfig()), LiveUNet)

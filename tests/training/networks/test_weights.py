"""Other people's weights: the right file loads, any other gives one clear error."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from refocusd_training import weights
from refocusd_training.networks import NetworkConfig, ResNetUNet, build_network
from torch import Tensor

from refocusd.errors import InputError

SMALL = NetworkConfig(name="resnet34", stages=(8, 8, 12, 16), depths=(1, 2, 1, 1))


def official(seed: int = 0) -> dict[str, Tensor]:
    """A state dictionary in torchvision's layout: three colours, a classifier."""
    state = build_network(SMALL, seed).get_submodule("encoder").state_dict()
    generator = torch.Generator().manual_seed(seed)
    state = {k: torch.rand(v.shape, generator=generator) for k, v in state.items()}
    state = {k: v for k, v in state.items() if "num_batches_tracked" not in k}
    state["conv1.weight"] = torch.rand(8, 3, 7, 7, generator=generator)
    return {**state, "fc.weight": torch.rand(10, 16), "fc.bias": torch.rand(10)}


def saved(folder: Path, state: object) -> Path:
    """Write a state under a name that contains its checksum, as torchvision does."""
    part = folder / "part"
    torch.save(state, part)
    digest = hashlib.sha256(part.read_bytes()).hexdigest()
    return part.rename(folder / f"resnet34-{digest[:8]}.pth")


def test_an_encoder_takes_the_official_layout(tmp_path: Path) -> None:
    state = official()
    path = saved(tmp_path, state)
    network = build_network(replace(SMALL, encoder_weights=str(path)))
    assert isinstance(network, ResNetUNet)
    found = network.encoder.state_dict()
    assert torch.equal(found["layer2.1.conv2.weight"], state["layer2.1.conv2.weight"])
    assert torch.equal(found["bn1.running_var"], state["bn1.running_var"])
    grey = torch.rand(1, 1, 16, 16)
    expected = torch.conv2d(grey.expand(-1, 3, -1, -1), state["conv1.weight"])
    torch.testing.assert_close(torch.conv2d(grey, found["conv1.weight"]), expected)
    assert path.name in network.initialised


def test_without_weights_it_starts_from_the_seed_and_says_so(tmp_path: Path) -> None:
    config = replace(SMALL, encoder_weights=str(tmp_path / "gone.pth"))
    scratch = build_network(SMALL, 5)
    assert scratch.initialised == "from the seed"
    # Weights that will be replaced need not exist.
    again = build_network(config, 5, pretrained=False)
    assert all(
        torch.equal(a, b) for a, b in zip(scratch.parameters(), again.parameters(), strict=True)
    )
    with pytest.raises(InputError, match=r"gone\.pth is not there.*from scratch"):
        build_network(config, 5)


def test_a_wrong_checksum_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path, official()).rename(tmp_path / "resnet34-0123abcd.pth")
    with pytest.raises(InputError, match="its name says 0123abcd"):
        weights.read_state(path)


def test_values_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    state = official()
    state["layer1.0.conv1.weight"][0, 0, 0, 0] = torch.nan
    torch.save(state, tmp_path / "mine.pth")
    with pytest.raises(InputError, match=r"layer1\.0\.conv1\.weight.* no numbers"):
        build_network(replace(SMALL, encoder_weights=str(tmp_path / "mine.pth")))


def test_a_truncated_file_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path, official())
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="incomplete or altered"):
        weights.read_state(path)
    # Nor is it accepted if the name contains no checksum.
    for size in (0, 10, len(whole) // 2):
        (tmp_path / "mine.pth").write_bytes(whole[:size])
        with pytest.raises(InputError, match="cannot be read as weights"):
            weights.read_state(tmp_path / "mine.pth")


class Malicious:
    """Would write a file if it were unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (self.path,))


def test_nothing_in_a_file_is_executed(tmp_path: Path) -> None:
    path = saved(tmp_path, {"conv1.weight": Malicious(tmp_path / "ran")})
    with pytest.raises(InputError, match="cannot be read as weights"):
        weights.read_state(path)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("kind", ["list", "missing", "unknown", "shape", "no tensors"])
def test_another_networks_weights_are_refused(kind: str, tmp_path: Path) -> None:
    state: dict[str, object] = dict(official())
    if kind == "missing":
        del state["layer4.0.bn1.weight"]
    elif kind == "unknown":
        state["layer5.weight"] = torch.rand(2)
    elif kind == "shape":
        state["bn1.weight"] = torch.rand(9)
    elif kind == "no tensors":
        state = {"conv1.weight": "none"}
    path = saved(tmp_path, list(state) if kind == "list" else state)
    with pytest.raises(InputError, match="weights"):
        build_network(replace(SMALL, encoder_weights=str(path)))


def test_a_file_is_fetched_once_checked_and_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "source"
    source.mkdir()
    path = saved(source, official())
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    monkeypatch.setattr(weights, "RESNET34_URL", path.as_uri())
    for _ in range(2):
        network = build_network(replace(SMALL, encoder_weights=weights.IMAGENET))
        assert path.name in network.initialised
        path.unlink(missing_ok=True)
    wrong = saved(source, official(1)).rename(source / "resnet34-00000000.pth")
    for url in (wrong.as_uri(), (source / "resnet34-11111111.pth").as_uri()):
        monkeypatch.setattr(weights, "RESNET34_URL", url)
        with pytest.raises(InputError, match=r"could not be fetched.*from scratch"):
            build_network(replace(SMALL, encoder_weights=weights.IMAGENET))


def test_vgg_weights_of_another_layout_are_refused(tmp_path: Path) -> None:
    entry = {"features.0.weight": np.zeros((64, 3, 3, 3), np.float16)}
    np.savez(tmp_path / "vgg.npz", allow_pickle=False, **entry)
    with pytest.raises(InputError, match="weights of another network"):
        weights.vgg16_features(str(tmp_path / "vgg.npz"))

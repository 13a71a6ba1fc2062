"""The losses: what they compare, their gradients, and VGG's own weights."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import scipy.ndimage
import torch
from numpy.typing import NDArray
from PIL import Image
from refocusd_training.losses import LossConfig, build_loss, defocus_loss, refocus_loss
from torch import Tensor, nn

from refocusd.errors import ConfigError, InputError

PLAIN = ["refocus", "l1", "charbonnier", "ms-ssim", "frequency"]
VGG_FILE = "vgg16_imagenet_features_rgb01_fp16.npz"


@pytest.fixture(scope="module")
def vgg(test_data: Path) -> str:
    path = test_data.parent / "weights" / VGG_FILE
    if not path.is_file():
        pytest.skip(f"no {VGG_FILE} beside the test images: VGG-16's weights are not at hand")
    return str(path)


def tensor(frame: NDArray[np.float32]) -> Tensor:
    return torch.from_numpy(frame)[None, None]


@pytest.fixture(scope="module")
def hoechst(test_data: Path) -> NDArray[np.float32]:
    path = min((test_data / "bbbc006" / "in_focus_w1").iterdir())
    frame = np.asarray(Image.open(path), np.float32)[:192, :192]
    low, high = np.percentile(frame, [1, 99.9])
    return np.asarray((frame - low) / (high - low), np.float32)


def of_blur(loss: nn.Module, frame: NDArray[np.float32]) -> list[float]:
    blurred = (scipy.ndimage.gaussian_filter(frame, sigma) for sigma in (0, 0.5, 1, 2, 4, 8))
    with torch.inference_mode():
        return [float(loss(tensor(b), tensor(frame), torch.ones(1))) for b in blurred]


@pytest.mark.parametrize("name", PLAIN)
def test_a_loss_grows_with_blur(name: str, flux: NDArray[np.float32]) -> None:
    frame = np.ascontiguousarray(flux[:192, :192] / flux.max())
    found = of_blur(build_loss(LossConfig(name=name)), frame)  # type: ignore[arg-type]
    assert found == sorted(found)
    assert found[-1] > found[0]
    if name in ("l1", "ms-ssim", "frequency"):
        assert found[0] == pytest.approx(0, abs=1e-5)


def test_feature_distance_grows_with_blur_on_a_real_frame(
    vgg: str, hoechst: NDArray[np.float32]
) -> None:
    config = LossConfig(name="feature", feature_weights=vgg)
    for changed in (config, replace(config, pixels=0.0, gram=0.0)):
        found = of_blur(build_loss(changed), hoechst[:128, :128].copy())
        assert found == sorted(found)
        assert len(set(found)) == len(found)
        assert found[0] == pytest.approx(0, abs=1e-5)


def test_features_and_pixels_pull_alike_and_nothing_of_vgg_learns(
    vgg: str, hoechst: NDArray[np.float32]
) -> None:
    loss = build_loss(LossConfig(name="feature", feature_weights=vgg))
    assert list(loss.parameters()) == []
    assert loss.state_dict() == {}
    blurred = scipy.ndimage.gaussian_filter(hoechst, 3)[:96, :96]
    truth = np.ascontiguousarray(hoechst[:96, :96])
    values = []
    for changes in ({"blocks": (0.0,) * 3}, {"pixels": 0.0, "gram": 0.0}):
        config = LossConfig(name="feature", feature_weights=vgg, **changes)
        values.append(float(build_loss(config)(tensor(blurred), tensor(truth), torch.ones(1))))
    assert 0.5 < values[1] / values[0] < 10


@pytest.mark.parametrize(
    ("name", "side"),
    [*((name, side) for name in PLAIN for side in (64, 96, 192)), ("feature", 32)],
)
def test_gradients_are_finite_even_on_constant_frames(
    name: str, side: int, request: pytest.FixtureRequest
) -> None:
    weights = request.getfixturevalue("vgg") if name == "feature" else ""
    loss = build_loss(LossConfig(name=name, feature_weights=weights))  # type: ignore[arg-type]
    noisy = torch.rand(2, 1, side, side, generator=torch.Generator().manual_seed(0))
    for start in (torch.zeros(2, 1, side, side), noisy):
        for truth in (torch.zeros(2, 1, side, side), noisy.flip(-1)):
            refocused = start.clone().requires_grad_()
            value = loss(refocused, truth, torch.tensor([1.0, 0.01]))
            value.backward()
            assert value.isfinite()
            assert refocused.grad is not None
            assert refocused.grad.isfinite().all()


@pytest.mark.parametrize("name", PLAIN)
def test_units_do_not_matter(name: str) -> None:
    loss = build_loss(LossConfig(name=name))  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(1)
    truth = torch.rand(1, 1, 64, 64, generator=generator)
    refocused = truth + 0.1 * torch.rand(1, 1, 64, 64, generator=generator)
    one = loss(refocused, truth, torch.ones(1))
    other = loss(3 * refocused - 1, 3 * truth - 1, torch.full((1,), 3.0))
    assert float(one) == pytest.approx(float(other), rel=1e-3)


def test_a_sum_is_the_sum_of_its_parts() -> None:
    truth = torch.rand(1, 1, 64, 64)
    refocused, span = truth * 0.9, torch.ones(1)
    total = build_loss(LossConfig(name="sum", parts={"l1": 2.0, "refocus": 0.5}, logarithm=0.03))
    expected = 2 * build_loss(LossConfig(name="l1"))(refocused, truth, span)
    expected = expected + 0.5 * refocus_loss(refocused, truth, span, 0.03)
    assert float(total(refocused, truth, span)) == pytest.approx(float(expected))


def test_the_refocus_loss_is_relative_to_the_truths_range() -> None:
    truth = torch.zeros(1, 1, 32, 32)
    small = refocus_loss(truth + 0.1, truth, torch.tensor([1.0]), 0.01)
    scaled = refocus_loss(truth + 0.3, truth, torch.tensor([3.0]), 0.01)
    worse = refocus_loss(truth + 0.2, truth, torch.tensor([1.0]), 0.01)
    assert float(small) == pytest.approx(float(scaled), rel=1e-4)
    assert float(worse) > float(small)


def test_defocus_counts_by_magnitude_and_only_where_it_is_known() -> None:
    said = torch.zeros(3, 2, 2, 3)
    said[:, 0] = torch.tensor([4.0, 10.0, 7.0])[:, None, None]
    said[:, 1] = math.log(2.0)
    known = torch.tensor([-4.0, 12.0, math.nan])
    said.requires_grad_()
    loss = defocus_loss(said, known)
    assert loss.item() == pytest.approx(math.log(2.0) + 0.5 * (0 + 1) / 2)
    loss.backward()  # type: ignore[no-untyped-call]
    assert said.grad is not None
    assert said.grad.isfinite().all()
    assert not said.grad[2].any()
    assert defocus_loss(said, torch.full((3,), math.nan)).item() == 0


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"name": "l2"}, "must be one of refocus"),
        ({"name": "sum"}, "give parts"),
        ({"parts": {"l1": 1.0}}, "give parts"),
        ({"name": "sum", "parts": {"sum": 1.0}}, "with names out of"),
        ({"blocks": (1.0,)}, "give 3 numbers"),
        ({"gram": -1.0}, "negative"),
        ({"logarithm": math.nan}, "negative or too large"),
    ],
)
def test_what_cannot_be_meant_is_refused(changes: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        LossConfig(**changes)  # type: ignore[arg-type]


def test_a_feature_loss_without_weights_says_where_they_should_be(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.npz is not there"):
        build_loss(LossConfig(name="feature", feature_weights=str(tmp_path / "none.npz")))

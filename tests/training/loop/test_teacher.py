"""A network learns from another one's outputs, which affect nothing else in the run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from refocusd_training.config import load_config
from refocusd_training.data.samples import SampleStream
from refocusd_training.loop.module import Refocusing
from refocusd_training.loop.teacher import load_teacher
from refocusd_training.networks import NetworkConfig, RefocusNetwork
from safetensors.torch import load_file
from tiny_training import TINY, network_of, same_weights, train

from refocusd.errors import BundleError, ConfigError

SHORT = replace(TINY, steps=8, decay=0, final_loss=None, checkpoint_every=4)


@pytest.fixture(scope="module")
def teacher(flux: NDArray[np.float32], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a wider network."""
    network = replace(TINY.network, widths=(16, 16, 32))
    run = tmp_path_factory.mktemp("teacher") / "wide"
    train(replace(SHORT, seed=1, steps=20, network=network), [flux], run)
    return run


def distance(student: RefocusNetwork, teacher: RefocusNetwork, flux: NDArray[np.float32]) -> float:
    """Mean absolute difference of both networks' outputs for frames not used in training."""
    raw = torch.from_numpy(next(iter(SampleStream([flux], size=96, batch=8, bank=8, seed=99))).raw)
    with torch.inference_mode():
        return float((student.eval()(raw) - teacher(raw)).abs().mean())


def test_a_student_approaches_its_teacher(
    teacher: Path, flux: NDArray[np.float32], tmp_path: Path
) -> None:
    # The teacher's output outweighs the truth by far.
    config = replace(SHORT, steps=30, teacher=str(teacher), teacher_weight=100.0)
    record = train(config, [flux], tmp_path / "run")
    assert record.teacher == "wide"
    wide = load_teacher(str(teacher))
    student = network_of(config)
    before = distance(student, wide, flux)
    weights = load_file(tmp_path / "run" / "weights.safetensors")
    assert set(weights) == set(student.state_dict()), "the teacher is among the weights"
    student.load_state_dict(weights)
    assert distance(student, wide, flux) < 0.7 * before
    kept = load_file(teacher / "weights.safetensors")
    assert all(torch.equal(kept[name], value) for name, value in wide.state_dict().items())


def test_a_run_with_a_teacher_goes_on_exactly(
    teacher: Path, flux: NDArray[np.float32], tmp_path: Path
) -> None:
    config = replace(SHORT, teacher=str(teacher))
    train(config, [flux], tmp_path / "whole")
    train(replace(config, steps=4), [flux], tmp_path / "stopped")
    train(config, [flux], tmp_path / "stopped", resume=True)
    assert same_weights(tmp_path / "whole", tmp_path / "stopped")
    train(SHORT, [flux], tmp_path / "untaught")
    assert not same_weights(tmp_path / "whole", tmp_path / "untaught")
    with pytest.raises(ConfigError, match="teacher is"):
        train(replace(SHORT, steps=9), [flux], tmp_path / "whole", resume=True)


def test_a_teacher_learns_nothing_and_its_answers_are_not_validated(
    teacher: Path, flux: NDArray[np.float32]
) -> None:
    wide = load_teacher(str(teacher))
    assert not wide.training
    assert not any(parameter.requires_grad for parameter in wide.parameters())
    network = network_of(TINY)
    taught, alone = (Refocusing(TINY, network, None, one) for one in (wide, None))
    assert set(taught.state_dict()) == set(alone.state_dict())
    drawn = next(iter(SampleStream([flux], size=96, batch=2, bank=2, seed=3)))
    batch = {name: torch.from_numpy(getattr(drawn, name)) for name in ("raw", "truth", "span")}
    batch["defocus_um"] = torch.from_numpy(drawn.defocus_um)
    losses = [
        module.loss_of(network, batch, module.loss, taught=asked).item()  # type: ignore[arg-type]
        for module, asked in ((taught, True), (taught, False), (alone, True))
    ]
    assert losses[0] > losses[1] == losses[2]


def test_a_bundle_teaches_as_well_and_what_cannot_is_refused(tmp_path: Path) -> None:
    assert load_teacher("live-nuclei").initialised
    with pytest.raises(BundleError):
        load_teacher(str(tmp_path))


def test_a_configuration_names_what_lies_beside_it(tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_text(
        'teacher = "wide"\n[network]\nname = "resnet34"\nencoder_weights = "resnet34.pth"\n'
        '[loss]\nname = "feature"\nfeature_weights = "vgg16.npz"\n'
        '[final_loss]\nname = "feature"\nfeature_weights = "imagenet"\n',
        encoding="utf-8",
    )
    config = load_config(tmp_path / "run.toml")
    assert config.teacher == str(tmp_path / "wide")
    assert config.network == NetworkConfig(
        "resnet34", encoder_weights=str(tmp_path / "resnet34.pth")
    )
    assert config.loss.feature_weights == str(tmp_path / "vgg16.npz")
    assert config.final_loss is not None
    # The word for the official file is not a path.
    assert config.final_loss.feature_weights == "imagenet"

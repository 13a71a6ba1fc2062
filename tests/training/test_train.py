"""The loop: it learns, repeats itself, resumes, and says what it did."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from refocusd_training.config import NetworkSettings, TrainingConfig, load_config, write_config
from refocusd_training.losses import refocus_loss
from refocusd_training.networks import LiveUNet
from refocusd_training.samples import Prefetched, SampleStream
from refocusd_training.train import learning_rate_at, network_of, train
from safetensors.torch import load_file

from refocusd.errors import ConfigError, InputError, OutputError

TINY = TrainingConfig(
    seed=7,
    steps=40,
    batch=2,
    size=96,
    bank=12,
    learning_rate=4e-3,
    warm_up=5,
    decay=10,
    ema=0.9,
    checkpoint_every=20,
    threads=1,
    network=NetworkSettings(widths=(8, 16, 16), blocks=(1, 1, 1), half=8, fine=4),
)


def losses(run: Path) -> list[float]:
    with (run / "log.csv").open(encoding="utf-8") as file:
        return [float(row["loss"]) for row in csv.DictReader(file)]


def held_back_loss(network: LiveUNet, flux: NDArray[np.float32]) -> float:
    """Mean loss over frames that the training did not draw."""
    stream = iter(SampleStream([flux], size=96, batch=8, bank=12, seed=99))
    found = []
    with torch.inference_mode():
        for _ in range(4):
            batch = next(stream)
            raw, truth, span = map(torch.from_numpy, (batch.raw, batch.truth, batch.span))
            found.append(float(refocus_loss(network(raw), truth, span, 0.01)))
    return float(np.mean(found))


def test_a_training_learns_repeats_itself_and_resumes(
    flux: NDArray[np.float32], tmp_path: Path
) -> None:
    record = train(TINY, [flux], tmp_path / "one", device="cpu")
    history = losses(tmp_path / "one")
    assert len(history) == 40
    untrained = network_of(TINY)
    trained = network_of(TINY)
    trained.load_state_dict(load_file(tmp_path / "one" / "weights.safetensors"))
    assert held_back_loss(trained, flux) < held_back_loss(untrained, flux) - 0.02

    # Stopped after 20 steps and resumed, it takes the same way to the same weights.
    stopped = tmp_path / "stopped"
    train(replace(TINY, steps=20, decay=0), [flux], stopped, device="cpu")
    train(TINY, [flux], stopped, device="cpu", resume=True)
    assert losses(stopped) == history
    one = load_file(tmp_path / "one" / "weights.safetensors")
    two = load_file(stopped / "weights.safetensors")
    assert all(torch.equal(one[key], two[key]) for key in one)
    assert record.steps == 40
    written = json.loads((tmp_path / "one" / "run.json").read_text(encoding="utf-8"))
    assert written["seed"] == 7
    assert written["steps"] == 40


def test_the_same_seed_gives_the_same_weights(flux: NDArray[np.float32], tmp_path: Path) -> None:
    short = replace(TINY, steps=6, checkpoint_every=6)
    for name, config in (("a", short), ("b", short), ("c", replace(short, seed=8))):
        train(config, [flux], tmp_path / name, device="cpu")
    a, b, c = (load_file(tmp_path / name / "weights.safetensors") for name in "abc")
    assert all(torch.equal(a[key], b[key]) for key in a)
    assert not all(torch.equal(a[key], c[key]) for key in a)


def test_a_batch_depends_on_seed_and_step_alone(flux: NDArray[np.float32]) -> None:
    stream = SampleStream([flux], size=64, batch=2, bank=5, seed=3)
    run = iter(stream)
    batches = [next(run) for _ in range(4)]
    resumed = next(stream.batches(3))
    np.testing.assert_array_equal(batches[3].raw, resumed.raw)
    np.testing.assert_array_equal(batches[3].truth, resumed.truth)
    assert not np.array_equal(batches[2].raw, resumed.raw)


def test_the_simulator_hands_its_error_to_the_trainer() -> None:
    stream = SampleStream([np.zeros((0, 0), np.float32)], size=64, batch=2, bank=2, seed=3)

    def take_all() -> None:
        with Prefetched(iter(stream)) as batches:
            for _ in range(100):
                batches.take()

    with pytest.raises(ValueError, match="empty axis"):
        take_all()


def test_the_rate_rises_stays_and_falls_to_zero() -> None:
    rates = [learning_rate_at(TINY, step) for step in range(1, 41)]
    assert rates[0] == pytest.approx(TINY.learning_rate / 5)
    assert rates[4:30] == [TINY.learning_rate] * 26
    assert rates[-1] == 0
    longer = replace(TINY, steps=100)
    assert [learning_rate_at(longer, step) for step in range(1, 31)] == rates[:30]


def test_the_loss_is_the_error_relative_to_the_truths_range() -> None:
    truth = torch.zeros(1, 1, 32, 32)
    small = refocus_loss(truth + 0.1, truth, torch.tensor([1.0]), 0.01)
    scaled = refocus_loss(truth + 0.3, truth, torch.tensor([3.0]), 0.01)
    worse = refocus_loss(truth + 0.2, truth, torch.tensor([1.0]), 0.01)
    assert float(small) == pytest.approx(float(scaled), rel=1e-4)
    assert float(worse) > float(small)


def test_settings_survive_their_file(tmp_path: Path) -> None:
    write_config(TINY, tmp_path / "config.toml")
    assert load_config(tmp_path / "config.toml") == TINY


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("stepz = 3", "stepz"),
        ("[network]\ndepth = 3", "depth"),
        ("size = 100", "multiple of 32"),
        ("steps = 0", "at least 1"),
        ("steps = ", "TOML"),
    ],
)
def test_settings_that_cannot_be_are_refused(text: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=said):
        load_config(path)


def test_a_run_overwrites_nothing_and_needs_specimens(
    flux: NDArray[np.float32], tmp_path: Path
) -> None:
    (tmp_path / "results.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(OutputError, match="not empty"):
        train(TINY, [flux], tmp_path)
    with pytest.raises(InputError, match="no specimens"):
        train(TINY, [], tmp_path / "new")

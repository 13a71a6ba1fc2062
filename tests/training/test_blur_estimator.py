"""The estimator of a frame's blur can be retrained, here from a few samples."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from refocusd_training.blur import fit as fitting
from refocusd_training.blur.fit import collect, errors, fit
from refocusd_training.blur.frames import load_sharp
from refocusd_training.blur.psfs import CYCLES, FAMILIES, Family, transfer_functions
from refocusd_training.commands import register

from refocusd.errors import InputError
from refocusd.imaging.blur import FEATURES


@pytest.fixture
def folder(tmp_path: Path, sample: NDArray[np.uint8]) -> Path:
    """A folder of six sharp images, some on either side of the split."""
    images = tmp_path / "sharp"
    images.mkdir()
    plane = sample if sample.ndim == 2 else sample[0]
    for index in range(6):
        Image.fromarray(np.ascontiguousarray(np.roll(plane, 40 * index, 1))).save(
            images / f"{index}.png"
        )
    return images


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_of_psfs_has_one_width(family: Family) -> None:
    for transfer in transfer_functions(family, 3, np.random.default_rng(0)):
        assert transfer[0] == pytest.approx(1.0, abs=1e-3)
        half = np.interp(np.sqrt(2 * np.log(2)) / (2 * np.pi), CYCLES, transfer)
        assert half == pytest.approx(0.5, abs=0.02)


def test_samples_are_the_same_again_and_tell_sides_and_families(folder: Path) -> None:
    images = load_sharp([folder])
    one, again = (collect(images, 8, seed=3) for _ in range(2))
    np.testing.assert_array_equal(one.features, again.features)
    assert one.features.shape == (8, FEATURES)
    assert np.isfinite(one.features).all()
    assert one.test.sum() == 2
    assert (one.log_sigma < np.log(43)).all()


def test_even_a_few_samples_order_blurs(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fitting, "STEPS", 300)
    samples = collect(load_sharp([folder]), 150, seed=0)
    layers = fit(samples)
    assert sum(weight.size + bias.size for weight, bias in layers) < 8000
    rows = errors(layers, samples)
    assert sum(row.frames for row in rows) == 150
    assert np.median([row.median for row in rows]) < 0.6


def test_a_folder_without_light_is_refused(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((200, 200), np.uint8)).save(tmp_path / "dark.png")
    with pytest.raises(InputError, match="no image with light"):
        load_sharp([tmp_path])


def test_the_command_writes_weights_that_the_product_reads(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fitting, "STEPS", 20)
    parser = argparse.ArgumentParser()
    register(parser.add_subparsers())
    output = tmp_path / "weights.npz"
    arguments = parser.parse_args(
        ["train", "blur", "--data", str(folder), "--samples", "60", "--output", str(output)]
    )
    assert arguments.command(arguments) == 0
    with np.load(output, allow_pickle=False) as stored:
        assert stored["weight0"].shape[1] == FEATURES
        assert stored["bias2"].shape == (2,)

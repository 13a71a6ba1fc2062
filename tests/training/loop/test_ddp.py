"""Two processes train one network, over gloo on the CPU."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from refocusd_training.config import TrainingConfig, write_config
from refocusd_training.data.source import open_samples
from refocusd_training.loop.average import averaged
from refocusd_training.loop.feed import seed_of, tensors
from refocusd_training.loop.files import read_record
from refocusd_training.loop.module import Refocusing
from refocusd_training.loop.run import run_training
from refocusd_training.loop.schedule import rates_at
from safetensors.torch import load_file
from tiny_training import TINY, network_of, write_images
from torch.nn.utils import clip_grad_norm_

from refocusd.errors import ConfigError

SHORT = replace(
    TINY, steps=4, decay=0, warm_up=1, final_loss=None, precision="f32", checkpoint_every=2
)


def in_two_processes(
    config: TrainingConfig, data: Path, run: Path, *more: str
) -> subprocess.CompletedProcess[str]:
    """Run `refocusd train run` as torchrun starts it."""
    settings = run.with_suffix(".toml")
    write_config(config, settings)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command = ["-m", "refocusd", "train", "run", "--device", "cpu", *more]
    paths = ["--config", str(settings), "--data", str(data), "--output", str(run)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    return subprocess.run(
        [*torchrun, *command, *paths],
        capture_output=True, text=True, encoding="utf-8", errors="replace",
        env=environment, timeout=90, check=False,
    )  # fmt: skip


def trained_by_hand(images: Path, alone: int) -> torch.nn.Module:
    """The same steps without Lightning or DDP: the mean of both processes' gradients.

    The first process does the first `alone` steps alone.
    """
    network = network_of(SHORT)
    module = Refocusing(SHORT, network)
    optimiser = torch.optim.AdamW(network.parameters(), weight_decay=SHORT.weight_decay)
    average = averaged(network, SHORT.ema)
    sources = [
        open_samples(
            SHORT.data, images, size=SHORT.size, batch=SHORT.batch, seed=seed_of(SHORT.seed, rank)
        )
        for rank in range(2)
    ]
    streams = [sources[0].batches(0), sources[1].batches(alone)]
    for step in range(1, SHORT.steps + 1):
        taking = streams[:1] if step <= alone else streams
        optimiser.param_groups[0]["lr"] = rates_at(SHORT, step).rest
        optimiser.zero_grad()
        for stream in taking:
            loss = module.loss_of(network, tensors(next(stream)), module.loss)
            (loss / len(taking)).backward()  # type: ignore[no-untyped-call]
        clip_grad_norm_(network.parameters(), SHORT.clip)
        optimiser.step()
        average.update_parameters(network)
    found: torch.nn.Module = average.module
    return found


@pytest.mark.timeout(100)
def test_a_run_goes_on_in_two_processes_by_the_mean_of_their_gradients(
    sample: NDArray[np.uint8], tmp_path: Path
) -> None:
    images = write_images(tmp_path / "images", sample)
    run = tmp_path / "run"
    run_training(replace(SHORT, steps=2), images, run, device="cpu")
    ended = in_two_processes(SHORT, images, run, "--resume")
    assert ended.returncode == 0, ended.stderr
    record = read_record(run)
    assert (record.steps, record.devices, record.batch) == (4, 2, 4)
    found = load_file(run / "weights.safetensors")
    for name, expected in trained_by_hand(images, alone=2).state_dict().items():
        torch.testing.assert_close(found[name], expected, rtol=1e-3, atol=2e-5)


@pytest.mark.timeout(100)
def test_what_fails_in_a_process_ends_both_with_its_message(tmp_path: Path) -> None:
    ended = in_two_processes(SHORT, tmp_path / "nowhere", tmp_path / "run")
    assert ended.returncode != 0
    assert "is not a folder" in ended.stderr


def test_processes_draw_other_frames_and_the_first_one_the_runs_own() -> None:
    assert seed_of(5, 0) == 5
    assert len({seed_of(seed, rank) for seed in (1, 2) for rank in range(8)}) == 16


@pytest.mark.parametrize(
    ("device", "precision", "said"),
    [
        ("cuda:99", "f32", "GPUs are available"),
        ("tpu", "f32", "not a device to train on"),
        ("cpu", "f16", "needs a GPU"),
    ],
)
def test_devices_that_are_not_there_are_refused(
    device: str, precision: Literal["f32", "f16"], said: str, tmp_path: Path
) -> None:
    config = replace(SHORT, precision=precision)
    with pytest.raises(ConfigError, match=said):
        run_training(config, tmp_path, tmp_path / "run", device=device)
    assert not (tmp_path / "run").exists()

"""Trains the network at the scale of the blur for a given time."""

from __future__ import annotations

import copy
import logging
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from refocusd.errors import InputError
from refocusd.files import check_writable
from refocusd_training.blur_scale.frames import Batch, Frames
from refocusd_training.loop.files import misfit_of, read_state, write_state
from refocusd_training.loop.module import DivergedError
from refocusd_training.networks.blur_scale import BlurScaleNet, Restored

log = logging.getLogger(__name__)

#: Width of the border that does not count, because the network does not see its surroundings, px.
_BORDER_PX = 8
#: Quantiles of the interval's ends: 90 % of pixels should lie between them.
_TAIL = 0.05
#: Weights of the other losses relative to that of pixels.
_LIGHT_KEPT, _INTERVAL, _BLUR = 0.5, 0.3, 0.15
#: Differences of light are averaged in squares of this side, px.
_SQUARE_PX = 16
#: Steps between messages in the log.
_EVERY = 200
#: Time between checkpoints, s: the most that an interrupted run loses.
_KEEP_S = 120.0
#: The top of a frame's contrast lies this share of the way from its 99.9th percentile to its brightest pixel.
_BRIGHTEST = 0.2


@dataclass(frozen=True, slots=True)
class Losses:
    """Parts of the loss: each a mean over frames, relative to the frame's contrast."""

    pixels: Tensor
    light: Tensor
    interval: Tensor
    blur: Tensor

    @property
    def total(self) -> Tensor:
        """The loss that is minimised."""
        return (
            self.pixels + _LIGHT_KEPT * self.light + _INTERVAL * self.interval + _BLUR * self.blur
        )


def losses(answer: Restored, batch: Batch) -> Losses:
    """Compute the parts of the loss of the network's outputs."""
    inner = slice(_BORDER_PX, -_BORDER_PX)
    light, below, above, truth = (
        part.float()[..., inner, inner]
        for part in (answer.light, answer.below, answer.above, batch.truth)
    )
    flat = truth.flatten(1)
    bright = torch.quantile(flat, 0.999, dim=1)
    # Otherwise, frames with a few very bright pixels would outweigh other frames.
    bright = bright + _BRIGHTEST * (flat.amax(1) - bright)
    contrast = (bright - flat.amin(1)).clamp_min(0.2)
    contrast = contrast[:, None, None, None]
    off = (light - truth) / contrast
    pixels = torch.sqrt((off**2).mean((1, 2, 3)) + 1e-6) + 0.3 * off.abs().mean((1, 2, 3))
    squares = nn.functional.avg_pool2d(off, _SQUARE_PX, _SQUARE_PX // 2)
    kept = torch.sqrt((squares**2).mean((1, 2, 3)) + 1e-6)
    centre = light.detach()
    under, over = centre - below - truth, truth - centre - above
    # The pinball loss of the two quantiles (Koenker and Bassett, 1978).
    pinball = torch.maximum((1 - _TAIL) * under, -_TAIL * under) + torch.maximum(
        (1 - _TAIL) * over, -_TAIL * over
    )
    interval = (pinball / contrast).mean((1, 2, 3))
    deviation = answer.blur[:, 1].float().clamp(-4, 1)
    apart = (answer.blur[:, 0].float() - batch.error) ** 2
    blur = apart * torch.exp(-2 * deviation) / 2 + deviation
    return Losses(pixels.mean(), kept.mean(), interval.mean(), blur.mean())


@dataclass(frozen=True, slots=True)
class Schedule:
    """Duration and learning rate of a training.

    Parameters
    ----------
    minutes : float
        Computing time, without pauses.
    batch : int
        Frames per step.
    rate : float
        Highest learning rate.
    average : float
        Decay of the weights' running mean per step.
    """

    minutes: float
    batch: int = 16
    rate: float = 1.5e-3
    average: float = 0.9995

    def rate_at(self, part: float, step: int) -> float:
        """Learning rate after a share of the time: a short rise, a plateau, and a decay to nearly zero."""
        warm = min(1.0, (step + 1) / 200)
        fall = 1.0 if part < 0.4 else max(0.01, (1 - part) / 0.6)
        return self.rate * warm * fall


@dataclass(frozen=True, slots=True)
class Fitted:
    """A trained network.

    Parameters
    ----------
    network : BlurScaleNet
        The running mean of its weights.
    steps : int
    minutes : float
    """

    network: BlurScaleNet
    steps: int
    minutes: float


def fit(frames: Frames, schedule: Schedule, folder: Path, start: Path | None = None) -> Fitted:
    """Train; if `folder` contains a run, it is continued.

    Parameters
    ----------
    frames : Frames
    schedule : Schedule
    folder : Path
        Folder of the checkpoint.
    start : Path, optional
        Checkpoint of another run, from whose averaged weights a new run starts.

    Raises
    ------
    InputError
        If a checkpoint is damaged or belongs to another network, or the loss diverged.
    OutputError
        If the checkpoint cannot be written.
    """
    kept = folder / "checkpoint.pt"
    check_writable(kept)
    network = BlurScaleNet()
    if start is not None:
        with _fitting(start) as stored:
            network.load_state_dict(stored["mean"])
    network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    mean = copy.deepcopy(network)
    optimiser = torch.optim.AdamW(network.parameters(), schedule.rate, weight_decay=1e-4)
    step, spent = 0, 0.0
    if kept.exists():
        with _fitting(kept) as stored:
            network.load_state_dict(stored["network"])
            mean.load_state_dict(stored["mean"])
            optimiser.load_state_dict(stored["optimiser"])
            step, spent = stored["step"], stored["spent"]
    saved = time.monotonic()
    begun = time.monotonic() - spent
    sums = torch.zeros(4)
    while (part := (time.monotonic() - begun) / 60 / schedule.minutes) < 1:
        for group in optimiser.param_groups:
            group["lr"] = schedule.rate_at(part, step)
        batch = frames.batch(schedule.batch)
        with torch.autocast("cpu", torch.bfloat16, enabled=_computes_bf16()):
            answer = network.restore(batch.frame, batch.known)
        found = losses(answer, batch)
        optimiser.zero_grad()
        found.total.backward()  # type: ignore[no-untyped-call]
        norm = float(nn.utils.clip_grad_norm_(network.parameters(), 1.0))
        if not math.isfinite(norm):
            raise DivergedError(
                f"the loss diverged at step {step + 1}: its gradient is {norm}. The checkpoint before it is "
                "kept: run the command again with a lower --rate"
            )
        optimiser.step()
        decay = min(schedule.average, (1 + step) / (10 + step))
        with torch.no_grad():
            for ours, theirs in zip(mean.parameters(), network.parameters(), strict=True):
                ours.lerp_(theirs, 1 - decay)
        sums += torch.stack([found.pixels, found.light, found.interval, found.blur]).detach()
        step += 1
        if step % _EVERY == 0:
            pixels, light, interval, blur = (sums / _EVERY).tolist()
            log.info(
                "%d steps, %.1f min: pixels %.4f, light %.4f, interval %.4f, blur %.3f",
                step, part * schedule.minutes, pixels, light, interval, blur,
            )  # fmt: skip
            sums.zero_()
        if time.monotonic() - saved > _KEEP_S:
            saved = time.monotonic()
            _keep(kept, network, mean, optimiser, step, time.monotonic() - begun)
    _keep(kept, network, mean, optimiser, step, time.monotonic() - begun)
    return Fitted(mean, step, (time.monotonic() - begun) / 60)


def _computes_bf16() -> bool:
    able: bool = torch.cpu._is_avx512_bf16_supported()
    return able


def _keep(
    path: Path,
    network: BlurScaleNet,
    mean: BlurScaleNet,
    optimiser: torch.optim.Optimizer,
    step: int,
    spent: float,
) -> None:
    """Replace the checkpoint in one step."""
    state = {
        "network": network.state_dict(),
        "mean": mean.state_dict(),
        "optimiser": optimiser.state_dict(),
        "step": step,
        "spent": spent,
    }
    write_state(path, state)


@contextmanager
def _fitting(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the state of a checkpoint; errors while it is loaded mean that it belongs to another network."""
    state = read_state(path)
    try:
        yield state
    except (RuntimeError, KeyError, ValueError, TypeError) as error:
        raise InputError(
            f"{path} is not a checkpoint of this network ({misfit_of(error)}): name another"
        ) from error

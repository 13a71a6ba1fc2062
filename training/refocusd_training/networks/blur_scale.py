"""A network at the scale of the blur: Richardson-Lucy first, then a few convolutions that refine it.

Its input frames are reduced so that the estimated blur has the width `FINE_SIGMA_PX`; frames with a
narrower blur are not reduced.  The network works on a grid half as fine.  There it first deconvolves with
Gaussians of several widths, so that one of them is right even if the estimate of the blur is off by a
third.  Its convolutions then see the frame, the deconvolved frames and what is known of the blur.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

#: Width of the blur of the frames that the network sees, px.
FINE_SIGMA_PX = 3.0
#: Widths of the Gaussians for deconvolution, pixels of the coarse grid (1.5 is that of `FINE_SIGMA_PX`).
BANK_SIGMAS_PX = (0.7, 1.1, 1.5, 2.0)
#: Numbers of iterations after which a deconvolved frame is taken.
ITERATIONS = (5, 12, 30)
#: Added to normalised frames, because Richardson-Lucy needs positive ones.
PEDESTAL = 0.05
_REACH = 6
#: Width and reach of the scale on which light is neither made nor lost, pixels of the coarse grid.
_KEPT_SIGMA_PX, _KEPT_REACH = 4.0, 10
#: Number of rows that get channels of their own when frames are blurred by four Gaussians: 16 channels fill the
#: lanes of a processor.
_BANK_ROWS = 4


class Restored(NamedTuple):
    """The network's outputs.

    Parameters
    ----------
    light : Tensor, shape (n, 1, height, width)
        The refocused frame, normalised like the input.
    below, above : Tensor, shape (n, 1, height, width)
        Distances below and above `light` within which 90 % of true pixels lie; not negative.
    blur : Tensor, shape (n, 2)
        Natural logarithm of true over stated blur, and natural logarithm of the standard uncertainty of
        that.
    """

    light: Tensor
    below: Tensor
    above: Tensor
    blur: Tensor


def _gaussians(sigmas: tuple[float, ...], reach: int) -> Tensor:
    offsets = torch.arange(-reach, reach + 1, dtype=torch.float32)
    lines = torch.stack([torch.exp(-(offsets**2) / 2 / sigma**2) for sigma in sigmas])
    return lines / lines.sum(1, keepdim=True)


class _Gaussian(nn.Module):
    """Gaussian blur of each channel by its own width; with `inside`, borders count only pixels inside.

    Frames are stored with each of `rows` consecutive rows in a channel of its own (`folded`), because
    convolutions of few channels leave most of a processor's lanes empty.
    """

    across: Tensor
    down: Tensor

    def __init__(self, sigmas: tuple[float, ...], reach: int, rows: int = 1) -> None:
        super().__init__()
        self.rows, self.reach = rows, reach
        lines = _gaussians(sigmas, reach)
        count, away = len(sigmas) * rows, self._away
        down = torch.zeros(len(sigmas), rows, rows, 2 * away + 1)
        for put in range(rows):
            for taken in range(rows):
                for step in range(-away, away + 1):
                    tap = rows * step + taken - put
                    if abs(tap) <= reach:
                        down[:, put, taken, step + away] = lines[:, tap + reach]
        # Each width sees only its own rows.
        apart = torch.einsum("wptk,wv->wpvtk", down, torch.eye(len(sigmas)))
        self.register_buffer("down", apart.reshape(count, count, -1, 1), persistent=False)
        across = lines.repeat_interleave(rows, 0).view(count, 1, 1, -1)
        self.register_buffer("across", across, persistent=False)

    @property
    def _away(self) -> int:
        return -(-self.reach // self.rows)

    def sums(self, frames: Tensor) -> Tensor:
        """Blur folded frames, shape (n, widths * rows, height / rows, width)."""
        return self._down(self._across(frames))

    def inside(self, frames: Tensor) -> Tensor:
        """The result of `sums` for a frame of ones, computed as the product of a factor for each axis."""
        ones = torch.ones_like(frames[:1])
        return self._down(ones[..., :1]) * self._across(ones[..., :1, :])

    def folded(self, frame: Tensor) -> Tensor:
        """Fold a frame of one channel, once for each width."""
        rows = torch.cat([frame[:, :, row :: self.rows] for row in range(self.rows)], 1)
        return rows.repeat(1, self.across.shape[0] // self.rows, 1, 1)

    def unfolded(self, frames: Tensor) -> Tensor:
        """Undo `folded`: frames of shape (n, channels / rows, height, width)."""
        count, channels, height, width = frames.shape
        apart = frames.view(count, channels // self.rows, self.rows, height, width)
        return apart.transpose(2, 3).reshape(count, channels // self.rows, -1, width)

    def _across(self, frames: Tensor) -> Tensor:
        return functional.conv2d(
            frames, self.across, padding=(0, self.reach), groups=self.across.shape[0]
        )

    def _down(self, frames: Tensor) -> Tensor:
        return functional.conv2d(frames, self.down, padding=(self._away, 0))


class RichardsonLucy(nn.Module):
    """Richardson-Lucy with Gaussians of several widths at once."""

    def __init__(
        self,
        sigmas: tuple[float, ...] = BANK_SIGMAS_PX,
        iterations: tuple[int, ...] = ITERATIONS,
    ) -> None:
        super().__init__()
        self.iterations = iterations
        self.blur = _Gaussian(sigmas, _REACH, _BANK_ROWS)

    def forward(self, frame: Tensor) -> Tensor:
        """Deconvolve positive frames, shape (n, 1, height, width); one channel for each result."""
        seen = self.blur.folded(frame)
        inside = self.blur.inside(seen)
        outside, inside = inside, 1 / inside
        explained = seen * outside
        light, before, results = seen, seen, []
        for done in range(1, self.iterations[-1] + 1):
            # Nesterov's momentum: 14 iterations go as far as 35 without, 30 as far as 150.
            ahead = light + max(0.0, (done - 2) / (done + 1)) * (light - before)
            ahead = ahead.clamp_min(PEDESTAL / 50)
            ratio = explained / self.blur.sums(ahead)
            before, light = light, ahead * inside * self.blur.sums(ratio)
            if done in self.iterations:
                results.append(light)
        return self.blur.unfolded(torch.cat(results, 1))


def _pair(have: int, want: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(have, want, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(want, want, 3, padding=1),
        nn.ReLU(),
    )


def _exactly(device: str) -> AbstractContextManager[object]:
    """Compute in f32 even within autocast, because the iterations drift with rounding."""
    if torch.is_autocast_enabled(device):
        return torch.autocast(device, enabled=False)
    return nullcontext()


class BlurScaleNet(nn.Module):
    """Restores frames whose blur has roughly a known width.

    Parameters
    ----------
    channels : tuple of int
        Channels of each level, finest first.  The finest level makes the frame; all levels together
        estimate the width of the blur (docs/decisions/0050).
    """

    #: Height and width are multiples of this, px.
    size_multiple = 16

    def __init__(self, channels: tuple[int, ...] = (32, 64, 96, 128)) -> None:
        super().__init__()
        self.deconvolve = RichardsonLucy()
        self.kept = _Gaussian((_KEPT_SIGMA_PX,), _KEPT_REACH)
        self.assumed = _Gaussian((FINE_SIGMA_PX / 2,), _REACH)
        seen = 4 + len(BANK_SIGMAS_PX) * len(ITERATIONS) + 2
        self.down = nn.ModuleList(_pair(have, want) for have, want in pairwise((seen, *channels)))
        self.refine = _pair(channels[0], channels[0])
        self.direct = nn.Conv2d(seen, 4, 3, padding=1)
        self.head = nn.Conv2d(channels[0], 12, 3, padding=1)
        self.blur = nn.Sequential(nn.Linear(sum(channels) + 2, 96), nn.ReLU(), nn.Linear(96, 2))
        with torch.no_grad():
            for layer in (self.direct, self.head, self.blur[-1]):
                assert isinstance(layer, nn.Conv2d | nn.Linear)
                assert layer.bias is not None
                layer.weight.mul_(0.1)
                layer.bias.zero_()
            # At the start of training, the output is the frame deconvolved with the stated width and few iterations.
            right = 4 + len(BANK_SIGMAS_PX) + BANK_SIGMAS_PX.index(1.5)
            self.direct.weight[:, right, 1, 1] = 1.0

    def forward(self, seen: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Restore frames with the inputs and outputs of a bundle.

        Parameters
        ----------
        seen : Tensor, shape (n, 3, height, width)
            The frame, and the two values of `known` (see `restore`) at every pixel.

        Returns
        -------
        light : Tensor, shape (n, 1, height, width)
        interval : Tensor, shape (n, 2, height, width)
            `Restored.below` and `Restored.above`.
        blur : Tensor, shape (n, 2)
            True over stated width of the blur, and the standard uncertainty of its logarithm.
        """
        found = self.restore(seen[:, :1], seen[:, 1:].mean((2, 3)))
        return found.light, torch.cat([found.below, found.above], 1), torch.exp(found.blur)

    def restore(self, frame: Tensor, known: Tensor) -> Restored:
        """Restore frames.

        Parameters
        ----------
        frame : Tensor, shape (n, 1, height, width)
            Normalised: background 0, bright structures 1.  Sides are multiples of 16.
        known : Tensor, shape (n, 2)
            Natural logarithm of the blur's width over `FINE_SIGMA_PX`, and its standard uncertainty.
        """
        fine = functional.pixel_unshuffle(frame, 2)
        coarse = fine.mean(1, keepdim=True)
        with _exactly(coarse.device.type):
            positive = (coarse.float() + PEDESTAL).clamp_min(PEDESTAL / 5)
            bank = self.deconvolve(positive) - PEDESTAL
        told = known[:, :, None, None].expand(-1, -1, *coarse.shape[2:])
        seen = torch.cat([fine, bank, told], 1)
        finest, pooled = self.down[0](seen), []
        values = finest
        for depth, pair in enumerate(self.down):
            if depth:
                values = pair(functional.avg_pool2d(values, 2))
            pooled.append(torch.log((values.float() ** 2).mean((2, 3)) + 1e-4))
        head = self.head(self.refine(finest))
        light = functional.pixel_shuffle(
            self._with_light_of(coarse, self.direct(seen) + head[:, :4], known), 2
        )
        interval = functional.softplus(head[:, 4:] - 3.0)
        below, above = (functional.pixel_shuffle(part, 2) for part in interval.chunk(2, 1))
        # At the start of training, the stated width is right, and as uncertain as stated.
        off, doubt = self.blur(torch.cat([*pooled, known], 1)).float().chunk(2, 1)
        uncertainty = known[:, 1:]
        blur = torch.cat([uncertainty * off, torch.log(uncertainty) + doubt], 1)
        return Restored(light, below, above, blur)

    def _with_light_of(self, coarse: Tensor, light: Tensor, known: Tensor) -> Tensor:
        """Correct the result so that its low frequencies, blurred, are those of the frame."""
        flat = light.float().mean(1, keepdim=True)
        # To second order in frequency, a narrower blur has this share of the effect of the full one.
        share = torch.exp(2 * known[:, :1, None, None]).clamp_max(1)
        again = flat + share * (self.assumed.sums(flat) / self.assumed.inside(flat) - flat)
        return light + self.kept.sums(coarse - again) / self.kept.inside(flat)

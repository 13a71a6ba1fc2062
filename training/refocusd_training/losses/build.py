"""Builds a loss from a configuration."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from torch import Tensor, nn

from refocusd_training.losses.config import LossConfig
from refocusd_training.losses.feature import FeatureLoss
from refocusd_training.losses.refocus import (
    charbonnier_loss,
    frequency_loss,
    l1_loss,
    ms_ssim_loss,
    refocus_loss,
)

Formula = Callable[[Tensor, Tensor, Tensor], Tensor]


class _Formula(nn.Module):
    """A loss without weights of its own."""

    def __init__(self, formula: Formula) -> None:
        super().__init__()
        self._formula = formula

    def forward(self, refocused: Tensor, truth: Tensor, span: Tensor) -> Tensor:
        return self._formula(refocused, truth, span)


class _Sum(nn.Module):
    """Several losses, each with its weight."""

    def __init__(self, parts: list[tuple[float, nn.Module]]) -> None:
        super().__init__()
        self._weights = [weight for weight, _ in parts]
        self.parts = nn.ModuleList(part for _, part in parts)

    def forward(self, refocused: Tensor, truth: Tensor, span: Tensor) -> Tensor:
        pairs = zip(self._weights, self.parts, strict=True)
        terms = [weight * part(refocused, truth, span) for weight, part in pairs]
        total: Tensor = sum(terms[1:], start=terms[0])
        return total


def build_loss(config: LossConfig) -> nn.Module:
    """Make the loss that a configuration names.

    Returns
    -------
    nn.Module
        Called with refocused and truth, float32 of shape (batch, 1, height, width) in network
        units, and span, the range of each truth, shape (batch,); gives a scalar.

    Raises
    ------
    InputError
        If weights that it needs cannot be obtained.
    """
    if config.name == "sum":
        parts = config.parts.items()
        return _Sum([(w, build_loss(replace(config, name=n, parts={}))) for n, w in parts])  # type: ignore[arg-type]
    if config.name == "feature":
        return FeatureLoss(config)
    formulas: dict[str, Formula] = {
        "refocus": partial(refocus_loss, logarithm=config.logarithm),
        "l1": l1_loss,
        "charbonnier": charbonnier_loss,
        "frequency": frequency_loss,
        "ms-ssim": ms_ssim_loss,
    }
    return _Formula(formulas[config.name])

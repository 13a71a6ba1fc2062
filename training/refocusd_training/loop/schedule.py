"""Learning rate and momentum of every step, which depend only on the step."""

from __future__ import annotations

import math
from dataclasses import dataclass

from refocusd_training.config import TrainingConfig

#: The highest rate of a cycle divided by its first rate, and the first divided by the last.
DIV, FINAL_DIV = 25.0, 1e4
#: Decay of AdamW's first moment, at the ends and at the top of a cycle.
MOMENTUM, LOW_MOMENTUM = 0.95, 0.85
#: The default decay of AdamW, for the constant schedule.
BETA = 0.9


@dataclass(frozen=True, slots=True)
class Rates:
    """Values of an optimiser step: rates, AdamW's first beta, and whether the encoder is frozen."""

    encoder: float
    rest: float
    beta: float
    frozen: bool


def rates_at(config: TrainingConfig, step: int) -> Rates:
    """Rates of a step, counted from 1.

    They depend only on the step, so that a resumed run needs no scheduler state.
    """
    frozen = step <= config.frozen_steps
    if config.schedule == "constant":
        rate, beta = _constant(config, step), BETA
    elif frozen:
        rate, beta = _cycle(config.learning_rate, step, config.frozen_steps, config.rise)
    else:
        top = config.unfrozen_rate or config.learning_rate
        length = config.steps - config.frozen_steps
        rate, beta = _cycle(top, step - config.frozen_steps, length, config.rise)
    return Rates(rate * config.encoder_rate, rate, beta, frozen)


def _constant(config: TrainingConfig, step: int) -> float:
    up = step / max(config.warm_up, 1)
    down = (config.steps - step) / config.decay if config.decay else 1.0
    return config.learning_rate * max(min(up, 1.0, down), 0.0)


def _cycle(top: float, step: int, length: int, rise: float) -> tuple[float, float]:
    """One-cycle rate and momentum, those of torch's `OneCycleLR` before step `step`."""
    peak = rise * length - 1
    done = step - 1
    if done <= peak:
        share = done / peak if peak > 0 else 1.0
        return _between(top / DIV, top, share), _between(MOMENTUM, LOW_MOMENTUM, share)
    share = (done - peak) / max(length - 1 - peak, 1e-9)
    low = top / DIV / FINAL_DIV
    return _between(top, low, share), _between(LOW_MOMENTUM, MOMENTUM, share)


def _between(start: float, end: float, share: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * min(share, 1.0))) / 2

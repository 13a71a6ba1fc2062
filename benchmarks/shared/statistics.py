"""Statistics of interleaved pairs and of latencies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import t as student_t


@dataclass(frozen=True, slots=True)
class Pair:
    """One acquisition with the hook and one without, one right after the other.

    Parameters
    ----------
    with_hook_s, without_hook_s : float
        From the first event to the end of `await_completion`.
    with_hook_cpu_s, without_hook_cpu_s : float
        Processor time of the acquiring process in that interval.  It shows what
        the hook costs even when other programs disturb the times above.
    hook_first : bool
        Whether the one with the hook came first.  The order alternates, so that
        a drift of the machine cancels.
    """

    with_hook_s: float
    without_hook_s: float
    with_hook_cpu_s: float
    without_hook_cpu_s: float
    hook_first: bool

    def as_json(self) -> dict[str, Any]:
        """The figures with their units in the keys."""
        return {
            "with_hook_s": round(self.with_hook_s, 4),
            "without_hook_s": round(self.without_hook_s, 4),
            "with_hook_cpu_s": round(self.with_hook_cpu_s, 4),
            "without_hook_cpu_s": round(self.without_hook_cpu_s, 4),
            "hook_first": self.hook_first,
        }


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean with its 95 % confidence interval, in percent."""

    mean: float
    low: float
    high: float


def slow_down(pairs: Sequence[Pair]) -> Interval:
    """How much longer an acquisition takes with the hook, in percent.

    The geometric mean of the ratios with/without.  The interval is Student's t
    on their logarithms, from the spread between pairs.

    Raises
    ------
    ValueError
        If there are fewer than two pairs.
    """
    if len(pairs) < 2:
        raise ValueError(f"{len(pairs)} pair has no confidence interval; take two or more")
    logs = np.log([pair.with_hook_s / pair.without_hook_s for pair in pairs])
    mean = float(logs.mean())
    error = float(logs.std(ddof=1)) / len(logs) ** 0.5
    half = float(student_t.ppf(0.975, len(logs) - 1)) * error
    low, middle, high = (100 * (float(np.exp(x)) - 1) for x in (mean - half, mean, mean + half))
    return Interval(middle, low, high)


def percentiles(name: str, values_ms: Sequence[float]) -> dict[str, float | None]:
    """p50, p95, p99 and the maximum of times in ms, keyed by name; None without values."""
    keys = [f"{name}_p50_ms", f"{name}_p95_ms", f"{name}_p99_ms", f"{name}_max_ms"]
    if not values_ms:
        return dict.fromkeys(keys)
    found = np.percentile(np.asarray(values_ms), (50, 95, 99, 100))
    return {key: round(float(value), 3) for key, value in zip(keys, found, strict=True)}

"""The goals for these figures, and whether they are met."""

from __future__ import annotations

from typing import Any

#: Limits for the upper end of the 95 % interval, by engine.
SLOW_DOWN_PERCENT = {"identity": 3.0, "none": 3.0, "openvino": 10.0}
OVERHEAD_P99_MS = 10.0
SUSTAINED_FRAMES_PER_S = 40.0


def goals(figures: dict[str, Any]) -> list[dict[str, Any]]:
    """Each goal with its limit, what was measured, and whether it is met.

    Parameters
    ----------
    figures : dict
        Any of the keys ``acquisition``, ``transport`` and ``sustained``.

    Returns
    -------
    list of dict
        ``goal`` (with its unit), ``limit``, ``measured``, ``met``.
    """
    acquisition = figures.get("acquisition", [])
    transport = figures.get("transport", [])
    sustained = figures.get("sustained", [])
    found = [
        _at_most(
            f"slow-down in %, {row['side_px']}² {row['pace']}, {row['engine']}",
            SLOW_DOWN_PERCENT[row["engine"]],
            row["slow_down_high95_percent"],
        )
        for row in acquisition
    ]
    found += [
        _at_most("hook to disk p99 in ms, 512² paced", OVERHEAD_P99_MS, row["overhead_p99_ms"])
        for row in acquisition
        if (row["side_px"], row["pace"], row["engine"]) == (512, "paced", "identity")
    ]
    found += [
        _at_most(
            f"submission to {row['sink_on']} p99 in ms, 512² paced",
            OVERHEAD_P99_MS,
            row["overhead_p99_ms"],
        )
        for row in transport
        if row["way"] == "ring" and row["side_px"] == 512
    ]
    found += [
        {
            "goal": f"sustained to {row['sink_on']} in frames/s, 2048²",
            "limit": SUSTAINED_FRAMES_PER_S,
            "measured": row["sustained_frames_per_s"],
            "met": row["sustained_frames_per_s"] >= SUSTAINED_FRAMES_PER_S,
        }
        for row in sustained
        if row["side_px"] == 2048
    ]
    every = [*acquisition, *transport, *sustained]
    unaccounted = sum(row["frames_unaccounted"] for row in every)
    return [*found, _at_most("frames unaccounted for", 0, unaccounted)]


def _at_most(goal: str, limit: float, measured: float | None) -> dict[str, Any]:
    met = measured is not None and measured <= limit
    return {"goal": goal, "limit": limit, "measured": measured, "met": met}

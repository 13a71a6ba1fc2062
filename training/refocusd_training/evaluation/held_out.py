"""The part of the evaluation's optics, noise and depth that training never drew."""

from __future__ import annotations

from dataclasses import asdict

from refocusd_training.simulate.ranges import (
    DEFAULT_RANGES,
    HELD_OUT,
    HELD_OUT_DEEP,
    TRAINED_DEPTH_UM,
    Ranges,
)


def held_out(trained: Ranges = DEFAULT_RANGES) -> list[dict[str, object]]:
    """For each microscope of the evaluation, the values outside the ranges of training.

    Parameters
    ----------
    trained : Ranges

    Returns
    -------
    list of dict
        Each with the keys ``microscope`` (its name) and ``held_out`` (value and trained range by name).
    """
    found: list[dict[str, object]] = []
    for setting in (*HELD_OUT, *HELD_OUT_DEEP):
        drawn = {**asdict(setting.optics), **asdict(setting.camera)}
        outside: dict[str, object] = {}
        for name, value in drawn.items():
            bounds = getattr(trained, name, None)
            if not isinstance(bounds, tuple) or not isinstance(value, float | int):
                continue
            low, high = bounds
            if not low <= value <= high:
                outside[name] = {"value": value, "trained": [low, high]}
        if setting.layers > 1 and setting.depth_um > TRAINED_DEPTH_UM[1]:
            outside["depth_um"] = {"value": setting.depth_um, "trained": list(TRAINED_DEPTH_UM)}
        found.append({"microscope": setting.name, "held_out": outside})
    return found

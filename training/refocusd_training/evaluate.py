"""The evaluation under its earlier name; see `refocusd_training.evaluation`."""

from __future__ import annotations

from refocusd_training.evaluation import (
    LEVELS_UM,
    Case,
    Result,
    evaluate,
    held_out_cases,
    print_table,
    scene_of,
    summary,
    write_json,
)

__all__ = [
    "LEVELS_UM",
    "Case",
    "Result",
    "evaluate",
    "held_out_cases",
    "print_table",
    "scene_of",
    "summary",
    "write_json",
]

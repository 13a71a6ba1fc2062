"""Time, memory and cost of a million frames, and their table in the guide."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.speed.cluster.plates import (
    PER_POSITION,
)

#: The page of the guide that shows the table.
GUIDE = Path(__file__).resolve().parents[3] / "docs" / "guide" / "plates.md"
#: Of the plan: frames, workers at a time, and the public price of a computer with two cores and 8 GiB.
PLANNED_FRAMES, PLANNED_WORKERS, DOLLARS_PER_TWO_CORES_HOUR = 1_000_000, 64, 0.0816
PRICE = (
    "Amazon m7g.large, Linux, on demand, us-east-1, as [reported on 17 June 2026]"
    "(https://www.factualminds.com/blog/amazon-ec2-on-demand-pricing-instance-families-2026/)"
)


def plan_for(measured: Mapping[str, Any]) -> dict[str, Any]:
    """Time, memory and cost of `PLANNED_FRAMES` frames on cores as fast as those measured."""
    one = measured["contenders"]["cluster, 1 worker"]
    hours = PLANNED_FRAMES / one["frames_per_s"] / 3600
    width, height = measured["frame_px"]
    return {
        "frames": PLANNED_FRAMES,
        "jobs": math.ceil(PLANNED_FRAMES / PER_POSITION),
        "workers": PLANNED_WORKERS,
        "worker_hours": hours,
        "hours": hours / PLANNED_WORKERS / min(1.0, measured["efficiency_of_two"]),
        "worker_gib": one["worker_mib"] / 1024,
        "raw_tb": PLANNED_FRAMES * width * height * 2 / 1e12,
        "dollars": hours / min(1.0, measured["efficiency_of_two"]) * DOLLARS_PER_TWO_CORES_HOUR / 2,
    }


def plan_as_markdown(plan: Mapping[str, Any], measured: Mapping[str, Any]) -> str:
    """The plan as a Markdown table for the guide."""
    width, height = measured["frame_px"]
    one = measured["contenders"]["cluster, 1 worker"]
    rows = {
        "measured": f"{one['frames_per_s']:.1f} frames a second by one worker; two do "
        f"{measured['efficiency_of_two']:.2f} times as much as twice one",
        "frames": f"{plan['frames']:,} of {width} × {height} px, {plan['raw_tb']:.2f} TB",
        "jobs": f"{plan['jobs']:,} positions of {PER_POSITION} frames",
        "time of one worker": f"{plan['worker_hours']:.0f} h",
        f"time of {plan['workers']} workers": f"{plan['hours']:.1f} h",
        "memory of a worker": f"{plan['worker_gib']:.1f} GiB",
        "cost of cores": f"${plan['dollars']:.2f}, at ${DOLLARS_PER_TWO_CORES_HOUR} an hour for two cores with "
        f"8 GiB ({PRICE})",
    }
    return "\n".join(
        ["| | |", "|---|---|", *(f"| {name} | {text} |" for name, text in rows.items())]
    )


def into_guide(figures: Path, guide: Path = GUIDE) -> str:
    """The text of the guide's page, with its table replaced by the plan of these figures."""
    found = json.loads(figures.read_text(encoding="utf-8"))
    table = plan_as_markdown(found["plan"], found["workers"])
    before, begin, rest = guide.read_text(encoding="utf-8").partition("<!-- plan: ")
    mark, end, after = rest.partition("<!-- plan ends -->")
    return f"{before}{begin}{mark.splitlines()[0]}\n{table}\n{end}{after}"

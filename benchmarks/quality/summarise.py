"""Shorten an evaluation's JSON so that it can be kept in the repository; the evaluation makes the rest anew.

    python -m benchmarks.quality.summarise FILE...

Leaves out the figures of single frames and the tables by microscope and by channel; writes one table per line.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

LEFT_OUT = frozenset(
    {"frames", "figures_by_channel", "by_microscope", "in_focus_by_microscope", "by_defocus_um"}
)


def summarise(path: Path) -> None:
    """Shorten a file in place."""
    kept = _kept(json.loads(path.read_text(encoding="utf-8")))
    lines = (f" {json.dumps(key)}: {json.dumps(value)}" for key, value in kept.items())
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


def _kept(document: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: _kept(value) if isinstance(value, dict) else value
        for key, value in document.items()
        if key not in LEFT_OUT
    }


if __name__ == "__main__":
    for name in sys.argv[1:]:
        summarise(Path(name))

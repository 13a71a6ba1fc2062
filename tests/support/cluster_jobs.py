"""Cluster jobs, and the command that submits them, run in this process."""

from __future__ import annotations

import json
import os
from pathlib import Path
from unittest import mock

from finished import environment
from plates_on_disk import write_plate

from refocusd.cli.main import main
from refocusd.cluster.order import PositionOrder
from refocusd.config import Settings
from refocusd.formats.open_dataset import open_dataset
from refocusd.formats.open_sink import create_sink


def process(*arguments: object, place: Path, **more: str) -> int:
    """Run `refocusd process` in this process; returns its exit status."""
    with mock.patch.dict(os.environ, environment(place, **more), clear=True):
        return main(["process", *map(str, arguments)])


def prepared(tmp_path: Path) -> tuple[Path, Path]:
    """A plate and its output, which has no frame yet."""
    raw, out = tmp_path / "plate.zarr", tmp_path / "plate_refocused.zarr"
    write_plate(raw, levels=1)
    with open_dataset(raw) as dataset:
        create_sink("ndtiff", out, dataset.summary).close()
    return raw, out


def order_for(raw: Path, out: Path, position: str = "A/1/1") -> PositionOrder:
    with open_dataset(raw) as dataset:
        keys = [key for key in dataset.axes_keys() if json.loads(key)["position"] == position]
    settings = Settings(backend="identity")
    acquisition = "00000000-0000-0000-0000-000000000001"
    return PositionOrder(str(raw), str(out), position, keys, acquisition, "r", settings, "{}", [])

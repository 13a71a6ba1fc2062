"""Datasets exported by the sub-command, and what tifffile reads from the files."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
from ndtiff_sinks import numbered_frame, opened_by_tifffile, write_all

from refocusd.cli.commands import export as command
from refocusd.cli.flags import add_module
from refocusd.formats.open_sink import SinkKind, create_sink
from refocusd.frame import Axes, Frame

SUMMARY = {"PixelSize_um": 0.645, "z-step_um": 2.0, "Interval_ms": 500, "ChNames": ["DAPI", "GFP"]}


def refocusd_export(*arguments: object) -> int:
    """Run the sub-command in this process; errors propagate."""
    parser = argparse.ArgumentParser()
    add_module(parser.add_subparsers(required=True), "export", command)
    parsed = parser.parse_args(["export", *map(str, arguments)])
    status: int = parsed.command(parsed)
    return status


def dataset(
    path: Path, kind: SinkKind, several: Iterable[Axes], summary: Any = SUMMARY, **metadata: Any
) -> dict[str, Frame]:
    """Write a dataset with these axes, and return its frames."""
    made = [
        Frame(numbered_frame(n, (24, 32)).pixels, axes, {"ElapsedTime-ms": 20.0 * n, **metadata})
        for n, axes in enumerate(several)
    ]
    with create_sink(kind, path, summary) as sink:
        write_all(sink, made)
    return {frame.key: frame for frame in made}


def stack_of(times: int, channels: tuple[int | str, ...], planes: int, **more: Any) -> list[Axes]:
    return [
        {"time": t, "channel": c, "z": z, **more}
        for t in range(times)
        for z in reversed(range(planes))
        for c in channels
    ]


def pixels_of(path: Path) -> tuple[Any, ElementTree.Element]:
    """Pixels (t, c, z, y, x) and OME-XML, as tifffile reads the file."""
    with opened_by_tifffile(path) as tiff:
        assert tiff.is_ome
        (series,) = tiff.series
        root = ElementTree.fromstring(str(tiff.ome_metadata))
        image = next(element for element in root.iter() if element.tag.endswith("}Image"))
        (said,) = attributes(image, "Pixels")
        assert said["DimensionOrder"] == "XYZCT"
        sizes = tuple(int(said[f"Size{letter}"]) for letter in "TCZYX")
        assert len(tiff.pages) == np.prod(sizes[:3])
        return series.asarray().reshape(sizes), image


def attributes(image: ElementTree.Element, name: str) -> list[dict[str, str]]:
    return [dict(element.attrib) for element in image.iter() if element.tag.endswith("}" + name)]

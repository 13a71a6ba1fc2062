"""Yokogawa CellVoyager's files beside the images of a plate: when, where and how each was taken.

=========================  =====================================================
``MeasurementData.mlf``    of each image: time, place of the stage, channel
``MeasurementDetail.mrf``  when the measurement began, the size of a pixel
``*.mes``                  of each channel: dye, exposure
=========================  =====================================================

Source: Bio-Formats (``CV7000Reader``) and faim-ipa.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from refocusd.files import read_limited
from refocusd.formats.metadata import finite_number

#: Larger files are not read; a record takes about 400 bytes.
_MOST_BYTES = 1 << 28


@dataclass(frozen=True, slots=True)
class Measurement:
    """Metadata under Micro-Manager's names: of the whole plate, and of its images by file name."""

    summary: Mapping[str, Any] = field(default_factory=dict)
    of_files: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def of(self, name: str) -> Mapping[str, Any]:
        """Metadata of one image; empty if there are none."""
        return self.of_files.get(name.lower(), {})


def measurement_in(folder: Path) -> Measurement:
    """Contents of the files beside the images; missing or illegible ones are left out."""
    detail = list(_elements(folder / "MeasurementDetail.mrf"))
    begun = next(
        (said.get("BeginTime") for tag, said, _ in detail if tag == "MeasurementDetail"), ""
    )
    pixels = {said.get("Ch"): said for tag, said, _ in detail if tag == "MeasurementChannel"}
    settings = sorted(folder.glob("*.mes"))
    channels = {
        said.get("Ch"): said
        for place in settings[:1]
        for tag, said, _ in _elements(place)
        if tag == "Channel"
    }
    of_files = {}
    for tag, said, text in _elements(folder / "MeasurementData.mlf"):
        if tag != "MeasurementRecord" or said.get("Type") != "IMG":
            continue
        channel = channels.get(said.get("Ch"), {})
        pixel = pixels.get(said.get("Ch"), {})
        numbers = {
            "XPositionUm": said.get("X"),
            "YPositionUm": said.get("Y"),
            "ZPositionUm": said.get("Z"),
            "PixelSizeUm": pixel.get("HorizontalPixelDimension"),
            "Exposure-ms": channel.get("ExposureTime"),
        }
        found: dict[str, Any] = {
            name: number
            for name, value in numbers.items()
            if (number := finite_number(value)) is not None
        }
        texts = {"TimeReceivedByCore": said.get("Time"), "Channel": channel.get("Target")}
        of_files[text.strip().lower()] = found | {
            name: value for name, value in texts.items() if value
        }
    return Measurement({"StartTime": begun} if begun else {}, of_files)


def _elements(place: Path) -> Iterator[tuple[str, dict[str, str], str]]:
    """Name, attributes and text of each element of an XML document, without namespaces."""
    try:
        data = read_limited(place, _MOST_BYTES)
        if b"<!" in data:  # a document type could define entities, which these files do not have
            return
        root = ElementTree.fromstring(data)  # noqa: S314
    except (OSError, ElementTree.ParseError, ValueError, RecursionError):
        return
    for element in root.iter():
        said = {name.rpartition("}")[2]: value for name, value in element.attrib.items()}
        yield str(element.tag).rpartition("}")[2], said, element.text or ""

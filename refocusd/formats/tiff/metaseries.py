"""What MetaMorph and MetaXpress (ImageXpress) say of a frame: XML in the page's description.

::

    <MetaData><PlaneInfo>
     <prop id="spatial-calibration-x" type="float" value="0.65"/>
     <prop id="z-position" type="float" value="8030.5"/> ...

Source: Bio-Formats (``MetamorphHandler``) and tifffile (``metaseries_description_metadata``).
"""

from __future__ import annotations

import re
from typing import Any
from xml.etree import ElementTree

from refocusd.formats.metadata import UM_PER_UNIT, finite_number

#: Numbers, by Micro-Manager's names.
_NUMBERS = {
    "z-position": "ZPositionUm",
    "stage-position-x": "XPositionUm",
    "stage-position-y": "YPositionUm",
    "Exposure Time": "Exposure-ms",
}
_EXPOSURE = re.compile(r"Exposure: ([\d.]+) (ms|s)\b")


def metaseries_metadata(description: str) -> dict[str, Any]:
    """Metadata of one frame under Micro-Manager's names; empty where the description is another's.

    Parameters
    ----------
    description : str
        A page's ImageDescription.
    """
    if not description.lstrip().startswith("<MetaData>") or "<!" in description:
        return {}
    try:
        # Without a document type there are no entities to expand.
        root = ElementTree.fromstring(description)  # noqa: S314
    except (ElementTree.ParseError, ValueError, RecursionError):
        return {}
    said = {str(prop.get("id")): str(prop.get("value", "")) for prop in root.iter("prop")}
    found: dict[str, Any] = {
        name: number
        for key, name in _NUMBERS.items()
        if (number := finite_number(said.get(key))) is not None
    }
    unit = UM_PER_UNIT.get(said.get("spatial-calibration-units", "").lower())
    pixel = finite_number(said.get("spatial-calibration-x"))
    if unit and pixel and said.get("spatial-calibration-state", "on") != "off":
        found["PixelSizeUm"] = pixel * unit
    if exposure := _EXPOSURE.search(said.get("Description", "")):
        found.setdefault("Exposure-ms", float(exposure[1]) * (1e3 if exposure[2] == "s" else 1.0))
    if said.get("_IllumSetting_"):
        found["Channel"] = said["_IllumSetting_"]
    return found

"""The trust maps of an output: a small dataset of their own inside of it."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from refocusd.daemon.output.jobs import WriteFrame
from refocusd.datasets.run_folder import trust_maps_of
from refocusd.formats.open_sink import append_sink, create_sink, sink_kind
from refocusd.formats.scale import scale_of, z_position_um
from refocusd.formats.sink import Sink
from refocusd.imaging.trust_map import AS_ACQUIRED, CELL_PX, pixels_per_cell, trust_shape

log = logging.getLogger(__name__)

#: What a reader needs to know of the values; stands in the summary metadata.
ABOUT = {
    "values": "probability in percent that the error of a cell is above the bound of the verdict",
    "as_acquired": AS_ACQUIRED,
}


class TrustMaps:
    """Writes the map of each frame after the frame itself; whatever goes wrong costs maps only.

    The dataset has the format of the output: NDTiff in the folder ``trust``, OME-Zarr in the group
    ``refocusd/trust``.  It is made with the first map; its frames have the axes of the output's.

    Parameters
    ----------
    output : Path
    summary : mapping
        Summary metadata of the output.
    shape : (int, int)
        Of the frames.
    enabled : bool
        See `refocusd.config.Settings.trust_map`.
    """

    def __init__(
        self, output: Path, summary: Mapping[str, Any], shape: tuple[int, int], *, enabled: bool
    ) -> None:
        self._output = output
        self._summary = summary
        self._shape = trust_shape(shape)
        self._repeats = pixels_per_cell(shape)
        self._enabled = enabled
        self._sink: Sink | None = None

    def write(self, job: WriteFrame) -> None:
        """Write the map of a frame; the first failure is logged, and no map is written after it."""
        if not self._enabled or not job.trust:
            return
        try:
            self._write(job)
        except Exception as error:  # noqa: BLE001 (the frame is written, and the next one is)
            log.error("no trust map is written any more beside %s: %s", self._output, error)
            self._enabled = False
            self.close()

    def close(self) -> None:
        """Close the dataset; never raises."""
        sink, self._sink = self._sink, None
        try:
            if sink is not None:
                sink.close()
        except Exception:
            log.exception("closing the trust maps of %s", self._output)

    def _write(self, job: WriteFrame) -> None:
        sink = self._sink = self._sink or self._opened()
        if job.submit.axes in sink:
            return
        metadata = json.loads(job.submit.metadata or "{}")
        metadata = metadata if isinstance(metadata, dict) else {}
        pixel_um = scale_of(metadata, self._summary).pixel_um
        cells = np.frombuffer(job.trust, np.uint8).reshape(self._shape)
        cells = cells.repeat(self._repeats, axis=0).repeat(self._repeats, axis=1)
        facts = job.facts
        about = {"verdict": facts.verdict, "reasons": facts.reasons, "chance": facts.error_chance}
        scale = {"PixelSizeUm": pixel_um * CELL_PX / self._repeats} if pixel_um else {}
        if (z_um := z_position_um(metadata)) is not None:
            scale["ZPositionUm"] = z_um  # tells the distance of planes where the summary does not
        sink.write(cells, json.loads(job.submit.axes), {**scale, "refocusd": about})

    def _opened(self) -> Sink:
        place = trust_maps_of(self._output)
        if sink_kind(place):
            return append_sink(place)
        about = {"cell_px": CELL_PX, "pixels_per_cell": self._repeats, **ABOUT}
        summary = {**self._summary, "refocusd": {"trust_map": about}}
        # A pixel of the frame is not one of the map.
        summary.pop("PixelSize_um", None)
        return create_sink(sink_kind(self._output) or "ndtiff", place, summary)

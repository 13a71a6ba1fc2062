"""Writes the trust maps of an output, into a small dataset inside it."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote

import numpy as np

from refocusd.daemon.output.jobs import WriteFrame
from refocusd.datasets.run_folder import trust_maps_of
from refocusd.errors import OutputError
from refocusd.files import remove_tree
from refocusd.formats.metadata import json_object
from refocusd.formats.open_dataset import open_dataset
from refocusd.formats.open_sink import append_sink, create_sink, sink_kind
from refocusd.formats.scale import scale_of, z_position_um
from refocusd.formats.sink import Sink
from refocusd.frame import Metadata, Pixels
from refocusd.imaging.trust_map import AS_ACQUIRED, CELL_PX, pixels_per_cell, trust_shape

log = logging.getLogger(__name__)

#: Description of the values for readers, in the summary metadata.
ABOUT = {
    "values": "probability in percent that the error of a cell is above the bound of the verdict",
    "as_acquired": AS_ACQUIRED,
}


#: Folder beside the maps, in which jobs of a cluster write the maps of their positions.
PARTS = "trust-parts"


class TrustMaps:
    """Writes the map of each frame after the frame itself; errors affect only maps.

    The dataset has the format of the output: NDTiff in the folder ``trust``, OME-Zarr in the group
    ``refocusd/trust``.  It is created with the first map; its frames have the same axes as the output's.
    Only one process may write it, so each job of a cluster writes its own dataset (`of_position`), and
    `take_in` moves the maps into the dataset of the output.

    Parameters
    ----------
    output : Path
    summary : mapping
        Summary metadata of the output.
    shape : (int, int)
        (height, width) of the frames, px.
    enabled : bool
        See `refocusd.config.Settings.trust_map`.
    """

    def __init__(
        self, output: Path, summary: Mapping[str, Any], shape: tuple[int, int], *, enabled: bool
    ) -> None:
        self._output = output
        self._place = trust_maps_of(output)
        self._kind = sink_kind(output) or "ndtiff"
        self._summary = summary
        self._shape = trust_shape(shape)
        self._repeats = pixels_per_cell(shape)
        self._enabled = enabled
        self._sink: Sink | None = None

    @classmethod
    def of_position(
        cls,
        output: Path,
        position: str,
        summary: Mapping[str, Any],
        shape: tuple[int, int],
        *,
        enabled: bool,
    ) -> Self:
        """The maps of one position, for a job of a cluster; parameters as for `TrustMaps`."""
        maps = cls(output, summary, shape, enabled=enabled)
        maps._place = _parts(output) / f"{quote(position or 'image', safe='')}.maps"
        maps._kind = "ndtiff"
        return maps

    def write(self, job: WriteFrame) -> None:
        """Write the map of a frame; the first failure is logged, and no map is written after it."""
        if job.trust:
            self._try(partial(self._write, job))

    def take_in(self) -> None:
        """Move the maps of a cluster's jobs into the dataset, except those of jobs that still run."""
        parts = _parts(self._output)
        for part in sorted(parts.glob("*.maps")):
            self._try(partial(self._move, part))
        with suppress(OSError):  # the folder does not exist, or a job still writes into it
            parts.rmdir()

    def close(self) -> None:
        """Close the dataset; never raises."""
        sink, self._sink = self._sink, None
        try:
            if sink is not None:
                sink.close()
        except Exception:
            log.exception("closing the trust maps of %s", self._output)

    def _try(self, do: Callable[[], None]) -> None:
        if not self._enabled:
            return
        try:
            do()
        except Exception as error:  # noqa: BLE001 (frames are written nevertheless)
            log.error("no more trust maps are written beside %s: %s", self._output, error)
            self._enabled = False
            self.close()

    def _write(self, job: WriteFrame) -> None:
        metadata = json_object(job.submit.metadata) or {}
        pixel_um = scale_of(metadata, self._summary).pixel_um
        cells = np.frombuffer(job.trust, np.uint8).reshape(self._shape)
        cells = cells.repeat(self._repeats, axis=0).repeat(self._repeats, axis=1)
        facts = job.facts
        about = {"verdict": facts.verdict, "reasons": facts.reasons, "chance": facts.error_chance}
        scale = {"PixelSizeUm": pixel_um * CELL_PX / self._repeats} if pixel_um else {}
        if (z_um := z_position_um(metadata)) is not None:
            scale["ZPositionUm"] = z_um  # gives the distance of planes if the summary does not
        self._put(job.submit.axes, cells, {**scale, "refocusd": about})

    def _move(self, part: Path) -> None:
        try:
            locked = append_sink(part)
        except OutputError as error:
            log.warning("the trust maps in %s were not moved, and stay there: %s", part, error)
            return
        with locked, open_dataset(part) as maps:
            for key in maps.axes_keys():
                frame = maps.read(key)
                self._put(key, frame.pixels, frame.metadata)
        # If a virus scanner holds a file, the folder is deleted the next time maps are moved.
        remove_tree(part)

    def _put(self, key: str, cells: Pixels, metadata: Metadata) -> None:
        sink = self._sink = self._sink or self._opened()
        if key not in sink:
            sink.write(cells, json.loads(key), metadata)

    def _opened(self) -> Sink:
        if sink_kind(self._place):
            return append_sink(self._place)
        about = {"cell_px": CELL_PX, "pixels_per_cell": self._repeats, **ABOUT}
        summary = {**self._summary, "refocusd": {"trust_map": about}}
        # The pixel size of the frames is not that of the maps.
        summary.pop("PixelSize_um", None)
        return create_sink(self._kind, self._place, summary)


def _parts(output: Path) -> Path:
    return trust_maps_of(output).with_name(PARTS)

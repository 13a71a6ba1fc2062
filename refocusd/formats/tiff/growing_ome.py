"""OME-TIFF while ome-writers, and with it pymmcore-plus, writes it: one file for each position.

The first page and its OME-XML are written with the first frame, the pixels of the others follow one
after the other, and their directories come last.  So the size of the file tells how many frames there
are, and a second directory tells that the file is finished.

Source: ome-writers 0.3 ``_backends/_tifffile.py``.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from refocusd.errors import InputError
from refocusd.files import in_command, open_shared
from refocusd.formats.placed_frames import PlacedFrames
from refocusd.formats.tiff.arrangement import Arrangement, PlacedPage, without_constant_axes
from refocusd.formats.tiff.growing_file import Opener
from refocusd.formats.tiff.ome_xml import ANY_PAGES, from_ome
from refocusd.formats.tiff.page import MAX_FRAME_BYTES, Place
from refocusd.formats.tiff.page_layout import page_layout
from refocusd.formats.tiff.strict import StrictTiff
from refocusd.frame import canonical_axes

ENDINGS = (".ome.tif", ".ome.tiff")


class GrowingOmeTiff(PlacedFrames):
    """The frames of one OME-TIFF that ome-writers writes, or has written.

    For an acquisition without a planned end, the OME-XML counts one time point until it is finished:
    later frames belong to the following time points.  A file of one frame always counts as growing.

    Parameters
    ----------
    path : Path
        The file.
    opener : callable
        Opens it.

    Raises
    ------
    InputError
        If another program has written it, or it is compressed.
    """

    source = "OME-XML"

    def __init__(self, path: Path, opener: Opener = open_shared) -> None:
        name = path.name[: path.name.lower().rindex(".ome.tif")]
        super().__init__(path, opener, name=name, growing=True)
        self.catch_up_from = str(self.path)
        self._arrangement = Arrangement((), self.source)
        self._pages: dict[str, PlacedPage] = {}
        self._finished = False

    @property
    def finished(self) -> bool:
        """Whether its writer has closed it."""
        return self._finished

    def refresh(self) -> list[str]:
        """Find the frames that were written since the last call."""
        size = self.path.stat().st_size
        if self._finished:
            return []
        try:
            with closing(StrictTiff(self.path)) as tiff:
                page = tiff.page(tiff.offsets[0])
                xml, pages = tiff.description(page), len(tiff.offsets)
                layout = page_layout(tiff, page, 0, MAX_FRAME_BYTES)
                if tiff.cut:
                    return []  # its last directory is being written
        except InputError:
            return []  # its first page is being written
        arrangement = self._arranged(xml)
        start, form = layout.contiguous_offset, layout.format
        if start is None:
            raise self._refused("it is compressed")
        self._arrangement, self._finished = arrangement, pages > 1
        self._summary = arrangement.summary
        there, rest = divmod(size - start, form.nbytes)
        there = pages if self._finished else there
        frames = list(arrangement.frames)
        if self._finished or not rest:  # directories after the pixels are not frames
            frames += _following(arrangement, there)
        fresh = []
        axes = without_constant_axes([frame.axes for frame in frames], arrangement.kept)
        for frame, named in zip(frames, axes, strict=True):
            key = canonical_axes(named)
            if frame.page < there and key not in self._frames:
                offset = start + frame.page * form.nbytes
                self._frames[key] = Place(self.path.name, offset, form, 0, 0)
                self._pages[key] = frame
                fresh.append(key)
        return fresh

    def is_whole(self, key: str) -> bool:
        """Whether a frame is on disk: only such frames are listed."""
        return key in self

    def _arranged(self, xml: str) -> Arrangement:
        if 'Creator="tifffile' in xml[:2000]:
            raise self._refused("its writer gives it its full size before the first frame")
        arrangement = None
        if "Creator=" not in xml[:2000]:
            arrangement = from_ome(xml, ANY_PAGES, self.path.name, str(self.path))
        if arrangement is None:
            raise self._refused("it is not one that ome-writers writes")
        return arrangement

    def _refused(self, why: str) -> InputError:
        return InputError(
            f"{self.path} cannot be followed while it is written: {why}, and nothing else tells which "
            f"frames are there; when it is finished: `refocusd process {in_command(self.path)}`.  OME-Zarr can be "
            "followed, and pymmcore-plus hands frames over itself (refocusd.MDAOutput)"
        )

    def _metadata(self, key: str) -> dict[str, Any]:
        return self._pages[key].said(self._arrangement.pixel_um)


def _following(arrangement: Arrangement, count: int) -> Iterator[PlacedPage]:
    """Frames of the pages up to `count` that follow those which the OME-XML knows."""
    known = arrangement.frames
    first = [frame for frame in known if frame.axes["time"] == 0]
    for page in range(len(known), count):
        again = first[page % len(first)]
        axes = {**again.axes, "time": page // len(first)}
        yield PlacedPage(page, axes, position_name=again.position_name)

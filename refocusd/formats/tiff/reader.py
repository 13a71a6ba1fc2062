"""The frames of one TIFF, OME-TIFF or ImageJ stack."""

from __future__ import annotations

import math
from array import array
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tifffile import TiffPage

from refocusd.errors import InputError
from refocusd.formats.ndtiff.layout import NDTIFF_MAGIC
from refocusd.formats.tiff.arrangement import (
    Arrangement,
    PlacedPage,
    from_imagej,
    from_shaped,
    metaseries_metadata,
    plain,
)
from refocusd.formats.tiff.growing_file import writer_mark
from refocusd.formats.tiff.ome_xml import OME_ROOT, companion_of, from_ome
from refocusd.formats.tiff.page import PageFormat
from refocusd.formats.tiff.page_layout import PageLayout, is_reduced, page_layout
from refocusd.formats.tiff.stk import from_stk, planes_of
from refocusd.formats.tiff.strict import StrictTiff
from refocusd.frame import AxisValue, Pixels, counted
from refocusd.profiles.microscope_metadata import plausible_pixel_um

_X_RESOLUTION, _RESOLUTION_UNIT, _IMAGEJ_METADATA = 282, 296, 50839
_UNDESCRIBED = "the order of the pages, as the description that told their axes was cut off"
#: A description that promises this many frames for each that can be used belongs to another file.
_MOST_PROMISED = 1000
_UM_PER_RESOLUTION_UNIT = {2: 25400.0, 3: 10000.0}


class TiffImageFile:
    """An `image_files._ImageFile`: every page is found and checked when the file is opened.

    Only the place and the axes of each page are kept; what else the page says is
    read again when it is needed.

    Parameters
    ----------
    path : Path
    max_frame_bytes : int
        A page that claims to be larger is an error, unless it can be read in parts.

    Attributes
    ----------
    troubles : dict of int to str
        Why a frame cannot be used, though others of the file can, by its index.
    in_parts : bool
        Its frames are large, and can be read without holding a whole one.

    Raises
    ------
    InputError
        If the file is not a TIFF, is damaged, or none of its frames can be used.
    """

    def __init__(self, path: Path, max_frame_bytes: int) -> None:
        self.path = path
        self._most_bytes = max_frame_bytes
        #: Whether each page has its own description of its frame, as MetaMorph's pages do.
        self._described_pages = False
        #: Number of the page that was read last, and the places of its pixels.
        self._layout: tuple[int, PageLayout] | None = None
        self._file: StrictTiff | None = StrictTiff(path)
        try:
            self._open(self._file)
        except RecursionError as error:
            raise self._file.damaged("its metadata is nested too deeply") from error
        finally:
            self.close()

    def read(self, index: int) -> Pixels:
        """Pixels of one frame; opens the file if it is closed.

        Raises
        ------
        InputError
            If its pixels cannot be read or decoded, or the file has changed.
        """
        if self.format.nbytes > self._most_bytes:
            raise InputError(
                f"{self.path} has frames of {self.format}, above the limit of {self._most_bytes} bytes "
                "for what is read as a whole: give this file by itself to `refocusd process`"
            )
        file, layout = self._laid_out(index)
        return layout.read(file, index * self.format.nbytes if self._contiguous else 0)

    def read_part(self, index: int, rows: slice, columns: slice) -> Pixels:
        """Part of one frame, shape (rows, columns), if frames are `in_parts`; raises as `read`."""
        file, layout = self._laid_out(index)
        return layout.read_part(file, rows, columns)

    def _laid_out(self, index: int) -> tuple[StrictTiff, PageLayout]:
        if index in self.troubles:
            raise InputError(self.troubles[index])
        file, number = self._opened(), self._frames[index].page
        if self._layout is None or self._layout[0] != number:
            page = file.page(self._offsets[number])
            layout = page_layout(file, page, number, self._most_bytes)
            if layout.format != self.format:
                raise InputError(f"{self.path} has changed since it was opened: open it again")
            # Kept, because it is needed again for every tile of a slide.
            self._layout = (number, layout)
        return file, self._layout[1]

    def _opened(self) -> StrictTiff:
        if self._file is None:
            self._file = StrictTiff(self.path, self._offsets)
        return self._file

    def close(self) -> None:
        """Close the file until the next `read`."""
        if self._file is not None:
            self._file.close()
            self._file = None
        self._layout = None

    def metadata(self, index: int) -> dict[str, Any]:
        """Metadata of one frame in the file."""
        frame = self._frames[index]
        said = frame.said(self.pixel_um)
        if self._described_pages and index not in self.troubles:
            file = self._opened()
            page = file.page(self._offsets[frame.page])
            said |= metaseries_metadata(file.description(page))
        return said

    def _open(self, file: StrictTiff) -> None:
        if writer_mark(self.path) == NDTIFF_MAGIC:
            raise InputError(
                f"{self.path} is part of an NDTiff dataset, and NDTiff.index is not beside it: "
                "copy the whole folder, and open that"
            )
        first, formats, whole = self._looked_through(file)
        arrangement = self._arranged(file, first, formats)
        self._frames = arrangement.frames
        self._contiguous = arrangement.contiguous
        self.format = self._one_format(file, arrangement, formats)
        self.in_parts = not self._contiguous and whole.isdisjoint(
            f.page for index, f in enumerate(self._frames) if index not in self.troubles
        )
        self.axes: Sequence[Mapping[str, AxisValue]] = tuple(f.axes for f in self._frames)
        self.elapsed_ms: Sequence[float | None] = tuple(f.elapsed_ms for f in self._frames)
        self.pixel_um = arrangement.pixel_um or self._pixel_um_of_tags(file, first)
        self.summary: dict[str, Any] = arrangement.summary
        self.source = arrangement.source
        self.set_files = arrangement.set_files
        self.kept_axes = arrangement.kept

    def _looked_through(
        self, file: StrictTiff
    ) -> tuple[TiffPage, list[PageFormat | InputError], set[int]]:
        """The first page; each page's format, or why it cannot be used; the pages not stored in parts.

        Raises
        ------
        InputError
            If all pages are thumbnails, or the first cannot be read.
        """
        self._offsets = array("Q")
        first: TiffPage | None = None
        formats: list[PageFormat | InputError] = []
        known: dict[PageFormat, PageFormat] = {}
        whole: set[int] = set()
        for offset in file.offsets:
            number = len(self._offsets)
            try:
                page = file.page(offset)
                if is_reduced(file, page):
                    continue
                first = first or page
                layout = page_layout(file, page, number, self._most_bytes)
                formats.append(known.setdefault(layout.format, layout.format))
                if not layout.in_parts:
                    whole.add(number)
            except InputError as error:
                # The first page holds what the file says about its frames.
                if first is None or isinstance(error.__cause__, OSError):
                    raise
                # The page may be a label or an overview that is not part of the recording.
                # The error's traceback would keep alive everything that was read.
                formats.append(error.with_traceback(None))
            self._offsets.append(offset)
        if first is None:
            raise file.damaged("all of its pages are thumbnails")
        return first, formats, whole

    def _room(self, file: StrictTiff, page: int) -> float:
        """How many frames may follow the pixels of a page without directories of their own.

        ImageJ and tifffile put all directories but the first after all pixels.
        """
        if not file.cut:
            return math.inf if page == len(self._offsets) - 1 else 0
        try:
            layout = page_layout(file, file.page(self._offsets[page]), page, self._most_bytes)
        except InputError:
            return 0
        start = layout.contiguous_offset
        return 0 if start is None else (file.cut_at - start) // layout.format.nbytes

    def _arranged(
        self,
        file: StrictTiff,
        first: TiffPage,
        formats: Sequence[PageFormat | InputError],
    ) -> Arrangement:
        """Frames by the file's own metadata, the most trustworthy first."""
        if planes_of(first) > 1:
            return from_stk(file, first)
        pages, what = len(self._offsets), str(self.path)
        description = file.description(first).strip()
        if OME_ROOT.search(description, 0, 10_000):
            xml, uuid = companion_of(description, self.path) or (description, None)
            arrangement = from_ome(xml, pages, self.path.name, what, uuid)
            if arrangement is not None:
                return arrangement
        if description.startswith("ImageJ="):
            resolution = file.rational(first, _X_RESOLUTION)
            return from_imagej(
                description, pages, resolution, what, _imagej_labels(first), self._room(file, 0)
            )
        # As tifffile recognises its own files; up to 2024 it wrote the axes first.
        if description.startswith("{") and '"shape":' in description:
            return self._shaped(file, formats)
        of_first = metaseries_metadata(description)
        self._described_pages = bool(of_first) and pages > 1
        # It is unknown how many pages are lost after the end of the chain: they count as one.
        arrangement = plain(pages + bool(file.cut), of_first)
        if first.offset in file.undescribed:
            return replace(arrangement, source=_UNDESCRIBED)
        return arrangement

    def _shaped(self, file: StrictTiff, formats: Sequence[PageFormat | InputError]) -> Arrangement:
        """Frames of the largest series: a file written by tifffile may have several."""
        largest: tuple[int, int, Arrangement] | None = None
        start, pages = 0, len(self._offsets)
        while start < pages:
            form = formats[start]
            if isinstance(form, InputError):
                if largest is None:
                    raise form
                break
            text = file.description(file.page(self._offsets[start]))
            arrangement, taken = from_shaped(
                text,
                pages - start,
                (form.height, form.width),
                str(self.path),
                self._room(file, start),
            )
            size = form.nbytes * len(arrangement.frames)
            if largest is None or size > largest[0]:
                largest = (size, start, arrangement)
            start += taken
        assert largest is not None
        _, start, arrangement = largest
        if start == 0:
            return arrangement
        frames = tuple(PlacedPage(f.page + start, f.axes) for f in arrangement.frames)
        return Arrangement(frames, arrangement.source, contiguous=arrangement.contiguous)

    def _one_format(
        self, file: StrictTiff, arrangement: Arrangement, formats: Sequence[PageFormat | InputError]
    ) -> PageFormat:
        """Format of most frames; the others are listed in `troubles`."""
        each = self._formats_of_frames(file, arrangement, formats)
        found = Counter(form for form in each if isinstance(form, PageFormat))
        errors = (form for form in each if isinstance(form, InputError))
        if not found:
            raise next(errors)
        if len(each) > _MOST_PROMISED * found.total():
            raise file.damaged(
                f"{arrangement.source} promises {len(each)} frames, and {found.total()} can be used"
            )
        first = found.most_common(1)[0][0]
        self.troubles: Mapping[int, str] = {
            index: str(form)
            if isinstance(form, InputError)
            else f"page {frame.page} of {self.path} is {form}, where most are {first}"
            for index, (frame, form) in enumerate(zip(arrangement.frames, each, strict=True))
            if form != first
        }
        said = (first.height, first.width, first.dtype.name)
        if arrangement.promised not in (None, said):
            raise InputError(
                f"{self.path} has pages of {first}, and metadata that says {arrangement.promised}: "
                "it is damaged, or was changed after it was written; export it anew"
            )
        return first

    def _formats_of_frames(
        self, file: StrictTiff, arrangement: Arrangement, formats: Sequence[PageFormat | InputError]
    ) -> list[PageFormat | InputError]:
        """Format of each frame, or why it cannot be used; promised frames that are lost are included."""
        pages, frames = len(formats), len(arrangement.frames)
        if arrangement.contiguous:
            return self._formats_in_one_piece(file, arrangement, formats)
        lost = (
            InputError(file.cut)
            if file.cut
            else file.damaged(
                f"{arrangement.source} promises {counted(frames)}, and it has {counted(pages, 'page')}"
            )
        )
        return [formats[f.page] if f.page < pages else lost for f in arrangement.frames]

    def _formats_in_one_piece(
        self, file: StrictTiff, arrangement: Arrangement, formats: Sequence[PageFormat | InputError]
    ) -> list[PageFormat | InputError]:
        """As `_formats_of_frames`, of frames that follow the pixels of one page."""
        number, count = arrangement.frames[0].page, len(arrangement.frames)
        form = formats[number]
        if isinstance(form, InputError):
            return [form]
        page = file.page(self._offsets[number])
        start = page_layout(file, page, number, self._most_bytes).contiguous_offset
        if start is None:
            raise file.damaged(f"{count} frames are promised in one page, which is compressed")
        whole = min(count, (file.size - start) // form.nbytes)
        lost = file.damaged(
            f"{count} frames are promised, the last of which ends at byte "
            f"{start + form.nbytes * count} of a file of {file.size} bytes"
        )
        return [form] * whole + [lost] * (count - whole)

    def _pixel_um_of_tags(self, file: StrictTiff, first: TiffPage) -> float | None:
        """Pixel size in um from the resolution tags, if it is a microscope's and not a printer's."""
        resolution = file.rational(first, _X_RESOLUTION)
        unit = _UM_PER_RESOLUTION_UNIT.get(file.number(first, _RESOLUTION_UNIT, 2))
        um = plausible_pixel_um(unit / resolution if unit and resolution else None)
        return um if um is not None and um < 50 else None


def _imagej_labels(first: TiffPage) -> Sequence[str]:
    """Labels of the slices of an ImageJ stack; empty if it has none."""
    tag = first.tags.get(_IMAGEJ_METADATA)
    labels = tag.value.get("Labels") if tag is not None and isinstance(tag.value, dict) else None
    if isinstance(labels, str):
        labels = [labels]
    return [str(label) for label in labels] if isinstance(labels, (list, tuple)) else ()

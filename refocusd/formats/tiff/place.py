"""Where a frame lies in the files of a dataset."""

from __future__ import annotations

from dataclasses import dataclass

from refocusd.formats.tiff.page import PageFormat


@dataclass(frozen=True, slots=True)
class Place:
    """Where the bytes of one frame lie.

    Parameters
    ----------
    file : str
        Bare name, in the dataset's folder.
    offset : int
        Of the pixels, in bytes.
    format : PageFormat
    metadata_offset, metadata_length : int
        Of its JSON, in bytes.
    """

    file: str
    offset: int
    format: PageFormat
    metadata_offset: int
    metadata_length: int

    @property
    def end(self) -> int:
        """First byte behind the frame's pixels and metadata."""
        return max(self.offset + self.format.nbytes, self.metadata_offset + self.metadata_length)

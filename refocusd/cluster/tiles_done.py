"""Records which tiles of a large image are written, so that the next job continues if one is killed."""

from __future__ import annotations

import contextlib
from pathlib import Path

import msgspec

from refocusd import files
from refocusd.formats.disk_space import write_error
from refocusd.imaging.blur import BlurEstimate
from refocusd.imaging.normalise import CountsRange
from refocusd.transport.messages import FrameFacts


class SlideBegun(msgspec.Struct, frozen=True):
    """What all tiles of an image share.

    Parameters
    ----------
    raw_checksum : int
        Checksum of the whole raw image.
    facts : FrameFacts
        Facts of the sample of its parts.
    sigma_px, uncertainty : float
        The blur that the engine is given, see `BlurEstimate`.
    numerator : int
        Numerator of the reduction, see `TilePlan`.
    offset, scale : float
        The range of counts.
    pedestal : float
    iterations : int
        Parameters of the deconvolution, see `WholeImage`; 0 for a network.
    """

    raw_checksum: int
    facts: FrameFacts
    sigma_px: float
    uncertainty: float
    numerator: int
    offset: float
    scale: float
    pedestal: float = 0.0
    iterations: int = 0

    @property
    def blur(self) -> BlurEstimate:
        """The blur that the engine is given for each tile."""
        return BlurEstimate(self.sigma_px, self.uncertainty, "optics")

    @property
    def counts(self) -> CountsRange:
        """The range of counts that the engine is given for each tile."""
        return CountsRange(self.offset, self.scale)


class TileDone(msgspec.Struct, frozen=True, array_like=True):
    """A region that is written: its corner, and the engine's figures."""

    top: int
    left: int
    clipped: int
    engine_ms: float


class TilesDone:
    """A file of JSON lines: what all tiles share, then each tile once it is written.

    Parameters
    ----------
    path : Path
    raw_checksum : int
        Checksum of the raw image as it is now; tiles of another image do not count.

    Attributes
    ----------
    begun : SlideBegun or None
    tiles : dict of (int, int) to TileDone
        By corner.
    """

    def __init__(self, path: Path, raw_checksum: int) -> None:
        self._path = path
        self.raw_checksum = raw_checksum
        self.begun: SlideBegun | None = None
        self.tiles: dict[tuple[int, int], TileDone] = {}
        # A line may be incomplete: its tile is refocused again.
        with contextlib.suppress(FileNotFoundError, ValueError, msgspec.DecodeError):
            first, *others = path.read_bytes().splitlines()
            begun = msgspec.json.decode(first, type=SlideBegun)
            if begun.raw_checksum == raw_checksum:
                self.begun = begun
                for line in others:
                    with contextlib.suppress(msgspec.DecodeError):
                        tile = msgspec.json.decode(line, type=TileDone)
                        self.tiles[tile.top, tile.left] = tile

    def begin(self, begun: SlideBegun) -> None:
        """Write what all tiles share.

        Raises
        ------
        OutputError
        """
        self.begun, self.tiles = begun, {}
        self._write(msgspec.json.encode(begun), "wb")

    def add(self, tile: TileDone) -> None:
        """Record that a tile is written.

        Raises
        ------
        OutputError
        """
        self.tiles[tile.top, tile.left] = tile
        # On its own line, even if a killed job has left an incomplete one.
        self._write(b"\n" + msgspec.json.encode(tile), "ab")

    def remove(self) -> None:
        """Delete the file: the image is listed, so nothing is left to continue."""
        files.remove(self._path, missing_ok=True)

    def _write(self, text: bytes, mode: str) -> None:
        try:
            with self._path.open(mode) as file:
                file.write(text)
        except OSError as error:
            raise write_error(error, self._path, "noting a tile") from error

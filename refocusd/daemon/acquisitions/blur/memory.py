"""The blur measured on the frames of one microscope, kept from one acquisition to the next.

A JSON file has one entry for each microscope, channel and plane.  The blur measured in an acquisition is
merged with its entry, or replaces it if the two contradict each other.  Only one thread may use a memory.
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from refocusd.files import write_whole
from refocusd.imaging.blur import BlurEstimate, contradict, fused

log = logging.getLogger(__name__)

#: Largest number of entries; beyond it, the oldest is removed.
MOST_ENTRIES = 512
#: Relative difference of the blur between sessions, because the focus differs.
_ANOTHER_SESSION = 0.2
#: Smallest uncertainty: frames of one specimen share its peculiarities, so more of them do not help.
_LEAST_UNCERTAINTY = 0.08


class Kind(msgspec.Struct, frozen=True):
    """Frames that are likely to have one blur.

    Parameters
    ----------
    camera, objective, channel : str
        As Micro-Manager names them; "" if not known.
    pixel_um : float or None
    plane : str
        The plane of a z-stack and the z step; "" without a z-stack.
    """

    camera: str
    objective: str
    channel: str
    pixel_um: float | None
    plane: str


class Remembered(msgspec.Struct, frozen=True):
    """The blur of frames of one kind: width in px, its relative uncertainty, number of frames, and date."""

    kind: Kind
    sigma_px: float
    uncertainty: float
    frames: int
    date: str

    @property
    def blur(self) -> BlurEstimate:
        """The blur to expect in another session."""
        uncertainty = math.hypot(self.uncertainty, _ANOTHER_SESSION)
        return BlurEstimate(self.sigma_px, uncertainty, "memory")


@dataclass(slots=True)
class _Tally:
    """Sums over the frames of one acquisition: natural logarithms of their widths, and uncertainties."""

    frames: int = 0
    logs: float = 0.0
    squares: float = 0.0
    uncertainties: float = 0.0

    def add(self, sigma_px: float, uncertainty: float) -> None:
        width = math.log(sigma_px)
        self.frames += 1
        self.logs += width
        self.squares += width**2
        self.uncertainties += uncertainty

    @property
    def blur(self) -> BlurEstimate:
        mean = self.logs / self.frames
        scatter = max(self.squares / self.frames - mean**2, 0.0)
        of_one = self.uncertainties / self.frames
        uncertainty = math.sqrt(scatter + of_one**2 / self.frames)
        return BlurEstimate(math.exp(mean), max(uncertainty, _LEAST_UNCERTAINTY), "memory")


@dataclass(slots=True)
class BlurMemory:
    """The file, and what was measured in the open acquisitions so far.

    Parameters
    ----------
    path : Path
        Read when first needed, and written when an acquisition has ended; it need not exist.
    """

    path: Path
    _entries: dict[Kind, Remembered] | None = None
    _tallies: dict[str, dict[Kind, _Tally]] = field(default_factory=dict)

    def of(self, kind: Kind) -> Remembered | None:
        """The blur of frames of this kind in earlier sessions."""
        if self._entries is None:
            self._entries = self._read()
        return self._entries.get(kind)

    def add(self, acquisition: str, kind: Kind, sigma_px: float, uncertainty: float) -> None:
        """Take in the blur that was measured in a frame."""
        tallies = self._tallies.setdefault(acquisition, {})
        if kind in tallies or len(tallies) < MOST_ENTRIES:
            tallies.setdefault(kind, _Tally()).add(sigma_px, uncertainty)

    def end(self, acquisition: str) -> None:
        """Store the blurs that were measured in an acquisition."""
        tallies = self._tallies.pop(acquisition, {})
        if not tallies:
            return
        # Another daemon of this user may have written the file meanwhile.
        entries = self._read()
        for kind, tally in tallies.items():
            # Moved to the end, because the oldest entries are removed first.
            entries[kind] = _merged(entries.pop(kind, None), kind, tally)
        self._entries = dict(list(entries.items())[-MOST_ENTRIES:])
        text = msgspec.json.format(msgspec.json.encode(list(self._entries.values())), indent=1)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(self.path, text, b"\n")
        except OSError as error:
            log.warning("the blur measured on frames cannot be saved in %s: %s", self.path, error)

    def _read(self) -> dict[Kind, Remembered]:
        try:
            found = msgspec.json.decode(self.path.read_bytes(), type=list[Remembered])
        except FileNotFoundError:
            return {}
        except (OSError, msgspec.MsgspecError, ValueError) as error:
            log.warning(
                "the blur measured on earlier frames cannot be read from %s: %s", self.path, error
            )
            return {}
        usable = (one for one in found if one.sigma_px > 0 and one.uncertainty > 0)
        return {one.kind: one for one in usable}


def _merged(known: Remembered | None, kind: Kind, tally: _Tally) -> Remembered:
    blur, frames = tally.blur, tally.frames
    if known is not None and contradict(known.blur, blur):
        log.info(
            "the blur of %s is %.1f px: %.1f px, measured on %d frames until %s, is forgotten",
            kind.channel or "frames",
            blur.sigma_px,
            known.sigma_px,
            known.frames,
            known.date,
        )
    elif known is not None:
        blur, frames = fused(known.blur, blur), frames + known.frames
    uncertainty = max(blur.uncertainty, _LEAST_UNCERTAINTY)
    today = datetime.now(UTC).date().isoformat()
    return Remembered(kind, blur.sigma_px, uncertainty, frames, today)

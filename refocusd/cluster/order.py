"""What a job is given, and what it returns: small, in MessagePack."""

from __future__ import annotations

from typing import Self

import msgspec

from refocusd.config import Settings
from refocusd.ledger import Attempt
from refocusd.transport.messages import KnownBlur


class Packed(msgspec.Struct, frozen=True):
    """What travels between this process and the workers of a cluster."""

    def pack(self) -> bytes:
        """Encode it."""
        return msgspec.msgpack.encode(self)

    @classmethod
    def unpack(cls, data: bytes) -> Self:
        """Decode it."""
        return msgspec.msgpack.decode(data, type=cls)


class PositionOrder(Packed, frozen=True):
    """Refocus frames of one position.

    Parameters
    ----------
    raw, output : str
        The raw store, and the refocused one, as every worker sees them.
    position : str
        Path of the image in both.
    keys : list of str
        Canonical axes of the frames.
    acquisition, run : str
    settings : Settings
    first : str
        JSON: the microscope, from the metadata of the first frame.
    profiles : list of str
        Ids of the calibration profiles.
    blurs : dict of str to KnownBlur
        The blur that positions of the plate share, see `refocusd.cluster.plate_blurs`.
    """

    raw: str
    output: str
    position: str
    keys: list[str]
    acquisition: str
    run: str
    settings: Settings
    first: str
    profiles: list[str]
    blurs: dict[str, KnownBlur] = {}


class JobResult(Packed, frozen=True):
    """What became of the frames of one position.

    Parameters
    ----------
    attempts : list of Attempt
        One for each frame that was attempted.
    found : int
        Frames that an earlier job had written before it was killed.
    """

    attempts: list[Attempt]
    found: int

"""What a job is given, and what it returns: small, in MessagePack."""

from __future__ import annotations

from typing import Self

import msgspec

from refocusd.config import Settings
from refocusd.ledger import Attempt
from refocusd.transport.messages import KnownBlur


class Packed(msgspec.Struct, frozen=True):
    """Data that this process and the workers of a cluster exchange."""

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
        Paths of the raw store and of the refocused one, which are the same for every worker.
    position : str
        Path of the image in both stores.
    keys : list of str
        Canonical axes of the frames.
    acquisition, run : str
    settings : Settings
    first : str
        The microscope, from the metadata of the first frame, as JSON.
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
    """The outcome of one position.

    Parameters
    ----------
    attempts : list of Attempt
        One for each frame that was attempted.
    found : int
        Number of frames that an earlier job had written before it was killed.
    """

    attempts: list[Attempt]
    found: int

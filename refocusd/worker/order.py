"""The order that a parent gives to a new worker, as one JSON line on its standard input."""

from __future__ import annotations

import msgspec

from refocusd.config import EngineOptions


class WorkerOrder(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where to connect, under which name, and which engine to build.

    Parameters
    ----------
    endpoint, identity, token : str
        The daemon's address, the worker's name there, and the token that proves its identity.
    models : dict of str to str
        The model of each channel, "" for all others; as in `refocusd.config.Settings`.
    options : EngineOptions
    inline : bool
        Exchange pixels through the socket instead of the ring.
    """

    endpoint: str
    identity: str
    token: str
    models: dict[str, str]
    options: EngineOptions
    inline: bool = False

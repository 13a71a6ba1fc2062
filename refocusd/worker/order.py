"""What a parent tells a new worker, as one JSON line on its standard input.

Not on the command line: other users of the machine can read that, and the
token lets a process take the place of a worker.
"""

from __future__ import annotations

import msgspec

from refocusd.config import EngineOptions


class WorkerOrder(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where to connect, as whom, and which engine to build.

    Parameters
    ----------
    endpoint, identity, token : str
        The daemon's address; the worker's name there, and its proof.
    models : dict of str to str
        By channel, "" for all others; as in `refocusd.config.Settings`.
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

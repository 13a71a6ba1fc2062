"""The announcement of a followed dataset, and what the daemon already knows about it."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Literal

import msgspec

from refocusd import __version__
from refocusd.datasets.dataset import recognised, refuse_another
from refocusd.datasets.identity import derived_id, fingerprint
from refocusd.datasets.output import Output
from refocusd.errors import InputError, TransportError
from refocusd.formats.dataset import Dataset
from refocusd.formats.ndtiff.reader import FULL_RESOLUTION
from refocusd.frame import checksum
from refocusd.profiles.microscope_metadata import first_of
from refocusd.sources.folders.offers import output_beside
from refocusd.transport.client import HEARTBEAT_S, SILENCE_S, Connection
from refocusd.transport.messages import Open, Status, StatusRequest

Standing = Literal["open", "taken", "done"]


def announcement(dataset: Dataset, first: str) -> Open:
    """The announcement of a dataset's acquisition; the frame `first` gives shape and type.

    Raises
    ------
    InputError, OSError
        If that frame cannot be read.
    OutputError
        If the refocused dataset beside it belongs to another recording.
    """
    form = dataset.format_of(first)
    output = Output.at(output_beside(dataset.path))
    if output is not None:
        # The local ledger belongs to the daemon; its copy in the output is enough here.
        recognition = recognised(dataset, output, None, growing=True)
        refuse_another(dataset.path, output, recognition)
    known = output.acquisition if output is not None else ""
    try:
        frame = dataset.read(first)
    except InputError:
        if not known:
            raise
        said = ""  # later frames can be refocused all the same, without a calibration profile
    else:
        known = known or derived_id(dataset, first, pixels=checksum(frame.pixels))
        said = first_of(frame.metadata, frame.axes.get("channel", ""))
    # In these cases the daemon would derive another name from the path.
    named_here = dataset.path.name == FULL_RESOLUTION or dataset.path.is_file()
    return Open(
        acquisition=known,
        name=dataset.name,
        height=form.height,
        width=form.width,
        dtype=form.dtype_name,
        raw=str(dataset.path),
        output=str(output_beside(dataset.path)) if named_here else "",
        summary=json.dumps(dict(dataset.summary), default=str),
        report=True,
        first=said,
        recording=msgspec.json.encode(fingerprint(dataset, [first])).decode(),
    )


def standing(endpoint: str, open_: Open, frames: int, ours: str) -> Standing:
    """What other sources have done with a dataset.

    Parameters
    ----------
    endpoint : str
        The daemon's address.
    open_ : Open
        The announcement of the dataset.
    frames : int
        Number of frames that the dataset has now.
    ours : str
        The acquisition that this follower has opened itself; empty for none.

    Returns
    -------
    {"open", "taken", "done"}
        ``taken`` if another source submits its frames, ``done`` if one has and all of them have
        their final state, otherwise ``open``.

    Raises
    ------
    TransportError
        If the daemon does not answer.
    """
    with Connection(endpoint, "view", version=__version__) as connection:
        connection.welcome(SILENCE_S)
        connection.send(StatusRequest())
        deadline = time.monotonic() + SILENCE_S
        while time.monotonic() < deadline:
            said = connection.receive(HEARTBEAT_S)
            if isinstance(said, Status):
                known = [about for about in said.details if about.raw == open_.raw]
                # A dataset that was deleted with its output may be recorded again in the same place.
                known = [a for a in known if a.state != "ended" or Path(a.output).exists()]
                if any(a.state in ("waiting", "live") and a.id != ours for a in known):
                    return "taken"
                if known and known[-1].state == "ended":
                    counts = known[-1].counts
                    return "done" if not counts.pending and counts.acquired >= frames else "open"
                return "open"
    raise TransportError(f"the daemon at {endpoint} does not answer")

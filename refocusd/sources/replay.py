"""Frames on disk, submitted to a daemon: as if acquired now, or as fast as it takes them."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from refocusd import __version__
from refocusd.errors import InputError, TransportError
from refocusd.formats.dataset import Dataset, Plan
from refocusd.frame import Frame
from refocusd.profiles.microscope_metadata import first_of
from refocusd.transport.messages import Closed, Counts, Open, Opened, Outcome
from refocusd.transport.session import Session, State

__all__ = ["Readable", "recorded_times_s", "replay", "submit_all", "submit_frames"]


class Readable(Protocol):
    """Frames on disk, by canonical axes."""

    def read(self, key: str, /) -> Frame:
        """One frame, read from disk now."""


def recorded_times_s(plan: Plan) -> list[float] | None:
    """Seconds from the first frame to each, or None if the recording does not tell.

    Times that do not increase are no rate (one file of several series, a clock
    that was set): None as well.
    """
    times = plan.elapsed_ms
    if len(times) < 2 or any(t is None for t in times):
        return None
    known = [float(t) for t in times if t is not None]
    steps = np.diff(known)
    if steps.min() < 0 or known[-1] <= known[0]:
        return None
    return [(t - known[0]) / 1e3 for t in known]


def replay(
    recording: Dataset,
    endpoint: str,
    output: Path,
    *,
    times_s: list[float] | None,
    on_outcome: Callable[[Outcome], None] | None = None,
    on_opened: Callable[[Opened], None] | None = None,
) -> Counts:
    """Submit every frame of a recording and wait until all have a final state.

    Parameters
    ----------
    recording : Dataset
    endpoint : str
        The daemon's address.
    output : Path
        Folder of the refocused dataset; must not exist.
    times_s, on_outcome, on_opened
        As in `submit_frames`.

    Returns
    -------
    Counts

    Raises
    ------
    TransportError
        If there is no daemon, or it goes away.
    InputError
        If the daemon refuses the recording.
    """
    form = recording.first_format()
    keys = recording.axes_keys()
    first = recording.read(keys[0])
    open_ = Open(
        acquisition=str(uuid.uuid4()),
        name=recording.name,
        height=form.height,
        width=form.width,
        dtype=form.dtype_name,
        raw="",
        output=str(output.resolve()),
        summary=json.dumps(dict(recording.summary), default=str),
        expected=len(keys),
        report=True,
        first=first_of(first.metadata, first.axes.get("channel", "")),
    )
    closed = submit_frames(
        recording,
        keys,
        endpoint,
        open_,
        acquired=len(keys),
        live=True,
        times_s=times_s,
        on_outcome=on_outcome,
        on_opened=on_opened,
    )
    return closed.counts


def submit_frames(
    frames: Dataset,
    keys: Sequence[str],
    endpoint: str,
    open_: Open,
    *,
    acquired: int,
    live: bool,
    times_s: Sequence[float] | None = None,
    on_outcome: Callable[[Outcome], None] | None = None,
    on_opened: Callable[[Opened], None] | None = None,
) -> Closed:
    """Submit some of the frames of an acquisition, and wait until they have a final state.

    Parameters
    ----------
    frames : Dataset
    keys : sequence of str
        Which of them, by canonical axes, in the order of submission.
    endpoint : str
        The daemon's address.
    open_ : Open
        The announcement.
    acquired : int
        Frames of the whole acquisition.
    live : bool
        Whether they count as frames that come from the microscope.
    times_s : sequence of float, optional
        When to submit each frame, from the first; otherwise as fast as possible.
        A frame whose time has come while the daemon is busy waits for it:
        unlike an acquisition, a recording can.
    on_outcome : callable, optional
        Told every frame's final state, if `open_` asks for reports.
    on_opened : callable, optional
        Told where the frames go and in which run, before the first is sent.

    Returns
    -------
    Closed

    Raises
    ------
    TransportError
        If there is no daemon, or it goes away.
    InputError
        If the daemon refuses the acquisition.
    """
    with Session(endpoint, version=__version__, on_outcome=on_outcome) as session:
        try:
            session.until(lambda: session.state is State.READY)
            session.announce(open_)
            session.until(lambda: session.opened)
            assert session.opened is not None
            if on_opened is not None:
                on_opened(session.opened)
            submit_all(session, frames, keys, live=live, times_s=times_s)
            session.close(acquired)
            session.until(lambda: session.closed)
        except TransportError as error:
            if not session.acquisition:
                raise
            raise TransportError(
                f"{error}; what it had written stays, and `refocusd resume` on the refocused dataset "
                "does the rest"
            ) from error
    assert session.closed is not None
    return session.closed


def submit_all(
    session: Session,
    frames: Readable,
    keys: Sequence[str],
    *,
    live: bool,
    times_s: Sequence[float] | None = None,
    stopped: Callable[[], bool] | None = None,
) -> None:
    """Submit frames over an open session, each as soon as there is credit.

    Frames that cannot be read are named to the daemon as failed.

    Parameters
    ----------
    session, stopped
        See `Session.until`, also for the errors.
    frames, keys, live, times_s
        As in `submit_frames`.
    """
    begun = time.perf_counter()
    for number, key in enumerate(keys):
        if times_s is not None:
            due = begun + times_s[number]
            while (left := due - time.perf_counter()) > 0:
                session.pump(left)
        handled = False
        while not handled:
            session.until(lambda: session.credit > 0, stopped)
            handled = _submit(session, frames, key, live=live)


def _submit(session: Session, frames: Readable, key: str, *, live: bool) -> bool:
    """Submit one frame, or say why it cannot be; False if the socket's queue is full."""
    try:
        frame = frames.read(key)
        taken_ns = time.perf_counter_ns()
        return session.submit(frame.pixels, key, frame.metadata, taken_ns, live=live)
    except (InputError, OSError, ValueError) as error:
        session.miss([key], "failed", f"raw cannot be used: {error}")
        return True

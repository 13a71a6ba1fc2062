"""Frames on disk, submitted to a daemon at given times or as fast as it takes them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Literal

from refocusd import __version__
from refocusd.backoff import persistently
from refocusd.errors import InputError, TransportError
from refocusd.formats.dataset import Dataset
from refocusd.transport.messages import Closed, Open, Opened, Outcome
from refocusd.transport.records import UNFIT
from refocusd.transport.session import Session, State

_Outcome = Literal["submitted", "missed", "again"]


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
        Canonical axes of the frames to submit, in this order.
    endpoint, open_
        The daemon's address, and the announcement.
    acquired : int
        Number of frames of the whole acquisition.
    live : bool
        Whether they count as frames that come from the microscope.
    times_s : sequence of float, optional
        When to submit each frame, in seconds from the start; by default as fast as possible.  If the
        daemon is busy, a frame waits for it: unlike an acquisition, a recording can.
    on_outcome : callable, optional
        Called with every frame's final state, if `open_` asks for reports.
    on_opened : callable, optional
        Called before the first frame is sent, with the output and the run.

    Raises
    ------
    TransportError
        If there is no daemon, or it goes away.
    InputError
        If the daemon refuses the acquisition.
    """
    with Session(endpoint, version=__version__, on_outcome=on_outcome) as session:
        session.until(lambda: session.state is State.READY)
        session.announce(open_)
        with _saying_how_to_resume():
            session.until(lambda: session.opened)
            assert session.opened is not None
            if on_opened is not None:
                on_opened(session.opened)
            submit_all(session, frames, keys, live=live, times_s=times_s)
            session.close(acquired)
            session.until(lambda: session.closed)
    assert session.closed is not None
    return session.closed


@contextmanager
def _saying_how_to_resume() -> Iterator[None]:
    try:
        yield
    except TransportError as error:
        raise TransportError(
            f"{error}; what it had written stays, and `refocusd resume` on the refocused dataset does "
            "the rest"
        ) from error


def submit_all(
    session: Session,
    frames: Dataset,
    keys: Sequence[str],
    *,
    live: bool,
    times_s: Sequence[float] | None = None,
    stopped: Callable[[], bool] | None = None,
) -> None:
    """Submit frames over an open session, each as soon as there is credit.

    Frames that cannot be read are reported to the daemon as failed; if the reason may be temporary,
    reading is tried again before that.

    Parameters
    ----------
    session, stopped
        See `Session.until`, also for the errors.
    frames, keys, live, times_s
        As in `submit_frames`.
    """
    begun = time.perf_counter()
    # After a frame that could not be read, the next is not tried again: the disk may fail for good.
    patient = True
    for number, key in enumerate(keys):
        if times_s is not None:
            due = begun + times_s[number]
            while (left := due - time.perf_counter()) > 0:
                session.pump(left)
        outcome: _Outcome = "again"
        while outcome == "again":
            if not session.credit:
                # On Windows a folder cannot be renamed while a file in it is open.
                frames.close()
            session.until(lambda: session.credit > 0, stopped)
            outcome = _submit(session, frames, key, live=live, patient=patient)
        patient = outcome == "submitted"


def _submit(session: Session, frames: Dataset, key: str, *, live: bool, patient: bool) -> _Outcome:
    """Submit one frame, or say why it cannot be; ``again`` if the socket's queue is full."""

    def wait(seconds: float) -> None:
        # On Windows others cannot change a file that is open; meanwhile the daemon must hear from us.
        frames.close()
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            session.pump(left)

    try:
        frame = persistently(lambda: frames.read(key), wait) if patient else frames.read(key)
        taken_ns = time.perf_counter_ns()
        taken = session.submit(frame.pixels, key, frame.metadata, taken_ns, live=live)
    except (InputError, OSError, ValueError) as error:
        session.miss([key], "failed", f"{UNFIT}: {error}")
        return "missed"
    return "submitted" if taken else "again"

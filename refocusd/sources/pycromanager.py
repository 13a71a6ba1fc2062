"""The hooks of a pycromanager acquisition.

One changed line in a user's script::

    with Acquisition(**refocusd.Source().hooks(directory="data", name="cells")) as acq:
        acq.acquire(events)

On the Python backend, frames are taken in `image_process_fn`, where they are in
memory already.  On the Java backend, that hook's frames pass a bridge of about
100 MB/s; there, `image_saved_fn` notes where a frame is on disk, and the daemon
reads it there.  No pixels pass through the user's process, unless the daemon does
not see that disk.  Frames that Java keeps only in memory come over the bridge.

A hook must never raise, wait or return anything unexpected: an exception in
`image_saved_fn` kills its thread, and the acquisition hangs after 100 more
frames; any return value of `image_process_fn` but ``(image, metadata)`` or
None hangs it at once.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from inspect import signature
from pathlib import Path
from typing import Any

from refocusd.datasets.judged import JudgedFrame, judged_frames
from refocusd.errors import ConfigError
from refocusd.frame import Axes, canonical_axes
from refocusd.sources.cameras import AXIS, Cameras, DistinctAxes, names_by_core
from refocusd.sources.feed import Feed
from refocusd.sources.focus_hook import FocusHook
from refocusd.sources.focus_limits import FocusLimits
from refocusd.sources.raw_reader import full_resolution
from refocusd.transport.client import default_endpoint
from refocusd.transport.messages import Counts

log = logging.getLogger(__name__)

Hook = Callable[..., Any]

CAMERAS = (
    "several cameras give frames with the same axes, of which raw keeps only the last: that one is "
    "refocused, and the others are skipped; to keep all, give each camera its own axes in an "
    "image_process_fn"
)
RETAKEN = (
    "a frame has the axes of an earlier one, and raw keeps only the last: the first is refocused "
    "live, later ones are skipped; to keep all, give frames that are taken again an axis of their own"
)


class Source:
    """Gives one pycromanager `Acquisition` its hooks.

    Parameters
    ----------
    endpoint : str, optional
        The daemon's address; by default ``REFOCUSD_ENDPOINT`` or ``tcp://127.0.0.1:8751``.
    output : str, optional
        Folder for the refocused dataset; by default ``<raw>_refocused``.
        Needed for acquisitions that keep no raw data (``directory=None``).
    expected : int, optional
        Number of frames that will come, so that the daemon can check the free disk space.
    buffer_mib : int
        Frames held here while the daemon is busy, MiB.  When it is full, the
        oldest are left to be caught up from raw.
    correct_focus : FocusLimits, optional
        Move the focus stage by the daemon's advice, within these limits (Python
        backend only; the daemon must have ``--correct-focus`` as well).

    Without a daemon, the acquisition runs and saves raw as usual.
    """

    def __init__(
        self,
        endpoint: str | None = None,
        *,
        output: str = "",
        expected: int = 0,
        buffer_mib: int = 128,
        correct_focus: FocusLimits | None = None,
    ) -> None:
        self.focus = FocusHook(correct_focus) if correct_focus is not None else None
        self._feed = Feed(
            endpoint or default_endpoint(),
            output=output,
            expected=expected,
            buffer_nbytes=buffer_mib << 20,
            on_advice=self.focus.advise if self.focus else None,
            on_gone=self.focus.withdraw if self.focus else None,
        )
        self._used = False

    def hooks(
        self,
        directory: str | None = None,
        name: str | None = "acquisition",
        *,
        image_process_fn: Hook | None = None,
        image_saved_fn: Hook | None = None,
        notification_callback_fn: Hook | None = None,
        java: bool | None = None,
        acquisition: type | None = None,
        **others: Any,
    ) -> dict[str, Any]:
        """Keyword arguments for `pycromanager.Acquisition`, your own hooks included.

        Parameters
        ----------
        directory, name
            As for `Acquisition`.
        image_process_fn, image_saved_fn, notification_callback_fn : callable, optional
            Your own hooks; they run as they would without refocusd.  What
            `image_process_fn` returns is what is refocused; what it discards
            is not.
        java : bool, optional
            Whether the backend is Java; found out if not given.
        acquisition : type, optional
            Class for which the arguments are, if it is not `Acquisition`: pycromanager's
            `XYTiledAcquisition`, `ExploreAcquisition` or `MagellanAcquisition`, which take fewer.
        **others
            Passed on to `Acquisition` as they are.

        Raises
        ------
        ConfigError
            If this source has served an acquisition already, or `acquisition` does not take
            one of the arguments.
        """
        if self._used:
            raise ConfigError("a Source serves one acquisition; make another for the next")
        arguments = {
            "directory": directory,
            "name": name,
            **others,
            "image_process_fn": image_process_fn,
            "image_saved_fn": image_saved_fn,
            "notification_callback_fn": notification_callback_fn,
        }
        untaken = set() if acquisition is None else _untaken(acquisition, arguments)
        self._used = True
        java = _runs_on_java(acquisition) if java is None else java
        # "" keeps frames in memory, as None does; the Java backend saves them in its current folder,
        # and Micro-Magellan in the one that its window names.
        has_raw = (directory is not None or "directory" in untaken) if java else bool(directory)
        if not (has_raw or self._feed.output):
            log.warning(
                "this acquisition keeps no raw data and names no output: it is not refocused; give "
                "Acquisition a directory, or Source an output"
            )
        self._feed.begin(name or "acquisition", has_raw=has_raw)
        arguments |= self._around(arguments, java=java)
        return {key: given for key, given in arguments.items() if key not in untaken}

    def _around(self, own: dict[str, Any], *, java: bool) -> dict[str, Hook | None]:
        """Our hooks, which call the user's own."""
        hooks: dict[str, Hook | None] = {
            "image_saved_fn": _saved_hook(self._feed, own["image_saved_fn"], read=java),
            "notification_callback_fn": _notification_hook(
                self._feed, own["notification_callback_fn"]
            ),
        }
        if java:
            if self.focus is not None:
                log.warning("on the Java backend the focus is not corrected")
            return hooks
        process = _process_hook(self._feed, own["image_process_fn"], self.focus)
        if self.focus is not None:
            hooks["post_hardware_hook_fn"] = self.focus.around(own.get("post_hardware_hook_fn"))
        return hooks | {"image_process_fn": process}

    def wait(self, timeout_s: float | None = None) -> Counts | None:
        """Wait until every frame of the acquisition has a final state.

        Call it after the acquisition.  Returns the daemon's counts; None if no
        daemon was there, or it was not done in time.
        """
        return self._feed.wait(timeout_s)

    def untrusted(self, *, doubtful: bool = False) -> list[JudgedFrame]:
        """Frames whose result is not trusted, the worst first: those to image again.

        Call it after `wait`.

        Parameters
        ----------
        doubtful : bool
            Include those that are doubtful.

        Returns
        -------
        list of JudgedFrame
            With the axes and the reasons; empty if no daemon refocused this acquisition.

        Raises
        ------
        InputError, LedgerError
            If the refocused dataset was moved, or its ledger is damaged.
        """
        if not self._feed.refocused:
            return []
        verdicts = ("untrusted", "doubtful") if doubtful else ("untrusted",)
        return judged_frames(Path(self._feed.refocused), verdicts)


def _runs_on_java(acquisition: type | None) -> bool:
    from mmpycorex import is_pymmcore_active
    from pycromanager import JavaBackendAcquisition

    if acquisition is not None and issubclass(acquisition, JavaBackendAcquisition):
        return True
    return not is_pymmcore_active()


def _untaken(acquisition: type, arguments: dict[str, Any]) -> set[str]:
    """Arguments of `Acquisition` that another class does not take.

    Raises
    ------
    ConfigError
        If the user gives one of them.
    """
    parameters = signature(acquisition).parameters
    takes_any = any(each.kind is each.VAR_KEYWORD for each in parameters.values())
    untaken = set() if takes_any else set(arguments) - set(parameters)
    given = sorted(name for name in untaken - {"name"} if arguments[name] is not None)
    if given:
        raise ConfigError(f"{acquisition.__name__} takes no {' and no '.join(given)}: leave it out")
    return untaken


def _like(own: Hook | None, work: Hook) -> Hook:
    """`work` with as many parameters as the user's hook: pycromanager counts them."""
    if own is not None and len(signature(own).parameters) == 3:
        return lambda first, second, event_queue: work(first, second, event_queue)
    return lambda first, second: work(first, second)


def _process_hook(feed: Feed, own: Hook | None, focus: FocusHook | None) -> Hook:
    # pycromanager may assign the frames of a sequence to the wrong events, so that even the same
    # camera and axes can come twice.
    cameras, distinct = Cameras(names_by_core), DistinctAxes()

    def process(*arguments: Any) -> Any:
        if focus is not None:
            focus.note(arguments[1])
        given = dict(arguments[1].get("Axes") or {})
        result = arguments if own is None else own(*arguments)
        if result is not None:
            taken_ns = time.perf_counter_ns()
            # The core makes a new array for each frame.  Without a hook of the user's own, only
            # pycromanager and its writer have it, and they only read it.
            keep = own is None
            feed.safely(lambda: _take(feed, cameras, distinct, given, result, taken_ns, keep))
        return result

    return _like(own, process)


def _take(
    feed: Feed,
    cameras: Cameras,
    distinct: DistinctAxes,
    given: dict[str, Any],
    result: Any,
    taken_ns: int,
    keep: bool,
) -> None:
    """Take a frame, unless raw will replace it by another one with the same axes."""
    image, metadata = result
    axes = metadata["Axes"]
    # A user's hook may give the cameras axes of their own.
    camera = cameras.camera_of(metadata) if axes == given else ""
    if camera and feed.has_raw and cameras.others_come(canonical_axes(axes)):
        feed.refuse(axes, distinct.of({**axes, AXIS: camera}), CAMERAS)
        return
    if camera and not feed.has_raw:
        axes = {**axes, AXIS: camera}
    if _is_retaken(feed, axes, chosen := distinct.of(axes)):
        return
    feed.take(image, {**metadata, "Axes": chosen}, taken_ns, keep=keep)


def _is_retaken(feed: Feed, axes: Axes, chosen: Axes) -> bool:
    """Whether an earlier frame had the same axes, so that this one must be left out."""
    retaken = feed.has_raw and chosen is not axes
    if retaken:
        feed.refuse(axes, chosen, RETAKEN)
    return retaken


def _saved_hook(feed: Feed, own: Hook | None, *, read: bool) -> Hook:
    distinct, monitor = DistinctAxes(), _Monitor(feed)

    def saved(*arguments: Any) -> None:
        axes, dataset = arguments[0], full_resolution(arguments[1])
        feed.safely(monitor.watch)
        feed.safely(lambda: feed.saved(dataset, axes))
        if read:
            taken_ns = time.perf_counter_ns()
            feed.safely(lambda: _take_from_java(feed, distinct, dataset, axes, taken_ns))
        if own is not None:
            try:
                own(*arguments)
            except BaseException:
                monitor.killed = True
                raise

    return _like(own, saved)


class _Monitor:
    """Notices the end of an acquisition by the end of the thread that reports saved frames.

    Not every acquisition notifies of its end, and if a user's own hook raises, we are not notified.
    """

    def __init__(self, feed: Feed) -> None:
        self._feed = feed
        self._watched = False
        #: Whether the user's own hook has raised, which ends the thread before the acquisition.
        self.killed = False

    def watch(self) -> None:
        """Watch the current thread; called in the one that reports saved frames."""
        thread = threading.current_thread()
        if self._watched or thread is threading.main_thread():
            return
        self._watched = True

        def end() -> None:
            thread.join()
            if not self.killed:
                self._feed.end()

        threading.Thread(target=end, name="refocusd-feed-end", daemon=True).start()


def _take_from_java(
    feed: Feed, distinct: DistinctAxes, dataset: Any, axes: dict[str, Any], taken_ns: int
) -> None:
    if _is_retaken(feed, axes, chosen := distinct.of(axes)):
        return
    if feed.has_raw:
        feed.take_saved(dataset, axes, taken_ns)
    else:
        metadata = {**dataset.read_metadata(**axes), "Axes": chosen}
        feed.take(dataset.read_image(**axes), metadata, taken_ns, keep=True)


def _notification_hook(feed: Feed, own: Hook | None) -> Hook:
    from pycromanager.acquisition.acq_future import AcqNotification

    def notified(notification: Any) -> None:
        if AcqNotification.is_data_sink_finished_notification(notification):
            feed.safely(feed.end)
        if own is not None:
            own(notification)

    return notified
